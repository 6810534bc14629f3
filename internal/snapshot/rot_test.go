package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
)

// rotStore fills a directory with a store that has something of everything: two snapshots, the
// second on top of the first and with rows taken away, a savepoint, a record of what was
// collected, a version with decision and champion.
func rotStore(t *testing.T, dir string) {
	b, err := fileblob.Open(dir, fileblob.Options{})
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	s := state{v: 2, layout: Layout{
		Tables:  []TableLayout{{TableSpec: tidemill.TableSpec{Name: "t", Dim: 60}, State: 4, Average: true}},
		Tensors: []TensorLayout{{TensorSpec: tidemill.TensorSpec{Name: "w", Shape: []int{7}}}},
	}, rows: []map[int]map[uint64][]float32{{0: {}, 1: {}}}, blocks: map[int]map[[2]int]Block{}, aux: map[int]map[string][]byte{0: {"notes": []byte("{}")}}}
	s.blocks[tidemill.BlockShard("w", 0, 2)] = map[[2]int]Block{{0, 0}: {Weight: values(rng, 7)}}
	width := s.layout.Tables[0].Width()
	for id := range uint64(300) {
		row := values(rng, width)
		s.layout.Tables[0].PutAt(row, 5)
		s.rows[0][tidemill.ShardOf(id, 2)][id] = row
	}
	chain, err := Snapshots(b, "job")
	must(t, err)
	first := s.manifest(1, s.write(t, b, 1, 1, nil))
	must(t, Commit(ctx, chain, first))
	must(t, Commit(ctx, chain, &Manifest{Format: Format, Job: "job", Number: 2, Generation: 3, Fence: &Fence{Generation: 4, Holder: "t"}}))

	var images []ShardImage
	for _, img := range s.images(all, nil) {
		rows := s.rows[0][img.Shard]
		clean, _ := ShardDigest(first.Parts, img.Shard)
		for _, k := range img.Blocks {
			clean.SubBlock(tidemill.Hash("w"), k)
		}
		gone, changed := uint64(0), uint64(0)
		for id := range rows {
			gone, changed = max(gone, id), id
		}
		if changed == gone {
			changed = gone - 2
		}
		for rows[changed] == nil {
			changed--
		}
		clean.SubRow(tidemill.Hash("t"), gone, rows[gone])
		clean.SubRow(tidemill.Hash("t"), changed, rows[changed])
		delete(rows, gone)
		rows[changed] = slices.Clone(rows[changed])
		rows[changed][0] = 42
		img.Tables[0] = TableImage{Rows: newTestRows(width, rows, map[uint64]bool{changed: true}, nil),
			Base: first.Parts[0].Base(img.Shard, "t"), Clean: clean, Removed: []uint64{gone}}
		images = append(images, img)
	}
	prefix, err := PartName{Job: "job", Number: 3, Generation: 4, Epoch: 3, Attempt: 1, Member: "ps0"}.Prefix()
	must(t, err)
	part, err := WritePart(ctx, b, prefix, s.layout, images)
	must(t, err)
	second := s.manifest(3, []Part{part})
	must(t, Commit(ctx, chain, second))
	must(t, Verify(ctx, b, second))
	if n := len(part.Base(0, "t")); n != 3 {
		t.Fatalf("the second snapshot has %d layers: it should be on top of the first, with rows taken away", n)
	}
	_, err = NewSavepoint(ctx, b, first, "kept", "me", "", time.Unix(1, 0))
	must(t, err)
	taken, err := collections(b, "job")
	must(t, err)
	record, err := Seal(&collectionRecord{Format: collectionFormat, Job: "job", Collection: Collection{Below: 1}, By: "t"})
	must(t, err)
	must(t, taken.Append(ctx, 1, record))
	must(t, WriteVersion(ctx, b, testVersion(7)))
	_, err = WriteDecision(ctx, b, tidemill.Decision{Model: "model", Version: 7, Decision: tidemill.Held, Reason: "rows are missing"})
	must(t, err)
	champions, err := Champions(b, "model")
	must(t, err)
	must(t, AppendChampion(ctx, champions, tidemill.Champion{Model: "model", Seq: 1, Version: 7, Kind: "gate"}))
	must(t, b.Close())
}

// loadStore opens a store and loads all of it, as the roles do.
func loadStore(dir string) (newest int64, err error) {
	b, err := fileblob.Open(dir, fileblob.Options{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer b.Close()
	m, _, ierr := NewestIntact(ctx, b, "job")
	if ierr == nil {
		newest = m.Number
	}
	chain, err := Snapshots(b, "job")
	if err != nil {
		return newest, err
	}
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return newest, err
	}
	if len(numbers) != 3 {
		return newest, fmt.Errorf("%d records: %w", len(numbers), errNumber)
	}
	for _, n := range numbers {
		m, err := ReadManifest(ctx, chain, n)
		if err == nil && m.Fence == nil {
			err = Verify(ctx, b, m)
		}
		if err != nil {
			return newest, err
		}
	}
	if _, err := Taken(ctx, b, "job"); err != nil {
		return newest, err
	}
	if _, err := ReadSavepoint(ctx, b, "job", "kept"); err != nil {
		return newest, err
	}
	if _, err := ReadVersion(ctx, b, "model", 7); err != nil {
		return newest, err
	}
	if _, err := ReadDecision(ctx, b, "model", 7); err != nil {
		return newest, err
	}
	champions, err := Champions(b, "model")
	if err != nil {
		return newest, err
	}
	_, c, err := LastChampion(ctx, champions)
	if err == nil && c == nil {
		err = fmt.Errorf("no champion: %w", errNumber)
	}
	return newest, err
}

// errNumber: a record is missing at an end of its chain, which the chain alone cannot tell.
var errNumber = errors.New("another number of records")

// TestBitRot flips single bits in, and truncates, all files of a store, at random: a few hundred
// times, or 10,000 with TIDEMILL_TEST_LONG=1. Each is found when the store is loaded, by the
// name of the file, and the newest snapshot that it did not touch is offered.
func TestBitRot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	rotStore(t, dir)
	if newest, err := loadStore(dir); err != nil || newest != 3 {
		t.Fatalf("undamaged, newest %d: %v", newest, err)
	}
	var files []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "LOCK" {
			files = append(files, path)
		}
		return err
	}))
	// What snapshot 3 reads alone, and what both read.
	n := 200
	if os.Getenv("TIDEMILL_TEST_LONG") == "1" {
		n = 10_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		path := files[i%len(files)]
		name, err := filepath.Rel(dir, path)
		must(t, err)
		name = filepath.ToSlash(name)
		good, err := os.ReadFile(path)
		must(t, err)
		bad := bytes.Clone(good)
		what := ""
		if rng.IntN(10) == 0 {
			bad = bad[:rng.IntN(len(bad))]
			what = fmt.Sprintf("cut to %d of %d bytes", len(bad), len(good))
		} else {
			bit := rng.IntN(8 * len(bad))
			bad[bit/8] ^= 1 << (bit % 8)
			what = fmt.Sprintf("bit %d flipped", bit)
		}
		must(t, os.WriteFile(path, bad, 0o644))
		newest, err := loadStore(dir)
		switch {
		case err == nil:
			t.Errorf("%s, %s: nobody noticed", name, what)
		case name == "FORMAT":
			if !errors.Is(err, tidemill.ErrCorrupt) && !errors.Is(err, tidemill.ErrInvalid) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		case !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), name):
			t.Errorf("%s, %s: %v", name, what, err)
		case strings.Contains(name, "snapshot/000000003/") && newest != 1, strings.Contains(name, "models/") && newest != 3,
			strings.Contains(name, "/000000001/") && strings.Contains(name, "/manifest.json") && strings.Contains(name, "jobs/") && newest != 3:
			t.Errorf("%s, %s: snapshot %d is offered", name, what, newest)
		}
		must(t, os.WriteFile(path, good, 0o644))
		if t.Failed() {
			break
		}
	}
	// A file that is missing.
	for _, path := range files {
		if strings.HasSuffix(path, ".arrow") || strings.HasSuffix(path, ".bin") {
			must(t, os.Rename(path, path+".away"))
			if _, err := loadStore(dir); !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("%s removed: %v", filepath.Base(path), err)
			}
			must(t, os.Rename(path+".away", path))
		}
	}
}
