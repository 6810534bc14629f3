package ps

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/ps/optim"
)

// bigTable is a job's table in 64 shards, as one parameter server holds it.
type bigTable struct {
	mu     sync.Mutex
	layout snapshot.Layout
	shards []*table
	n      uint64
}

// newBigTable has n rows of 16 floats with Adagrad's state, as rows of a job have it: 128 bytes
// of values and 8 of id.
func newBigTable(n int) *bigTable {
	r := optim.Adagrad{LR: 0.1, Initial: 0.1, Epsilon: 1e-10}
	l := layout(r, 16, false, 0)
	b := &bigTable{layout: snapshot.Layout{Tables: []snapshot.TableLayout{l}}, n: uint64(n)}
	for s := range tidemill.DefaultShards {
		b.shards = append(b.shards, newTable(l, r, 0, 1, s, tidemill.DefaultShards))
	}
	grad := make([]float32, 16)
	for i := range grad {
		grad[i] = float32(i)
	}
	for i := range b.n {
		b.touch(i, grad)
	}
	return b
}

func (b *bigTable) touch(i uint64, grad []float32) {
	id := tidemill.Mix(i)
	b.shards[tidemill.ShardOf(id, len(b.shards))].apply(id, grad, 1, 0, 1)
}

// touchSome changes a share of all rows, at random.
func (b *bigTable) touchSome(rng *rand.Rand, share float64) {
	grad := make([]float32, 16)
	for i := range grad {
		grad[i] = float32(rng.NormFloat64())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for range int(share * float64(b.n)) {
		b.touch(rng.Uint64N(b.n), grad)
	}
}

// snapshot captures and writes; stall is how long the lock was held.
func (b *bigTable) snapshot(t testing.TB, bucket *blob.Bucket, number int, committed bool) (part snapshot.Part, stall time.Duration) {
	b.mu.Lock()
	start := time.Now()
	var images []snapshot.ShardImage
	var rows []tableImage
	for s, tab := range b.shards {
		tab.since.settle(committed)
		img, r := tab.freeze(&b.mu)
		images, rows = append(images, snapshot.ShardImage{Shard: s, Tables: []snapshot.TableImage{img}}), append(rows, r)
	}
	stall = time.Since(start)
	b.mu.Unlock()
	part, err := snapshot.WritePart(context.Background(), bucket, fmt.Sprintf("jobs/j/snapshot/%09d/a1-", number), b.layout, images)
	must(t, err)
	b.mu.Lock()
	for s, r := range rows {
		r.release()
		r.tried.wrote = &base{part.Base(s, "t"), r.tried.sum}
	}
	b.mu.Unlock()
	return part, stall
}

// benchRows is 10 million, the size that the figures are stated for, or what TIDEMILL_BENCH_ROWS
// says.
func benchRows() int {
	if n, err := strconv.Atoi(os.Getenv("TIDEMILL_BENCH_ROWS")); err == nil {
		return n
	}
	return 10_000_000
}

// BenchmarkSnapshot writes full and incremental snapshots of 10 million rows to a directory,
// while 100,000 rows a second are trained on beside it. It reports
//
//	full-MB/s      bytes of a full snapshot by time, fsync included
//	dd-MB/s        the same bytes written to one file and flushed, in the same run
//	delta-ratio    time of a snapshot after 1 % of the rows changed, at random, by that of a full one
//	stall-p99-ms   how long the lock is held to capture
//	apply-p99-us   how long one row's update waits and takes while a snapshot is written
//	heap-ratio     most heap while writing, by the heap before; what waits for the garbage
//	               collector counts, so run it with GOGC=20 to see what is in use
func BenchmarkSnapshot(b *testing.B) {
	big := newBigTable(benchRows())
	rng := rand.New(rand.NewPCG(1, 2))
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var full, delta, stalls []time.Duration
	var bytes int64
	var dd []float64
	var peak uint64
	var waits []time.Duration
	for b.Loop() {
		dir := b.TempDir()
		bucket, err := fileblob.Open(filepath.Join(dir, "store"), fileblob.Options{})
		must(b, err)
		for _, tab := range big.shards {
			tab.since.forget()
		}
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			grad := make([]float32, 16)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				var m runtime.MemStats
				for range 100 {
					start := time.Now()
					big.mu.Lock()
					big.touch(rng.Uint64N(big.n), grad)
					big.mu.Unlock()
					waits = append(waits, time.Since(start))
				}
				if len(waits)%20_000 == 0 {
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapAlloc)
				}
			}
		}()
		start := time.Now()
		part, stall := big.snapshot(b, bucket, 1, false)
		full, stalls = append(full, time.Since(start)), append(stalls, stall)
		close(stop)
		<-done
		bytes = 0
		for _, info := range part.Blobs {
			bytes += info.Bytes
		}
		// What was trained beside the full snapshot goes into one that is not measured.
		_, stall = big.snapshot(b, bucket, 2, true)
		stalls = append(stalls, stall)
		for n := range 3 {
			big.touchSome(rng, 0.01)
			start = time.Now()
			_, stall = big.snapshot(b, bucket, 3+n, true)
			delta, stalls = append(delta, time.Since(start)), append(stalls, stall)
		}
		must(b, bucket.Close())
		dd = append(dd, ddSpeed(b, dir, bytes))
	}
	slices.Sort(full)
	slices.Sort(delta)
	slices.Sort(stalls)
	slices.Sort(waits)
	slices.Sort(dd)
	middle := full[len(full)/2]
	b.ReportMetric(float64(bytes)/1e6/middle.Seconds(), "full-MB/s")
	b.ReportMetric(dd[len(dd)/2], "dd-MB/s")
	b.ReportMetric(delta[len(delta)/2].Seconds()/middle.Seconds(), "delta-ratio")
	b.ReportMetric(float64(stalls[len(stalls)*99/100].Microseconds())/1e3, "stall-p99-ms")
	if len(waits) > 0 {
		b.ReportMetric(float64(waits[len(waits)*99/100].Nanoseconds())/1e3, "apply-p99-us")
	}
	b.ReportMetric(float64(max(peak, before.HeapAlloc))/float64(before.HeapAlloc), "heap-ratio")
}

// ddSpeed writes n bytes to a file in pieces of a megabyte, flushes it, and returns MB/s.
func ddSpeed(b *testing.B, dir string, n int64) float64 {
	piece := make([]byte, 1<<20)
	for i := range piece {
		piece[i] = byte(i * 7)
	}
	start := time.Now()
	f, err := os.Create(filepath.Join(dir, "dd"))
	must(b, err)
	for left := n; left > 0; left -= int64(len(piece)) {
		_, err := f.Write(piece[:min(left, int64(len(piece)))])
		must(b, err)
	}
	must(b, f.Sync())
	must(b, f.Close())
	return float64(n) / 1e6 / time.Since(start).Seconds()
}
