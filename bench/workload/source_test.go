package workload

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/tidemill/tidemill"
)

// However it is cut, the stream of each generator is the same.
func TestSourcesOfParts(t *testing.T) {
	for _, name := range Names() {
		src, err := Find(name, 5, 0)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := src.Read(100, 50)
		if err != nil {
			t.Fatal(err)
		}
		part, err := src.Read(120, 10)
		if err != nil {
			t.Fatal(err)
		}
		slice := whole.NewSlice(20, 30)
		if !array.RecordEqual(part, slice) || !part.Schema().Equal(src.Schema()) || src.Rows() != 0 {
			t.Errorf("%s: rows 120 to 130 differ when they are made alone", name)
		}
		other, err := Find(name, 6, 0)
		if err != nil {
			t.Fatal(err)
		}
		another, err := other.Read(120, 10)
		if err != nil {
			t.Fatal(err)
		}
		if array.RecordEqual(another, part) {
			t.Errorf("%s: another seed gives the same rows", name)
		}
		whole.Release()
		part.Release()
		slice.Release()
		another.Release()
	}
	if _, err := Find("click", 1, 0); !errors.Is(err, tidemill.ErrInvalid) || err.Error() != `no generator is called "click" (did you mean clicks?)` {
		t.Error(err)
	}
}

// Ratings spread over the whole scale, and what is known of user and item explains a part of them.
func TestRatingsHaveAShape(t *testing.T) {
	g := &Ratings{Seed: 3, Users: 50, Items: 20}
	const n = 20000
	var sum, squares float64
	byPair := map[[2]int64][]float64{}
	seen := map[float64]bool{}
	for i := range int64(n) {
		r := g.Row(i)
		if r.User < 0 || r.User >= 50 || r.Item < 0 || r.Item >= 20 || r.Rating < 1 || r.Rating > 5 || r.Rating*2 != math.Trunc(r.Rating*2) {
			t.Fatalf("row %d: %+v", i, r)
		}
		sum, squares, seen[r.Rating] = sum+r.Rating, squares+r.Rating*r.Rating, true
		k := [2]int64{r.User, r.Item}
		byPair[k] = append(byPair[k], r.Rating)
	}
	deviation := math.Sqrt(squares/n - sum/n*sum/n)
	var within, count float64
	for _, v := range byPair {
		var s, ss float64
		for _, x := range v {
			s, ss = s+x, ss+x*x
		}
		within, count = within+ss-s*s/float64(len(v)), count+float64(len(v)-1)
	}
	if inner := math.Sqrt(within / count); len(seen) != 9 || inner > 0.95*deviation || inner < RatingNoise/2 {
		t.Errorf("%d values, deviation %.3f, %.3f of one pair", len(seen), deviation, inner)
	}
}

func TestSensorHasAShape(t *testing.T) {
	g := &Sensor{Seed: 3}
	const n = 20000
	var missing, sum, squares float64
	var row Reading
	for i := range int64(n) {
		g.Row(i, &row)
		for _, m := range row.Missing {
			if m {
				missing++
			}
		}
		sum, squares = sum+row.Load, squares+row.Load*row.Load
	}
	deviation := math.Sqrt(squares/n - sum/n*sum/n)
	if share := missing / n / Channels; share < 0.01 || share > 0.03 || deviation < 2*SensorNoise {
		t.Errorf("%.3f of the channels are missing, the load's deviation is %.2f", share, deviation)
	}
}

// A file gives the rows it has, across its batches, and refuses others.
func TestFile(t *testing.T) {
	g := &Sensor{Seed: 1}
	rows, err := g.Read(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Release()
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(g.Schema()))
	for _, cut := range [][2]int64{{0, 30}, {30, 31}, {31, 100}} {
		part := rows.NewSlice(cut[0], cut[1])
		if err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		part.Release()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "rows.arrow")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(name, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Rows() != 100 {
		t.Fatalf("%d rows", f.Rows())
	}
	for _, cut := range [][2]int64{{0, 100}, {0, 1}, {29, 32}, {30, 31}, {99, 100}, {10, 20}} {
		got, err := f.Read(cut[0], int(cut[1]-cut[0]))
		if err != nil {
			t.Fatal(err)
		}
		want := rows.NewSlice(cut[0], cut[1])
		if !array.RecordEqual(got, want) {
			t.Errorf("rows %v differ", cut)
		}
		got.Release()
		want.Release()
	}
	for _, cut := range [][2]int64{{-1, 1}, {0, 101}, {100, 101}, {5, 5}} {
		if _, err := f.Read(cut[0], int(cut[1]-cut[0])); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("rows %v: %v", cut, err)
		}
	}
	few, err := OpenFile(name, 40, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer few.Close()
	if few.Rows() != 40 {
		t.Errorf("%d rows of at most 40", few.Rows())
	}
	if _, err := OpenFile(name+"x", 0, nil); !errors.Is(err, tidemill.ErrInvalid) {
		t.Error(err)
	}
}
