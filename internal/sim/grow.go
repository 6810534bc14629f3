package sim

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// lateTopic is where partitions that join while the job runs come from; its partition k is the
// world's log number Partitions+k.
const lateTopic = "late"

// grow makes a log of its own and asks the leader for it to join the job, until the record lists
// it.
func (w *World) grow(rows int) {
	k := len(w.log) - w.cfg.Partitions
	log := w.draw(max(1, rows))
	w.log = append(w.log, log)
	w.broker.durable = append(w.broker.durable, int64(len(log)))
	o := tidemill.Origin{Topic: lateTopic, Partition: k, First: int64(w.rng.IntN(len(log)))}
	if w.cfg.Bounded {
		o.End = int64(len(log))
	}
	var again func()
	again = func() {
		for _, have := range w.records.asg.Origins {
			if have.SameLog(o) {
				return
			}
		}
		if ended(w.records.asg.State) {
			return
		}
		w.clients.control(w, trainer.Event{Kind: trainer.Grow, Origins: []tidemill.Origin{o}})
		w.after(rpcLimit, again)
	}
	again()
}

// logOf returns which of the world's logs one of the job's partitions reads.
func (w *World) logOf(partition int) int {
	if partition < w.cfg.Partitions {
		return partition
	}
	return w.cfg.Partitions + w.records.asg.Origin(partition).Partition
}

// rows returns the log of one of the job's partitions.
func (w *World) rows(partition int) []uint64 { return w.log[w.logOf(partition)] }

// first returns where the job begins to read one of its partitions.
func (w *World) first(partition int) int64 {
	if partition < w.cfg.Partitions {
		return 0
	}
	return w.records.asg.Origin(partition).First
}

// examples returns how many of the job's rows lie below a cut.
func (w *World) examples(cut tidemill.Cut) (n int64) {
	for p, next := range cut {
		n += next - w.first(p)
	}
	return n
}
