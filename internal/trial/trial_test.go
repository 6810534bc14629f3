package trial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
)

// TestMain is also the children that tests start.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		child(os.Args[2])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func child(how string) {
	switch how {
	case "try":
		if err := Child(os.Stdin, os.Stdout); err != nil {
			os.Exit(3)
		}
	case "abort":
		_, _ = io.Copy(io.Discard, os.Stdin)
		fmt.Fprintln(os.Stderr, "F0000 shape.cc:7] Check failed: rank >= 0 (-31 vs. 0) rank must not be negative")
		fmt.Fprintln(os.Stderr, "*** stack trace ***")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "deaf": // ends before it has read all
		fmt.Fprintln(os.Stderr, "out of memory")
		os.Exit(2)
	case "liar":
		fmt.Print("{\"done\": fal")
	case "flood":
		for range 1000 {
			fmt.Fprint(os.Stderr, strings.Repeat("x", 1000))
		}
		os.Exit(1)
	case "hang":
		select {}
	}
}

func run(ctx context.Context, t *testing.T, how string) error {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Run(ctx, program, []string{"child", how}, &tidemill.Spec{Model: "m"}, nil, make([]byte, 1<<20))
}

func TestRunOutlivesItsChild(t *testing.T) {
	for how, want := range map[string]string{
		"abort": "Check failed: rank >= 0 (-31 vs. 0) rank must not be negative",
		"deaf":  "out of memory",
		"liar":  "it said nothing",
		"flood": "xxx",
		"try":   "", // of no schema, whatever it says
	} {
		err := run(t.Context(), t, how)
		if !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one of kind ErrInvalid with %q", how, err, want)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", how, len(err.Error()))
		}
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := run(ctx, t, "hang"); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if err := Run(t.Context(), "/no/such/program", nil, &tidemill.Spec{}, nil, nil); !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

func FuzzChild(f *testing.F) {
	question := func(head string, graph string) []byte {
		return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(head))), head...), graph...)
	}
	f.Add(question(`{"spec":{},"schema":""}`, "PK"))
	f.Add(question(`{"spec":{"engine":"tensorflow","architecture":{"kind":"graph"}}}`, ""))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		var out strings.Builder
		if err := Child(strings.NewReader(string(data)), &out); err != nil || !strings.Contains(out.String(), `"done":true`) {
			t.Errorf("answer %q, error %v", out.String(), err)
		}
	})
}
