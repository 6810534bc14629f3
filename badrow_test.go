package tidemill

import (
	"encoding/json"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestBadBudget(t *testing.T) {
	for _, c := range []struct {
		text      string
		bad, read int64
		ok        bool
	}{
		{"1", 1, 1, true}, {"1", 2, 1 << 40, false}, {"1000", 1000, 1000, true}, {"1_000", 1001, 1, false},
		{"1%", 10, 10, true}, {"1%", 11, 10, false}, {"1%", 11, 1099, false}, {"1%", 11, 1100, true},
		{" 0.5 % ", 50, 10_000, true}, {"0.5%", 51, 10_000, false}, {"100%", 5000, 5000, true},
	} {
		b, err := ParseBadBudget(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Allows(c.bad, c.read); got != c.ok {
			t.Errorf("%s: %d of %d rows allowed: %v", c.text, c.bad, c.read, got)
		}
	}
	for _, text := range []string{"", "0", "-1", "x", "1.5", "0%", "101%", "-1%", "NaN%", "%", "Inf%", "9999999999999999999"} {
		if b, err := ParseBadBudget(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is %v, %v", text, b, err)
		}
	}
	// As JSON it is what older specs say, so that their hash stays.
	if j, err := json.Marshal(TrainSpec{MaxBadRows: BadBudget{Rows: 1000}}); err != nil || string(j) != `{"max_bad_rows":1000}` {
		t.Errorf("%s %v", j, err)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := BadBudget{Rows: rapid.Int64Range(1, 1<<60).Draw(t, "rows")}
		if rapid.Bool().Draw(t, "share") {
			b = BadBudget{Fraction: float64(rapid.IntRange(1, 100_000).Draw(t, "share")) / 1000 / 100}
		}
		j, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var back BadBudget
		if err := json.Unmarshal(j, &back); err != nil || back != b {
			t.Fatalf("%v as %s is %v, %v", b, j, back, err)
		}
	})
}

func FuzzParseBadBudget(f *testing.F) {
	for _, s := range []string{"1", "1%", "0.1 %", "1_0", "-", "1e3%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBadBudget(s)
		if err != nil {
			return
		}
		if (b.Rows > 0) == (b.Fraction > 0) || b.Rows < 0 || b.Fraction < 0 || b.Fraction > 1 {
			t.Fatalf("%q is %+v", s, b)
		}
	})
}
