package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
)

// small is a state with something of every kind in it.
func small() state {
	for seed := uint64(0); ; seed++ {
		s := randomState(seed, 12)
		if len(s.rows) >= 2 && len(s.rows[0]) > 0 && len(s.rows[1]) > 0 && s.layout.Tables[0].Average && s.layout.Tables[0].State > 0 &&
			len(s.layout.Tensors) > 0 && s.layout.Tensors[0].Len() < 100 && s.aux[tidemill.HomeShard(s.v)][AuxTransforms] != nil {
			return s
		}
	}
}

// committed returns the blobs of a store with one committed snapshot and one version of it.
func committed(t testing.TB) map[string][]byte {
	t.Helper()
	b := fill(t, nil)
	defer b.Close()
	s := small()
	m := s.manifest(1, s.write(t, b, 1, 2, nil))
	chain, err := Snapshots(b, "job")
	must(t, err)
	must(t, Commit(ctx, chain, m))
	v := testVersion(7)
	must(t, WriteVersion(ctx, b, v))
	_, err = WriteDecision(ctx, b, tidemill.Decision{Model: "model", Version: 7, Decision: tidemill.Held, Reason: "rows are missing"})
	must(t, err)
	champions, err := Champions(b, "model")
	must(t, err)
	must(t, AppendChampion(ctx, champions, tidemill.Champion{Model: "model", Seq: 1, Version: 7, Kind: "gate"}))
	return contents(t, b)
}

// readEverything reads all that committed wrote.
func readEverything(b *blob.Bucket) error {
	chain, err := Snapshots(b, "job")
	if err != nil {
		return err
	}
	_, m, err := Latest(ctx, chain)
	if err != nil {
		return err
	}
	if m == nil {
		return errors.New("no snapshot")
	}
	if err := ReadParts(ctx, b, m.Parts, m.Layout, nil, newCollector(m.Layout, shardsOf(m.Spec))); err != nil {
		return err
	}
	if _, err := ReadVersion(ctx, b, "model", 7); err != nil {
		return err
	}
	if _, err := ReadDecision(ctx, b, "model", 7); err != nil {
		return err
	}
	champions, err := Champions(b, "model")
	if err != nil {
		return err
	}
	_, c, err := LastChampion(ctx, champions)
	if err == nil && c == nil {
		return errors.New("no champion")
	}
	return err
}

// TestFlippedBits flips single bits all over a store: each must be found, and the blob named.
func TestFlippedBits(t *testing.T) {
	good := committed(t)
	b := fill(t, good)
	must(t, readEverything(b))
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range slices.Sorted(maps.Keys(good)) {
		data := good[name]
		positions := map[int]bool{0: true, 8*len(data) - 1: true}
		for range 60 {
			positions[rng.IntN(8*len(data))] = true
		}
		if strings.HasSuffix(name, ".json") {
			for p := range 8 * min(len(data), recordMid+8) { // the checksum itself, bit by bit
				positions[p] = true
			}
		}
		for p := range positions {
			bad := bytes.Clone(data)
			bad[p/8] ^= 1 << (p % 8)
			must(t, b.WriteAll(ctx, name, bad, nil))
			err := readEverything(b)
			if !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Fatalf("bit %d of %s flipped: %v", p, name, err)
			}
		}
		must(t, b.WriteAll(ctx, name, data, nil))
	}
	must(t, b.Close())
}

// TestTruncated cuts every blob at some lengths, lengthens it, and removes it.
func TestTruncated(t *testing.T) {
	good := committed(t)
	b := fill(t, good)
	for name, data := range good {
		for _, n := range []int{0, 1, len(data) / 2, len(data) - 1} {
			must(t, b.WriteAll(ctx, name, data[:n], nil))
			if err := readEverything(b); !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s cut to %d of %d bytes: %v", name, n, len(data), err)
			}
		}
		must(t, b.WriteAll(ctx, name, append(bytes.Clone(data), 0), nil))
		if err := readEverything(b); !errors.Is(err, tidemill.ErrCorrupt) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		must(t, b.Delete(ctx, name))
		err := readEverything(b)
		if strings.HasSuffix(name, ".arrow") || strings.HasSuffix(name, ".bin") {
			if !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s removed: %v", name, err)
			}
		} else if err == nil {
			t.Errorf("%s removed: nobody noticed", name)
		}
		must(t, b.WriteAll(ctx, name, data, nil))
	}
	must(t, errors.Join(readEverything(b), b.Close()))
}

// withPyarrow returns a Python that has pyarrow, or skips the test. With
// TIDEMILL_REQUIRE_CLIENTS=1, as the checks of every change set it, it is installed into a
// folder of the test's where it is missing, and not to have it is a failure.
func withPyarrow(t *testing.T) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err == nil {
		err = exec.Command(python, "-c", "import pyarrow").Run()
	}
	if err == nil {
		return python
	}
	if os.Getenv("TIDEMILL_REQUIRE_CLIENTS") != "1" {
		t.Skip("python3 with pyarrow is not installed: whether other Arrow readers open the files is not checked")
	}
	dir := filepath.Join(t.TempDir(), "python")
	if out, err := exec.Command("python3", "-m", "venv", dir).CombinedOutput(); err != nil {
		t.Fatalf("python3 -m venv: %v\n%s", err, out)
	}
	python = filepath.Join(dir, "bin", "python3")
	if out, err := exec.Command(python, "-m", "pip", "install", "--quiet", "pyarrow").CombinedOutput(); err != nil {
		t.Fatalf("pip install pyarrow: %v\n%s", err, out)
	}
	return python
}

// TestArrowTools lets pyarrow read every Arrow file of a store: the formats are open.
func TestArrowTools(t *testing.T) {
	python := withPyarrow(t)
	dir := filepath.Join(t.TempDir(), "store")
	b, err := fileblob.Open(dir, fileblob.Options{})
	must(t, err)
	s := small()
	parts := s.write(t, b, 1, 1, nil)
	must(t, WriteVersion(ctx, b, testVersion(3)))
	must(t, b.Close())

	const script = `
import sys, glob, pyarrow as pa, pyarrow.ipc as ipc
for name in sorted(glob.glob(sys.argv[1] + "/**/*.arrow", recursive=True)):
    base = name.rsplit("/", 1)[1]
    if "schema" in base or "probes" in base:
        continue
    t = ipc.open_file(name).read_all()
    t.validate(full=True)
    kind = t.schema.metadata[b"tidemill.kind"].decode()
    assert t.schema.metadata[b"tidemill.format"] == b"1", name
    nulls = sum(c.null_count for c in t.columns)
    print(kind, t.num_rows, nulls, ",".join("%s:%s" % (f.name, f.type) for f in t.schema), sep="|")
    if kind == "table" and "shard" in t.schema.names:
        rows = sorted(zip(t.column("id").to_pylist(), t.column("shard").to_pylist()))
        print("rows", t.schema.metadata[b"tidemill.table"].decode(), rows[0][0], rows[0][1], rows[-1][0], rows[-1][1])
`
	layered := filepath.Join(t.TempDir(), "layered")
	rotStore(t, layered)
	out, err := exec.Command(python, "-c", script, layered).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "removed|2|0|shard:uint16,id:uint64\n") || strings.Count(string(out), "table|") < 3 {
		t.Fatalf("pyarrow, of a store with layers: %v\n%s", err, out)
	}
	out, err = exec.Command(python, "-c", script, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("pyarrow: %v\n%s", err, out)
	}
	for _, info := range parts[0].Blobs {
		if want := fmt.Sprintf("%s|%d|0|", info.Kind, info.Rows); !strings.Contains(string(out), want) {
			t.Errorf("pyarrow saw no %s:\n%s", want, out)
		}
	}
	for i, shards := range s.rows {
		all := map[uint64]int{}
		for shard, rows := range shards {
			for id := range rows {
				all[id] = shard
			}
		}
		ids := slices.Sorted(maps.Keys(all))
		if len(ids) == 0 {
			continue
		}
		first, last := ids[0], ids[len(ids)-1]
		if want := fmt.Sprintf("rows %s %d %d %d %d\n", s.layout.Tables[i].Name, first, all[first], last, all[last]); !strings.Contains(string(out), want) {
			t.Errorf("pyarrow saw no %s:\n%s", want, out)
		}
	}
	for _, want := range []string{"shard:uint16,id:uint64,weight:fixed_size_list<item: float not null>[", "average_at:uint64", "shard:uint16,name:string,bytes:binary",
		"shard:uint16,tensor:string,block:int32,first:int64,weight:list<item: float not null>,state:list<item: float not null>,average:list<item: float not null>,average_at:uint64"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("pyarrow saw no %s:\n%s", want, out)
		}
	}
}
