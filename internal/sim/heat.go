package sim

import (
	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// measure tells the leader's core how hot each shard is: what the real trainer finds out by
// asking, here made up from a number, the same as long as it stays. One shard in four is hot.
func (t *trainerNode) measure() {
	if t.w.heat == 0 || t.core == nil || t.w.closing {
		return
	}
	a := t.core.Assignment()
	loads := make([]int64, len(a.Shards))
	for s := range loads {
		x := tidemill.Mix(t.w.heat ^ tidemill.Mix(uint64(s)+1))
		if loads[s] = 1000 + int64(x%1000); x>>32%4 == 0 {
			loads[s] += 20_000
		}
	}
	t.step(&trainer.Event{Kind: trainer.Loaded, Routes: a.Routes(), Loads: loads})
}
