package main_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/proctest"
	"github.com/tidemill/tidemill/internal/produce"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
)

// How often the one process is killed at least: in all, between the first and the last batch,
// and while blobs are being written.
const (
	kills        = 10
	killsBetween = 7
	killsWriting = 2
)

// seeded returns a source of random numbers and prints its seed, which
// TIDEMILL_TEST_SEED=N repeats.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("TIDEMILL_TEST_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatalf("TIDEMILL_TEST_SEED=%s: %v", s, err)
		}
	}
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// testKilled: whenever the process is killed, what it left on disk leads to the same bits as
// if it had not been. Moments are chosen in rows and by what is on disk, so that a busy
// machine has the same ones.
func testKilled(t *testing.T, bin *proctest.Binary) {
	r := seeded(t)
	file, rows := powerRows(t, 0, everything)
	const topic, partitions = "power", 4

	whole := newFleet(t, bin)
	whole.start("stream")
	whole.produce(topic, file, partitions)
	before := time.Now()
	whole.submit("power", topic, true)
	want := whole.finished("power")
	whole.stop()
	t.Logf("never killed: digest %s of %d examples, %v", want.Digest, want.Examples, time.Since(before).Round(time.Millisecond))
	if want.Examples != int64(rows) {
		t.Fatalf("%d examples of %d", want.Examples, rows)
	}

	f := newFleet(t, bin)
	f.start("stream")
	f.produce(topic, file, partitions)
	disk := storeDir(filepath.Join(f.dataDir("stream"), "store"))
	total, between, writing := 0, 0, 0
	enough := func() bool { return total >= kills && between >= killsBetween && writing >= killsWriting }
	const most = 5
	for round := 1; !enough() && round <= most; round++ {
		name := fmt.Sprintf("power%d", round)
		before := time.Now()
		f.submit(name, topic, true, "every: 250 rows", "every: 800 rows")
		for !enough() {
			chain := filepath.Join("jobs", name, "snapshot")
			committed := disk.committed(t, chain)
			left := disk.unfinished(t, chain)
			// Somewhere in the next rows; every third life it dies at the first sight of a
			// snapshot that is not committed.
			target := committed + int64(r.IntN(6000))
			atWrite := total%3 == 1
			seen, over := int64(0), false
			proctest.Until(t, patience, "the moment of the kill", func() bool {
				if seen < target {
					m := f.metrics("stream")
					seen = max(seen, int64(m.Sum("tidemill_ps_examples", fmt.Sprintf("job=%q", name))))
					if m != nil && seen > 0 && m.Sum("tidemill_ps_shards", fmt.Sprintf("job=%q", name)) == 0 {
						over = true
					}
				} else if !atWrite {
					return true
				}
				if over || disk.committed(t, chain) == int64(rows) {
					over = true
					return true
				}
				for spin := 0; seen >= target && spin < 1000; spin++ {
					if now := disk.unfinished(t, chain); slices.ContainsFunc(now, func(s string) bool { return !slices.Contains(left, s) }) {
						return true
					}
				}
				return false
			})
			if over {
				break // the rows came to their end first: on with another job
			}
			f.nodes["stream"].Kill()
			total++
			fresh := 0
			for _, s := range disk.unfinished(t, chain) {
				if !slices.Contains(left, s) {
					fresh++
				}
			}
			class := "at rest"
			now := disk.committed(t, chain)
			if seen > 0 && now < int64(rows) {
				class = "between batches"
				between++
			}
			if fresh > 0 {
				class += fmt.Sprintf(", writing blobs (%d files without their commit)", fresh)
				writing++
			}
			t.Logf("kill %d of job %s: %d examples seen, %d committed before and %d after: %s", total, name, seen, committed, now, class)
			f.start("stream")
		}
		st := f.finished(name)
		if st.Digest != want.Digest || st.Examples != want.Examples || st.Progress != want.Progress {
			t.Errorf("job %s: digest %s of %d examples, loss %v; never killed %s of %d, loss %v",
				name, st.Digest, st.Examples, st.Progress.Loss, want.Digest, want.Examples, want.Progress.Loss)
		}
		t.Logf("job %s: digest %s of %d examples, generation %d, %v", name, st.Digest, st.Examples, st.Generation, time.Since(before).Round(time.Millisecond))
	}
	t.Logf("%d kills, %d between the first and the last batch, %d while blobs were being written", total, between, writing)
	if !enough() {
		t.Errorf("that is not enough; want %d, %d and %d", kills, killsBetween, killsWriting)
	}
	f.stop()
}

// storeDir is a node's object store as it lies on disk.
type storeDir string

// unfinished lists the files that a commit is still to come for: those being written, and
// blobs of snapshots without a manifest.
func (d storeDir) unfinished(t *testing.T, chain string) []string {
	t.Helper()
	var out []string
	for _, e := range d.list(t, ".tmp") {
		out = append(out, ".tmp/"+e)
	}
	for _, number := range d.list(t, chain) {
		files := d.list(t, filepath.Join(chain, number))
		if slices.Contains(files, "manifest.json") {
			continue
		}
		for _, e := range files {
			out = append(out, number+"/"+e)
		}
	}
	return out
}

// committed returns how many examples the newest manifest holds.
func (d storeDir) committed(t *testing.T, chain string) int64 {
	t.Helper()
	for _, number := range slices.Backward(d.list(t, chain)) {
		data, err := os.ReadFile(filepath.Join(string(d), chain, number, "manifest.json"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var m snapshot.Manifest
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		if err != nil {
			t.Fatalf("manifest %s: %v", number, err)
		}
		if m.Fence == nil {
			return m.Examples
		}
	}
	return 0
}

// list returns the names in a folder, sorted; none when there is no such folder.
func (d storeDir) list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(string(d), dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// testProducerKilled: a producer that is killed and run again leaves each row once.
func testProducerKilled(t *testing.T, bin *proctest.Binary) {
	r := seeded(t)
	const rows, partitions = 5000, 3
	file := filepath.Join(t.TempDir(), "rows.csv")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(out)
	fmt.Fprintln(w, "id,x")
	for i := range rows {
		fmt.Fprintf(w, "%d,%d\n", i, r.IntN(1000))
	}
	if err := errors.Join(w.Flush(), out.Close()); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, bin)
	f.start("stream")
	nc, err := broker.Dial(t.Context(), f.streamURL(), broker.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stream, err := natsource.New(nc, natsource.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	there := func() int64 {
		topic, err := stream.Open(t.Context(), "rows")
		if err != nil {
			return 0
		}
		defer topic.Close()
		info, err := topic.Info(t.Context())
		if err != nil {
			return 0
		}
		return info.Next.Rows()
	}
	args := []string{"produce", "rows", file, "--partitions", fmt.Sprint(partitions), "--batch", "20", "--stream-url", f.streamURL(), "--json"}
	for kill := 1; kill <= 6; kill++ {
		before := there()
		target := before + int64(r.IntN(600))
		p := bin.Start(t, fmt.Sprintf("producer %d", kill), append(args, "--rate", "2000")...)
		proctest.Until(t, patience, "the moment of the kill", func() bool {
			select {
			case <-p.Done():
				t.Fatalf("the producer ended by itself: %s", p.Logs())
			default:
			}
			return there() >= target
		})
		p.Kill()
		t.Logf("kill %d of the producer: %d rows before, %d after", kill, before, there())
	}
	var res produce.Result
	if err := f.ask(&res, args[:len(args)-1]...); err != nil {
		t.Fatal(err)
	}
	t.Logf("run to the end: %d rows produced, %d were there already", res.Rows, res.Skipped)
	if res.Rows+res.Skipped != rows || there() != rows {
		t.Errorf("%d rows produced and %d skipped, %d in the topic; want %d", res.Rows, res.Skipped, there(), rows)
	}
	topic, err := stream.Open(t.Context(), "rows")
	if err != nil {
		t.Fatal(err)
	}
	defer topic.Close()
	seen := make([]int, rows)
	for p := range partitions {
		for _, id := range ids(t, topic, p) {
			seen[id]++
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("row %d is there %d times", id, n)
		}
	}
	f.stop()
}

// ids reads the id column of a partition; ids ascend, as they do in the file.
func ids(t *testing.T, topic source.Topic, partition int) []int64 {
	t.Helper()
	info, err := topic.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reader, err := topic.Reader(t.Context(), partition, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var out []int64
	for reader.Position() < info.Next[partition] {
		batch, err := reader.Next(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		column := batch.Rows.Column(0).(*array.Int64)
		out = append(out, column.Int64Values()...)
		batch.Rows.Release()
	}
	if !slices.IsSorted(out) {
		t.Errorf("partition %d is not in the file's order", partition)
	}
	return out
}
