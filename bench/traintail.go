package bench

import (
	"sync"

	"github.com/tidemill/tidemill/bench/workload"
	outcome "github.com/tidemill/tidemill/internal/progress"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps"
)

// tail keeps the predictions of the last tenth of each partition, from what the parameter server
// applies.
type tail struct {
	partitions int
	from, next []int64 // offsets by partition: of its last tenth, [from, next)

	mu     sync.Mutex
	scores []float64 // guarded by mu
	labels []bool    // guarded by mu
}

func newTail(cfg *TrainConfig) *tail {
	t := &tail{partitions: cfg.Partitions, from: make([]int64, cfg.Partitions), next: make([]int64, cfg.Partitions)}
	for p := range t.from {
		t.next[p] = partRows(cfg.Rows, p, cfg.Partitions)
		t.from[p] = t.next[p] - t.next[p]/10
	}
	return t
}

// partRows is how many of the rows partition p of n gets.
func partRows(rows int64, p, n int) int64 {
	var of int64
	for first := int64(p) * appendRows; first < rows; first += int64(n) * appendRows {
		of += min(appendRows, rows-first)
	}
	return of
}

// row returns the stream's number of the row at an offset of a partition.
func (t *tail) row(partition int, offset int64) int64 {
	chunk := offset/appendRows*int64(t.partitions) + int64(partition)
	return chunk*appendRows + offset%appendRows
}

// record is a node's RecordPS.
func (t *tail) record(_ string, _ *ps.Event, effects []ps.Effect) {
	for _, e := range effects {
		if e.Kind != ps.Apply || e.Partition >= len(t.from) || e.Range.Next <= t.from[e.Partition] {
			continue
		}
		req, ok := e.Payload.(*wire.PushRequest)
		if !ok || req.Tag == nil {
			continue
		}
		t.mu.Lock()
		for i, o := range outcome.Outcomes(req.Tag.Outcomes) {
			if e.Range.First+int64(i) < t.from[e.Partition] {
				continue
			}
			t.scores, t.labels = append(t.scores, float64(o.Score)), append(t.labels, o.Label >= 0.5)
		}
		t.mu.Unlock()
	}
}

// auc returns what the predictions reached and what the true probabilities do.
func (t *tail) auc(clicks *workload.Clicks) (got, best float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.scores) == 0 {
		return 0, 0
	}
	got = workload.AUC(t.scores, t.labels)
	scores, labels := make([]float64, 0, len(t.scores)), make([]bool, 0, len(t.scores))
	var row workload.Click
	for p, from := range t.from {
		for off := from; off < t.next[p]; off++ {
			clicks.Row(t.row(p, off), &row)
			scores, labels = append(scores, row.Probability), append(labels, row.Clicked)
		}
	}
	return got, workload.AUC(scores, labels)
}
