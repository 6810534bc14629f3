package sim

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// keepers is a job whose workers keep rows: a trainer's core and the cores of all partitions, two
// parameter servers that only count what was applied, and messages that arrive in any order but
// for those of one link, of which grants are lost or come twice now and then.
type keepers struct {
	t         *rapid.T
	staleness int
	keep      int
	batches   int64 // of each partition
	trainer   *trainer.Core
	members   trainer.Event
	parts     []*keeper
	applied   [2][]int64 // by ps and partition: batches
	used      int
}

// keeper is one partition, its link to the trainer, and its requests on their way.
type keeper struct {
	core     *worker.Core
	reports  []wire.Report
	grants   []wire.Grant
	requests []worker.Effect
	copies   [2]kept
}

// kept is what a pull of one ps has brought.
type kept struct {
	number  int64
	applied []int64 // by partition
}

const keepStep = 3

func (k *keepers) lead(ev *trainer.Event) {
	for _, e := range append([]trainer.Effect(nil), k.trainer.Step(ev)...) {
		switch e.Kind {
		case trainer.AppendFence:
			k.lead(&trainer.Event{Kind: trainer.Recovered, Number: 1, Assignment: tidemill.Assignment{Cut: make(tidemill.Cut, len(k.parts))}})
			k.lead(&k.members)
		case trainer.WriteAssignment:
			k.lead(&trainer.Event{Kind: trainer.Assigned})
		case trainer.Grant:
			q := k.parts[e.Partition]
			q.grants = append(q.grants, wire.Grant{Partition: e.Partition, Run: e.Run, Next: e.Next})
		}
	}
}

func (k *keepers) report(p int, r wire.Report) {
	a := k.trainer.Assignment()
	r.Partition, r.Generation, r.Epoch, r.Routes = p, a.Generation, a.Partitions[p].Epoch, a.Routes()
	k.parts[p].reports = append(k.parts[p].reports, r)
}

func (k *keepers) step(p int, ev *worker.Event) {
	q := k.parts[p]
	for _, e := range append([]worker.Effect(nil), q.core.Step(ev)...) {
		switch e.Kind {
		case worker.SendFence:
			k.step(p, &worker.Event{Kind: worker.Fenced, PS: e.PS})
		case worker.SendPull:
			if c := &q.copies[e.PS]; c.number >= e.Batch.Oldest && c.number > 0 && rapid.Bool().Draw(k.t, "keeps") {
				k.use(p, e.Batch, c)
				k.step(p, &worker.Event{Kind: worker.Pulled, PS: e.PS})
				continue
			}
			q.requests = append(q.requests, e)
		case worker.SendPush, worker.Compute:
			q.requests = append(q.requests, e)
		case worker.Joined:
			k.report(p, wire.Report{Joined: true, Next: e.Next, Acked: e.Next, Offers: []wire.Offer{{Step: keepStep, Count: k.batches}}})
		case worker.Acked:
			k.report(p, wire.Report{Next: e.Next, Acked: e.Next, AtEnd: e.Next == keepStep*k.batches, End: keepStep * k.batches})
		default:
			k.t.Fatalf("partition %d: effect %d: %v", p, e.Kind, e.Err)
		}
	}
}

// use checks what a copy, or a fresh pull, holds against the bound: at staleness n the batch with index i may lack
// only batches from index i−n on, whichever partition they are of, and however bounded, a
// copy serves no more than so many batches.
func (k *keepers) use(p int, b worker.Batch, c *kept) {
	k.used++
	index := b.Range.First / keepStep
	for q, n := range c.applied {
		if k.staleness > 0 && n < index-int64(k.staleness) {
			k.t.Fatalf("batch %d of partition %d uses a row with %d batches of partition %d", index, p, n, q)
		}
	}
	if b.Number-c.number > int64(k.keep) || c.applied[p] < index-int64(k.keep) {
		k.t.Fatalf("batch %d uses a row pulled for %d, with %d batches of its own partition; %d may be between", b.Number, c.number, c.applied[p], k.keep)
	}
}

// carry lets one thing arrive; it reports whether there was one.
func (k *keepers) carry() bool {
	var can []func()
	for p, q := range k.parts {
		if len(q.reports) > 0 {
			can = append(can, func() {
				r := q.reports[0]
				q.reports = q.reports[1:]
				k.lead(&trainer.Event{Kind: trainer.ReportIn, Report: r})
			})
		}
		if len(q.grants) > 0 {
			can = append(can, func() {
				g := q.grants[0]
				switch n := rapid.IntRange(0, 9).Draw(k.t, "fate"); {
				case n == 0 && len(q.grants) > 1: // lost: the next one shows the gap, and all are asked for again
					q.grants = q.grants[1:]
					return
				case n == 1: // said twice
				default:
					q.grants = q.grants[1:]
				}
				k.step(p, &worker.Event{Kind: worker.Granted, Run: g.Run})
			})
		}
		for i := range q.requests {
			can = append(can, func() {
				e := q.requests[i]
				q.requests = append(q.requests[:i:i], q.requests[i+1:]...)
				switch e.Kind {
				case worker.SendPull:
					q.copies[e.PS] = kept{e.Batch.Number, append([]int64(nil), k.applied[e.PS]...)}
					k.use(p, e.Batch, &q.copies[e.PS])
					k.step(p, &worker.Event{Kind: worker.Pulled, PS: e.PS})
				case worker.SendPush:
					k.applied[e.PS][p]++
					k.step(p, &worker.Event{Kind: worker.Pushed, PS: e.PS})
				default:
					k.step(p, &worker.Event{Kind: worker.Computed})
				}
			})
		}
	}
	if len(can) == 0 {
		return false
	}
	can[rapid.IntRange(0, len(can)-1).Draw(k.t, "next")]()
	return true
}

// Rows that workers keep are within the staleness, whatever arrives when.
func TestKeptRowsAreWithinTheStaleness(t *testing.T) {
	used := 0
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{1, 2, 4, 8, -1}).Draw(t, "staleness")
		keep := n
		if n < 0 {
			keep = rapid.IntRange(1, 5).Draw(t, "keep")
		} else if rapid.Bool().Draw(t, "less") {
			keep = rapid.IntRange(1, n).Draw(t, "keep")
		}
		k := &keepers{
			t: t, staleness: n, keep: keep, batches: int64(rapid.IntRange(1, 25).Draw(t, "batches")),
			parts: make([]*keeper, rapid.IntRange(1, 3).Draw(t, "partitions")),
			trainer: trainer.NewCore(trainer.CoreConfig{
				Staleness: n, Batch: keepStep, Window: keepStep * int64(rapid.IntRange(2, 12).Draw(t, "window")), Partitions: 0, Shards: 4,
			}),
			members: trainer.Event{Kind: trainer.Members, Workers: map[string]int{"w": 1}, PS: []string{"p1", "p2"}},
		}
		for p := range k.parts {
			k.parts[p] = &keeper{core: worker.NewCore(worker.CoreConfig{Partition: p, Staleness: n, PS: 2, Keep: keep})}
			for i := range k.applied {
				k.applied[i] = append(k.applied[i], 0)
			}
		}
		k.lead(&trainer.Event{Kind: trainer.Lead, Assignment: tidemill.Assignment{Job: "job", Cut: make(tidemill.Cut, len(k.parts))}})
		for p := range k.parts {
			k.step(p, &worker.Event{Kind: worker.Begin})
		}
		// The bound is about partitions that are under way: all of them are, before the first batch.
		for _, q := range k.parts {
			for _, r := range q.reports {
				k.lead(&trainer.Event{Kind: trainer.ReportIn, Report: r})
			}
			q.reports = nil
		}
		for k.carry() {
		}
		for _, applied := range k.applied {
			for p, got := range applied {
				if got != k.batches {
					t.Fatalf("partition %d: %d of %d batches were pushed", p, got, k.batches)
				}
			}
		}
		used += k.used
	})
	if used == 0 {
		t.Error("no row was used again")
	}
	t.Logf("%d rows were used again", used)
}
