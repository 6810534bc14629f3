package bench

import (
	"errors"
	"math"
	"testing"

	"github.com/tidemill/tidemill"
)

// Every row is trained once, a second run over the stream that is there ends with the same bits,
// and what is said of the last tenth is of it.
func TestTrain(t *testing.T) {
	const rows = 3*appendRows + 77
	job, err := ClicksJob(ClicksJobConfig{Batch: 100})
	if err != nil {
		t.Fatal(err)
	}
	made := int64(0)
	cfg := TrainConfig{Dir: t.TempDir(), Rows: rows, Seed: 3, Partitions: 2, Slots: 2, Job: job, Producing: func(n int64) { made = n }}
	var digest string
	for run := range 2 {
		r, err := Train(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if r.Rows != rows || r.RowsPerSecond <= 0 || r.Batch != 100 || r.Loss <= 0 || r.Snapshots < 1 {
			t.Errorf("%+v", r)
		}
		if !(r.AUC > 0.4 && r.AUC < r.BestAUC && r.BestAUC < 0.95) {
			t.Errorf("AUC %v, best %v", r.AUC, r.BestAUC)
		}
		if run == 1 && (r.Digest != digest || made != 0) {
			t.Errorf("the second run ended with digest %s, the first with %s; %d rows were made again", r.Digest, digest, made)
		}
		digest, made = r.Digest, 0
	}
	cfg.Rows = 0
	if _, err := Train(t.Context(), cfg); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("no rows: %v", err)
	}
	if _, err := ClicksJob(ClicksJobConfig{Optimizer: "adm"}); !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("an unknown optimizer: %v", err)
	}
}

// Rows are dealt out to partitions in chunks; numbers and offsets say the same.
func TestRowsOfPartitions(t *testing.T) {
	for _, rows := range []int64{1, appendRows, 3*appendRows + 5, 7 * appendRows} {
		for _, n := range []int{1, 2, 3} {
			tl := newTail(&TrainConfig{Rows: rows, Partitions: n})
			seen := map[int64]bool{}
			for p := range n {
				for off := range tl.next[p] {
					seen[tl.row(p, off)] = true
				}
			}
			most := int64(math.MinInt64)
			for row := range seen {
				most = max(most, row)
			}
			if int64(len(seen)) != rows || most != rows-1 {
				t.Errorf("%d rows in %d partitions: %d, the last is %d", rows, n, len(seen), most)
			}
		}
	}
}
