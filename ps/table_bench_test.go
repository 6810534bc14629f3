package ps

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

// tableJob is a job of one table in 64 shards, without its core: what a pull or a push does under
// the lock.
func tableJob(l snapshot.TableLayout, r optim.Rule) *job {
	j := &job{model: &model.Model{Layout: snapshot.Layout{Tables: []snapshot.TableLayout{l}}}}
	for s := range tidemill.DefaultShards {
		j.shards = append(j.shards, &shard{number: s, tables: []*table{newTable(l, r, 0, 1, s, tidemill.DefaultShards)}})
	}
	j.owned = j.shards
	return j
}

// tableRows is how many rows are resident: 2 million, or what TIDEMILL_TABLE_ROWS says.
func tableRows() int {
	if n, err := strconv.Atoi(os.Getenv("TIDEMILL_TABLE_ROWS")); err == nil {
		return n
	}
	return 2_000_000
}

// batchRows of a batch: 512 examples of 26 features.
const drawn = 512 * 26

// idBatches returns batches of the distinct ids among drawn ones, and how many ids they hold.
func idBatches(n int, draw func() uint64) (batches [][]uint64, total int) {
	for range 64 {
		seen := make(map[uint64]bool, drawn)
		var ids []uint64
		for range drawn {
			if id := tidemill.Mix(draw()); !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
		batches, total = append(batches, ids), total+len(ids)
	}
	return batches, total
}

// cpu is the time that the processors have spent on this process: what others do beside it does
// not count.
func cpu(t testing.TB) time.Duration {
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func gauge(name string) float64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() == metrics.KindUint64 {
		return float64(s[0].Value.Uint64())
	}
	return s[0].Value.Float64()
}

// BenchmarkTable pulls and pushes batches of distinct ids, drawn by a Zipf law or evenly, from and
// to a table that holds 2 million rows (TIDEMILL_TABLE_ROWS) already. It reports
//
//	rows/cpu-s      rows pulled plus rows pushed by second of processor time
//	pull-ns, push-ns  processor time by row
//	insert-ns       likewise, when the table was filled
//	B/row, ratio    memory in use by row, and by the size of key, values and state
//	ptrs/krow       pointers that the garbage collector follows, by thousand rows
//	moved           most entries of the index that one insertion moved
//	gc-%            share of the processors' time that the garbage collector took while pulling and pushing
func BenchmarkTable(b *testing.B) {
	adagrad := optim.Adagrad{LR: 0.05, Initial: 0.1, Epsilon: 1e-10}
	ftrl := optim.FTRL{Alpha: 0.1, Beta: 1}
	for _, c := range []struct {
		name   string
		dim    int
		rule   optim.Rule
		values string
	}{
		{"adagrad/dim=16", 16, adagrad, ""}, {"ftrl/dim=1", 1, ftrl, ""},
		{"adagrad/dim=16/bfloat16", 16, adagrad, tidemill.ValuesBFloat16}, {"adagrad/dim=16/int8", 16, adagrad, tidemill.ValuesInt8},
	} {
		for _, draw := range []string{"zipf", "even"} {
			b.Run(fmt.Sprintf("%s/%s", c.name, draw), func(b *testing.B) { benchTable(b, c.dim, c.rule, c.values, draw) })
		}
	}
}

func benchTable(b *testing.B, dim int, r optim.Rule, values, draw string) {
	n := tableRows()
	l := layout(r, dim, false, 0)
	l.Values = values
	runtime.GC()
	heap := gauge("/memory/classes/heap/objects:bytes")
	j := tableJob(l, r)
	grads := make([]float32, drawn*dim)
	for i := range grads {
		grads[i] = float32(i%7) - 3
	}
	start := cpu(b)
	ids := make([]uint64, 0, drawn)
	for i := range n {
		if ids = append(ids, tidemill.Mix(uint64(i))); len(ids) == cap(ids) || i == n-1 {
			j.updateRows(0, ids, grads[:len(ids)*dim], 1, 0, 1)
			ids = ids[:0]
		}
	}
	insert := cpu(b) - start
	runtime.GC()
	heap = gauge("/memory/classes/heap/objects:bytes") - heap
	moved, pointers := 0, 0
	for _, s := range j.shards {
		t := s.tables[0]
		moved = max(moved, t.index.most)
		pointers += len(t.chunks) + len(t.index.dir) + 8 // and those of a table itself
	}
	rng := rand.New(rand.NewPCG(1, 2))
	next := func() uint64 { return rng.Uint64N(uint64(n)) }
	if draw == "zipf" {
		next = rand.NewZipf(rng, 1.05, 1, uint64(n-1)).Uint64
	}
	batches, _ := idBatches(n, next)
	out := make([]float32, drawn*dim)
	var pull, push time.Duration
	rows := 0
	gc := gauge("/cpu/classes/gc/total:cpu-seconds")
	for i := 0; b.Loop(); i++ {
		ids := batches[i%len(batches)]
		t0 := cpu(b)
		if !j.readRows(0, out, ids) {
			b.Fatal("a shard is missing")
		}
		t1 := cpu(b)
		j.updateRows(0, ids, grads[:len(ids)*dim], 1, 0, 1)
		pull, push, rows = pull+t1-t0, push+cpu(b)-t1, rows+len(ids)
	}
	gc = gauge("/cpu/classes/gc/total:cpu-seconds") - gc
	perRow := heap / float64(n)
	b.ReportMetric(float64(2*rows)/(pull+push).Seconds(), "rows/cpu-s")
	b.ReportMetric(float64(pull.Nanoseconds())/float64(rows), "pull-ns")
	b.ReportMetric(float64(push.Nanoseconds())/float64(rows), "push-ns")
	b.ReportMetric(float64(insert.Nanoseconds())/float64(n), "insert-ns")
	b.ReportMetric(perRow, "B/row")
	b.ReportMetric(perRow/float64(8+4*l.Width()), "ratio")
	b.ReportMetric(float64(pointers)/float64(n)*1000, "ptrs/krow")
	b.ReportMetric(float64(moved), "moved")
	b.ReportMetric(100*gc/((pull+push).Seconds()*float64(runtime.GOMAXPROCS(0))), "gc-%")
	b.ReportMetric(0, "ns/op")
	runtime.KeepAlive(j)
	_ = slices.Max(out)
}
