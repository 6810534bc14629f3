package tidemill

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Two ranges meet exactly when some version is in both, whoever asks, and what is written is
// read again.
func TestProtocols(t *testing.T) {
	draw := func(t *rapid.T, name string) Protocols {
		low := rapid.IntRange(1, 6).Draw(t, name+" from")
		return Protocols{low, low + rapid.IntRange(0, 3).Draw(t, name+" more")}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		best := 0
		for v := 1; v < 12; v++ {
			if v >= a.Min && v <= a.Max && v >= b.Min && v <= b.Max {
				best = v
			}
		}
		got, ok := a.Common(b)
		if ok != (best > 0) || ok && got != best {
			t.Fatalf("%v and %v: %d, %v, want %d", a, b, got, ok, best)
		}
		ab, ba := a.Meet("b", b), b.Meet("a", a)
		if (ab == nil) != ok || (ba == nil) != ok {
			t.Fatalf("%v and %v: %v, %v", a, b, ab, ba)
		}
		if !ok && (!errors.Is(ab, ErrInvalid) || !strings.Contains(ab.Error(), a.String()) || !strings.Contains(ab.Error(), b.String())) {
			t.Fatalf("%v does not name %v and %v", ab, a, b)
		}
		if again, err := ParseProtocols(a.String()); err != nil || again != a {
			t.Fatalf("%v was read as %v, %v", a, again, err)
		}
	})
	if err := (Protocols{1, 1}).Meet("node b", Protocols{2, 3}); err == nil || !strings.Contains(err.Error(), "upgrade this node first") {
		t.Error(err)
	}
	for _, s := range []string{"", "0", "2-1", "1-1", "-1", "1-", "01", "1-2-3", "x", "99999"} {
		if p, err := ParseProtocols(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q was read as %v, %v", s, p, err)
		}
	}
}

func FuzzParseProtocols(f *testing.F) {
	f.Add("1")
	f.Add("1-2")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseProtocols(s)
		if err == nil && (p.Validate() != nil || p.String() != s) {
			t.Fatalf("%q was read as %v", s, p)
		}
	})
}
