package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The schedule follows from the seed, hits every role with every kind that the role has, and
// only with kinds that can be.
func TestPlan(t *testing.T) {
	plan := func(network, disk bool, kinds []string) []fault {
		p := &planner{r: rand.New(rand.NewPCG(7, 3)), network: network, disk: disk, every: time.Second, kinds: kinds}
		var out []fault
		for range 5000 {
			out = append(out, p.next())
		}
		return out
	}
	all := plan(true, true, nil)
	if !slices.Equal(all, plan(true, true, nil)) {
		t.Error("two plans of one seed differ")
	}
	seen := map[string]bool{}
	for _, f := range all {
		seen[f.role+" "+f.kind] = true
		if f.wait <= 0 || f.wait > 2*time.Second || f.lasts > 20*time.Second {
			t.Fatalf("%v after %v", f, f.wait)
		}
	}
	for _, w := range weighted {
		for _, k := range w.kinds {
			if !seen[w.role+" "+k] {
				t.Errorf("role %q is never hit by %s", w.role, k)
			}
		}
	}
	for _, f := range plan(false, false, nil) {
		if f.kind == faultCut || f.kind == faultMute || f.kind == faultDeaf || f.kind == faultSlow || f.kind == faultReset || f.kind == faultFull {
			t.Fatalf("%v without a network and a disk of its own", f)
		}
	}
	for _, f := range plan(true, true, []string{faultTerm}) {
		if f.kind != faultTerm {
			t.Fatalf("%v, and only term was asked for", f)
		}
	}
}

// The specs are ones that the program takes.
func TestSpecs(t *testing.T) {
	for _, text := range []string{countsSpec{staleness: -1, batch: 8, every: "400 rows"}.yaml(), recoverySpec()} {
		if _, err := spec.Parse([]byte(text), "job.yaml"); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
}

func TestWriteCounts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rows.csv")
	if err := writeCounts(name, 50, rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) != 51 || lines[0] != "id,key,y" {
		t.Fatalf("%d lines, the first %q", len(lines), lines[0])
	}
	for i, l := range lines[1:] {
		if !strings.HasPrefix(l, fmt.Sprintf("%d,", i)) {
			t.Errorf("line %d is %q", i, l)
		}
	}
}

// The comparison accepts the exact counts and finds any other.
func TestCompare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{}
		m := &snapshot.Manifest{Number: 3}
		s := &state{counts: map[uint64]float32{}}
		next := uint64(1000)
		for range rapid.IntRange(1, 3).Draw(t, "partitions") {
			rows := rapid.IntRange(1, 30).Draw(t, "rows")
			cut := rapid.IntRange(0, rows).Draw(t, "cut")
			var ids [][2]uint64
			for i := range rows {
				pair := [2]uint64{next, rapid.Uint64Range(1, 5).Draw(t, "key")}
				next++
				ids = append(ids, pair)
				if i < cut {
					s.counts[pair[0]]++
					s.counts[pair[1]]++
					s.bias++
				}
			}
			l.ids = append(l.ids, ids)
			m.Cut = append(m.Cut, int64(cut))
		}
		m.Examples = m.Cut.Rows()
		if err := l.compare(s, m); err != nil {
			t.Fatalf("exact counts: %v", err)
		}
		var ids []uint64
		for id := range s.counts {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		damages := []string{"bias", "examples", "extra", "bad row"}
		if len(ids) > 0 {
			damages = append(damages, "once more", "once less", "gone")
		}
		what := rapid.SampledFrom(damages).Draw(t, "damage")
		id := uint64(0)
		if len(ids) > 0 {
			id = rapid.SampledFrom(ids).Draw(t, "id")
		}
		switch what {
		case "bias":
			s.bias++
		case "examples":
			m.Examples++
		case "extra":
			s.counts[next] = 0
		case "bad row":
			m.BadRows = []snapshot.BadRow{{}}
		case "once more":
			s.counts[id]++
		case "once less":
			s.counts[id]--
		case "gone":
			delete(s.counts, id)
		}
		if l.compare(s, m) == nil {
			t.Fatalf("not found: %s of id %d", what, id)
		}
	})
}

// Time to train again ends with the first batch after the record names others, not with what a
// ps shows while it still holds the old state or has just loaded it.
func TestProgress(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	p := &progress{job: "j", applied: map[string]int64{}, waiters: map[*recovery]bool{}, changed: make(chan struct{})}
	asg := tidemill.Assignment{
		Seq: 1, Generation: 1, Leader: tidemill.Member{ID: "trainer1-a"},
		Partitions: []tidemill.Owner{{Member: "worker1-a"}}, Shards: []tidemill.Owner{{Member: "ps1-a"}, {Member: "ps2-a"}},
	}
	p.assigned(asg)
	p.at("ps1", 100, at(1))
	gone := p.members("ps2")
	if len(gone) != 1 || !gone["ps2-a"] {
		t.Fatalf("ps2 is %v", gone)
	}
	done, stop := p.after(at(2), gone)
	defer stop()
	none := func(what string) {
		t.Helper()
		select {
		case d := <-done:
			t.Fatalf("%s ended the wait after %v", what, d)
		default:
		}
	}
	p.at("ps1", 110, at(3))
	none("a batch that was under way")
	asg.Seq, asg.Generation, asg.Examples, asg.Shards = 2, 2, 80, []tidemill.Owner{{Member: ""}, {Member: "ps1-a"}}
	p.assigned(asg)
	p.at("ps1", 111, at(4))
	none("a record without an owner")
	asg.Seq, asg.Shards = 3, []tidemill.Owner{{Member: "ps1-a"}, {Member: "ps1-a"}}
	p.assigned(asg)
	p.at("ps1", 0, at(5))
	p.at("ps1", 80, at(6))
	none("the cut's state")
	p.at("ps1", 81, at(7))
	if d := <-done; d != 5*time.Second {
		t.Errorf("trains again after %v", d)
	}
	if got := spreadOf([]time.Duration{3 * time.Second, time.Second, 2 * time.Second, 10 * time.Second}); got != (Spread{4, 2.5, 10}) {
		t.Errorf("spread %v", got)
	}
}

// The last replica that serves is never hit, and no seat twice at a time.
func TestTake(t *testing.T) {
	c := &chaos{busy: map[string]bool{}, fleet: &fleet{seats: []*seat{{name: "serving1", role: node.RoleServing}, {name: "serving2", role: node.RoleServing}}}}
	if !c.take("serving1", node.RoleServing) || c.take("serving2", node.RoleServing) || c.take("serving1", node.RoleServing) {
		t.Error("both replicas are hit at once")
	}
	if c.takeAll() {
		t.Error("everybody is taken while a replica is hit")
	}
	c.give("serving1")
	if !c.take("serving2", node.RoleServing) || !c.take("ps1", node.RolePS) || !c.take("ps2", node.RolePS) || c.take("ps3", node.RolePS) {
		t.Errorf("busy are %v", c.busy)
	}
	if got := unpublished([]int64{1, 2, 3}, []tidemill.Champion{{Version: 1}, {Version: 3}}); !slices.Equal(got, []int64{2}) {
		t.Errorf("unpublished are %v", got)
	}
}
