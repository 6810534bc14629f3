package sim

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// lateTopic is where partitions that join while the job runs come from; its partition k is the
// world's log number Partitions+k.
const lateTopic = "late"

// planGrowth makes logs that join the job at some time of the run.
func (w *World) planGrowth() {
	for k := range w.cfg.Late {
		log := make([]uint64, 1+w.rng.IntN(w.cfg.Rows))
		for i := range log {
			log[i] = uint64(w.rng.ExpFloat64() * 20)
		}
		w.log = append(w.log, log)
		first := int64(w.rng.IntN(len(log)))
		o := tidemill.Origin{Topic: lateTopic, Partition: k, First: first, End: int64(len(log))}
		w.after(w.rng.Int64N(4_000_000), func() { w.grow(o) })
	}
}

// grow tells the leader of a new partition until the record lists it.
func (w *World) grow(o tidemill.Origin) {
	for _, have := range w.records.asg.Origins {
		if have.SameLog(o) {
			return
		}
	}
	if n, incarnation := w.member(w.leader); n != nil && n.up && n.incarnation == incarnation {
		w.on(n, n.incarnation, w.delay(), func() {
			if n.trainer != nil {
				n.trainer.step(&trainer.Event{Kind: trainer.Grow, Origins: []tidemill.Origin{o}})
			}
		})
	}
	w.after(300_000, func() { w.grow(o) })
}

// rows returns the log of one of the job's partitions.
func (w *World) rows(partition int) []uint64 {
	if partition < w.cfg.Partitions {
		return w.log[partition]
	}
	return w.log[w.cfg.Partitions+w.records.asg.Origin(partition).Partition]
}

// ends returns where the partitions that the job begins with end.
func (w *World) ends() tidemill.Cut {
	end := make(tidemill.Cut, w.cfg.Partitions)
	for p := range end {
		end[p] = int64(len(w.log[p]))
	}
	return end
}

// first returns where the job begins to read one of its partitions.
func (w *World) first(partition int) int64 {
	if partition < w.cfg.Partitions {
		return 0
	}
	return w.records.asg.Origin(partition).First
}
