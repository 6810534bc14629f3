package ps

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

// TestDirtyIsASet compares dirty with a map.
func TestDirtyIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d dirty
		want := map[int]bool{}
		row := rapid.IntRange(0, 700)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			default:
				r := row.Draw(t, "row")
				if d.add(r) == want[r] {
					t.Fatalf("add(%d) of a set that holds it: %v", r, want[r])
				}
				want[r] = true
			case 8:
				var o dirty
				for _, r := range rapid.SliceOfN(row, 0, 20).Draw(t, "merged") {
					o.add(r)
					want[r] = true
				}
				d.merge(&o)
			case 9:
				was := d.take()
				if got := slices.Collect(was.rows()); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
					t.Fatalf("took %v of %v", got, want)
				}
				clear(want)
			}
			if got := slices.Collect(d.rows()); !slices.Equal(got, slices.Sorted(maps.Keys(want))) || d.len() != len(want) {
				t.Fatalf("%d rows %v, want %v", d.len(), got, want)
			}
			if r := row.Draw(t, "probe"); d.has(r) != want[r] {
				t.Fatalf("has(%d) = %v", r, d.has(r))
			}
		}
	})
}

// TestTablesTrackWhatChanges: several sets watch one table, each since its own moment.
func TestTablesTrackWhatChanges(t *testing.T) {
	rule, err := optim.New(tidemill.OptimizerChoice{Kind: tidemill.SGD, LR: 0.1})
	if err != nil {
		t.Fatal(err)
	}
	tab := newTable(snapshot.TableLayout{TableSpec: tidemill.TableSpec{Name: "t", Dim: 1}}, rule, 0, 1, 0, 1)
	apply := func(ids ...uint64) {
		for _, id := range ids {
			tab.apply(id, []float32{1}, 1, 0, 1)
		}
	}
	ids := func(c *changes) (out []uint64) {
		for row := range c.rows.rows() {
			out = append(out, tab.id(row))
		}
		slices.Sort(out)
		return out
	}
	var early, late changes
	tab.track(&early)
	apply(1, 2, 3)
	tab.track(&late)
	apply(2, 4)
	if got := ids(&early); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Errorf("the early set has %v", got)
	}
	if got := ids(&late); !slices.Equal(got, []uint64{2, 4}) {
		t.Errorf("the late set has %v", got)
	}
	tab.untrack(&early)
	apply(5)
	if early.len() != 4 || late.len() != 3 {
		t.Errorf("%d and %d rows after the early set left", early.len(), late.len())
	}
}
