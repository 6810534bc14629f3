package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestFindsTargets(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"-list", "-skip", "Budget", "github.com/tidemill/tidemill"}, &out); code != 0 {
		t.Fatalf("exit %d:\n%s", code, &out)
	}
	if got := out.String(); !strings.Contains(got, "FuzzParseProtocols") || strings.Contains(got, "FuzzParseBadBudget") {
		t.Errorf("the targets of the module's root, without one, are\n%s", got)
	}
	out.Reset()
	if code := run(t.Context(), []string{"-list", "-run", "^FuzzNothing$", "github.com/tidemill/tidemill"}, &out); code != 1 {
		t.Errorf("no target at all: exit %d, not 1", code)
	}
	if code := run(t.Context(), []string{"-run", "("}, &out); code != 2 {
		t.Errorf("a broken expression: exit %d, not 2", code)
	}
}

func TestRead(t *testing.T) {
	exit := errors.New("exit status 1")
	clean := "fuzz: elapsed: 3s, execs: 1200 (400/sec), new interesting: 7 (total: 19)\nfuzz: elapsed: 6s, execs: 2400 (400/sec), new interesting: 9 (total: 21)\nPASS\n"
	for _, c := range []struct {
		name, told string
		err        error
		failed     bool
	}{
		{"clean", clean, nil, false},
		{"failed", clean + "--- FAIL: FuzzX (0.01s)\n    Failing input written to testdata/fuzz/FuzzX/1\n", exit, true},
		{"only late", clean + "--- FAIL: FuzzX (60.02s)\n    context deadline exceeded\n", exit, false},
		{"failed on a deadline", clean + "    context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzX/1\n", exit, true},
		{"does not build", "x.go:1: undefined: y\n", exit, true},
		{"not there", "testing: warning: no fuzz tests to fuzz\nPASS\n", nil, true},
	} {
		r := read(c.told, c.err)
		if r.failed != c.failed {
			t.Errorf("%s: failed is %v", c.name, r.failed)
		}
		if strings.HasPrefix(c.told, clean) && (r.tried != "2400" || r.interesting != "9") {
			t.Errorf("%s: %s tried, %s interesting", c.name, r.tried, r.interesting)
		}
	}
}
