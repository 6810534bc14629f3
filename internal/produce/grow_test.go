package produce

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill/internal/source/mem"
)

// An input that was stopped and goes on after its topic has grown stays where it was begun,
// row by row; one that is begun later is dealt over all partitions.
func TestGoesOnAfterTheTopicGrew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := mem.New(mem.Config{})
		defer s.Close()
		n := rapid.IntRange(1, 400).Draw(rt, "rows")
		key := rapid.SampledFrom([]string{"", "user"}).Draw(rt, "key")
		cfg := Config{Topic: "t", Files: []string{write(t, "a.csv", numbered(n))}, Partitions: rapid.IntRange(1, 4).Draw(rt, "partitions"), KeyColumn: key, BatchRows: rapid.IntRange(1, 50).Draw(rt, "batch")}
		whole := cfg
		whole.Topic = "whole"
		if _, err := Run(t.Context(), s, whole); err != nil {
			rt.Fatal(err)
		}
		flaky := &failing{Stream: s, left: rapid.IntRange(0, 20).Draw(rt, "appends")}
		if _, err := Run(t.Context(), flaky, cfg); err != nil && flaky.left >= 0 {
			rt.Fatal(err)
		}
		top, err := s.Open(t.Context(), "t")
		if err != nil {
			rt.Fatal(err)
		}
		grown := cfg.Partitions
		for range rapid.IntRange(1, 2).Draw(rt, "times") {
			grown += rapid.IntRange(1, 3).Draw(rt, "more")
			if err := top.Grow(t.Context(), grown); err != nil {
				rt.Fatal(err)
			}
		}
		begun, err := top.Info(t.Context())
		if err != nil {
			rt.Fatal(err)
		}
		later := cfg
		later.Partitions = 0
		res, err := Run(t.Context(), s, later)
		if err != nil || res.Rows+res.Skipped != int64(n) {
			rt.Fatalf("%+v %v", res, err)
		}
		got := ids(t, s, "t")
		once(t, got, n)
		if begun.Next.Rows() > 0 {
			for p, want := range ids(t, s, "whole") {
				if fmt.Sprint(got[p]) != fmt.Sprint(want) {
					rt.Fatalf("partition %d holds %v, without growing %v", p, got[p], want)
				}
			}
		} else if key == "" && n >= grown {
			for p, rows := range got {
				if len(rows) == 0 {
					rt.Fatalf("a new input leaves partition %d empty", p)
				}
			}
		}
		// Done is done.
		if res, err = Run(t.Context(), s, later); err != nil || res.Rows != 0 || res.Skipped != int64(n) {
			rt.Fatalf("again: %+v %v", res, err)
		}
	})
}
