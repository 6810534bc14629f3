package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/trainer"
)

const zipfJob = `
model: zipf
stream: {topic: zipf}
label: {column: y, positive: 1}
features:
  - {name: item, column: item, hash: {}}
architecture: {kind: logistic}
optimizer: {sparse: {adagrad: {lr: 0.05}}}
train: {batch: 16, staleness: 8, snapshot: {every: 1000 rows}}
gate: {mode: off}
`

// zipfData returns n rows of an item that is drawn by Zipf's law, and a label that depends on it.
func zipfData(n int) []byte {
	r := rand.New(rand.NewPCG(7, 8))
	zipf := rand.NewZipf(r, 1.3, 2, 100_000)
	var b bytes.Buffer
	b.WriteString("item,y\n")
	for range n {
		item, y := zipf.Uint64(), 0
		if tidemill.Mix(item)%4 == 0 != (r.IntN(10) == 0) {
			y = 1
		}
		fmt.Fprintf(&b, "item%d,%d\n", item, y)
	}
	return b.Bytes()
}

// Rows that workers keep take load off the shard that owns them, and nothing is counted twice or
// lost for it.
func TestHotRowsAreKept(t *testing.T) {
	const rows = 8000
	csv := zipfData(rows)
	type result struct {
		st      trainer.JobStatus
		hottest trainer.ShardLoad
	}
	run := func(t *testing.T, staleness, hotRows, hotBatches int) (r result) {
		s := start(t, t.TempDir(), node.Config{Slots: 2})
		s.produce("zipf", 2, csv)
		s.submit(parse(t, []byte(zipfJob), func(j *tidemill.Spec) {
			j.Train.UntilEnd, j.Train.Linger = false, 10*time.Millisecond
			j.Train.Staleness, j.Train.HotRows, j.Train.HotBatches = staleness, hotRows, hotBatches
		}))
		// Loads are looked at every two seconds: once nothing moves any more, they are what all took.
		s.until("all rows are trained and counted", func() bool {
			r = result{st: s.status("zipf")}
			if r.st.Examples != rows || len(r.st.ShardLoads) == 0 {
				return false
			}
			for _, l := range r.st.ShardLoads {
				if l.RowsPerSecond == nil || *l.RowsPerSecond != 0 {
					return false
				}
				if l.Pushed > r.hottest.Pushed {
					r.hottest = l
				}
			}
			return r.hottest.Pushed > 0
		})
		s.stop()
		return r
	}
	cases := []struct{ staleness, rows, batches int }{{8, 0, 0}, {8, 100, 0}, {-1, 100, 4}}
	results := make([]result, len(cases))
	t.Run("jobs", func(t *testing.T) {
		for i, c := range cases {
			t.Run(fmt.Sprintf("staleness %d with %d", c.staleness, c.rows), func(t *testing.T) {
				t.Parallel()
				results[i] = run(t, c.staleness, c.rows, c.batches)
			})
		}
	})
	if t.Failed() {
		return
	}
	without := results[0].hottest
	for i, c := range cases[1:] {
		st, with := results[i+1].st, results[i+1].hottest
		t.Logf("staleness %d: the hottest shard served %d rows for %d pushed, without copies %d for %d; loss %.4f, without %.4f",
			c.staleness, with.Pulled, with.Pushed, without.Pulled, without.Pushed, st.Progress.Loss, results[0].st.Progress.Loss)
		if st.Progress.Examples != rows {
			t.Errorf("staleness %d: %d examples", c.staleness, st.Progress.Examples)
		}
		if with.Shard != without.Shard || with.Pushed != without.Pushed {
			t.Errorf("staleness %d: shard %d had %d rows pushed, without copies shard %d had %d", c.staleness, with.Shard, with.Pushed, without.Shard, without.Pushed)
		}
		if with.Pulled > without.Pulled*3/4 {
			t.Errorf("staleness %d: the hottest shard served %d rows, without copies %d", c.staleness, with.Pulled, without.Pulled)
		}
		if st.Progress.Loss > st.Progress.PriorLoss {
			t.Errorf("staleness %d: loss %.3f, prior %.3f", c.staleness, st.Progress.Loss, st.Progress.PriorLoss)
		}
	}
}
