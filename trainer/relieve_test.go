package trainer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// drawLoads are loads of which some are far hotter than others.
func drawLoads(t *rapid.T, shards int) []int64 {
	load := make([]int64, shards)
	for s := range load {
		load[s] = rapid.Int64Range(0, 1000).Draw(t, "load")
		if rapid.IntRange(0, 5).Draw(t, "hot") == 0 {
			load[s] *= rapid.Int64Range(1, 300).Draw(t, "times")
		}
	}
	return load
}

func sums(load []int64, owners []string) map[string]int64 {
	sum := map[string]int64{}
	for s, m := range owners {
		sum[m] += load[s]
	}
	return sum
}

// On loads that stay the same each move takes load off the more loaded of two, nobody is given
// more shards than there is room for or left with none, no state comes back, and it ends.
func TestRelieveConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, 80).Draw(t, "shards")
		members := names("m", rapid.IntRange(1, 8).Draw(t, "members"))
		weight := map[string]int{}
		for _, m := range members {
			weight[m] = rapid.IntRange(1, 3).Draw(t, "weight")
		}
		load := drawLoads(t, shards)
		owners := Place(shards, members, weight, nil)
		seen := map[string]bool{}
		for round := 0; ; round++ {
			if at := fmt.Sprint(owners); seen[at] {
				t.Fatalf("round %d has been there before: %v", round, owners)
			} else {
				seen[at] = true
			}
			moves := Relieve(load, owners, members, weight)
			if !slices.Equal(moves, Relieve(load, owners, rapid.Permutation(members).Draw(t, "order"), weight)) {
				t.Fatal("the order in which members are named makes a difference")
			}
			if len(moves) > mostMoves {
				t.Fatalf("%d moves at a time", len(moves))
			}
			if len(moves) == 0 {
				return
			}
			for _, m := range moves {
				from := owners[m.Shard]
				per := func(id string) float64 { return float64(sums(load, owners)[id]) / float64(weight[id]) }
				before, was := per(from), per(m.To)
				owners[m.Shard] = m.To
				if after := max(per(from), per(m.To)); m.To == from || was >= before || after >= before {
					t.Fatalf("shard %d from %s at %v to %s at %v: %v afterwards", m.Shard, from, before, m.To, was, after)
				}
				if held := loads(owners); held[from] == 0 {
					t.Fatalf("%s has no shard left", from)
				}
			}
			if round > 1000 {
				t.Fatal("no end")
			}
		}
	})
}

// Nothing moves as long as nobody carries clearly more than a share, and where no move helps.
func TestRelieveLeavesAlone(t *testing.T) {
	two := []string{"a", "b"}
	four := []string{"a", "a", "b", "b"}
	const k = 10_000
	for _, x := range []struct {
		name    string
		load    []int64
		owners  []string
		members []string
		weight  map[string]int
	}{
		{"one shard is all the load", []int64{9 * k, 0, 0, 0}, four, two, nil},
		{"one shard is most of it", []int64{90 * k, 1, 1, 1}, four, two, nil},
		{"a fifth more than its share", []int64{6 * k, 6 * k, 5 * k, 3 * k}, four, two, nil},
		{"nobody is busy", []int64{40, 40, 0, 0}, four, two, nil},
		{"nobody else is there", []int64{4 * k, 4 * k, 0, 0}, []string{"a", "a", "a", "a"}, two[:1], nil},
		{"an owner that leaves", []int64{4 * k, 4 * k, 0, 0}, four, []string{"b", "c"}, nil},
		{"a heavier server has its share", []int64{3 * k, 3 * k, k, k}, four, two, map[string]int{"a": 3}},
		{"loads of another job", []int64{4 * k}, four, two, nil},
	} {
		if m := Relieve(x.load, x.owners, x.members, x.weight); len(m) > 0 {
			t.Errorf("%s: %v", x.name, m)
		}
	}
	if m := Relieve([]int64{4 * k, 4 * k, 0, 0}, four, two, nil); !slices.Equal(m, []Move{{0, "b"}}) {
		t.Errorf("two hot shards on one of two: %v", m)
	}
}

// Shards move once the loads were out of balance for several reports, not while any are
// moving, and stay moved until members change.
func TestLoadMovesShards(t *testing.T) {
	c := NewCore(CoreConfig{Batch: 10, Every: 1000, Partitions: 1, Shards: 8})
	var moves []Effect
	var step func(ev Event)
	step = func(ev Event) {
		for _, e := range slices.Clone(c.Step(&ev)) {
			switch e.Kind {
			case WriteAssignment:
				step(Event{Kind: Assigned, Assignment: e.Assignment})
			case CopyShard, SettleShard:
				moves = append(moves, e)
			}
		}
	}
	join := func() {
		a := c.Assignment()
		step(Event{Kind: ReportIn, Report: wire.Report{Generation: a.Generation, Epoch: a.Partitions[0].Epoch, Routes: a.Routes(), Joined: true}})
	}
	step(Event{Kind: Lead, Assignment: tidemill.Assignment{Job: "j", Cut: tidemill.Cut{0}}})
	step(Event{Kind: Members, Workers: map[string]int{"w": 1}, PS: []string{"p1", "p2"}})
	step(Event{Kind: Recovered, Number: 1, Assignment: tidemill.Assignment{Cut: tidemill.Cut{0}}})
	join()
	hot := c.Assignment().Shards[0].Member
	load := make([]int64, 8)
	for s, o := range c.Assignment().Shards {
		if load[s] = 1; o.Member == hot {
			load[s] = 10_000
		}
	}
	report := func() {
		a := c.Assignment()
		step(Event{Kind: Loaded, Routes: a.Routes(), Loads: load})
	}
	even := slices.Repeat([]int64{10_000}, 8)
	for range patience - 1 {
		report()
	}
	a := c.Assignment()
	step(Event{Kind: Loaded, Routes: a.Routes(), Loads: even}) // which begins the count again
	for range patience - 1 {
		report()
	}
	if len(moves) > 0 {
		t.Fatalf("moved too soon: %v", moves)
	}
	step(Event{Kind: Loaded, Routes: a.Routes() - 1, Loads: load}) // of an older map: it begins again too
	for range patience {
		report()
	}
	moved := 0
	for len(moves) > 0 {
		m := moves[0]
		moves = moves[1:]
		for range 2 * patience { // measured while they move
			report()
		}
		if m.Kind == CopyShard {
			step(Event{Kind: Copied, Number: m.Number})
			continue
		}
		moved++
		step(Event{Kind: Settled, Number: m.Number})
		join()
	}
	if moved != 2 {
		t.Fatalf("%d of four hot shards have moved to the other server", moved)
	}
	for range 10 * patience {
		report()
		step(Event{Kind: Members, Workers: map[string]int{"w": 1}, PS: []string{"p1", "p2"}})
	}
	if len(moves) > 0 {
		t.Fatalf("it does not come to rest: %v", moves)
	}
}
