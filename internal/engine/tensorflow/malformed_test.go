//go:build tensorflow

package tensorflow_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// archive is a graph file taken apart, entry by entry.
type archive map[string][]byte

func unpack(t testing.TB, data []byte) archive {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	a := archive{}
	for _, f := range z.File {
		r, err := f.Open()
		if err == nil {
			a[f.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// pack puts an archive together, with sums that are right where its manifest can be read.
func (a archive) pack(t testing.TB) []byte {
	t.Helper()
	var m map[string]any
	if json.Unmarshal(a["manifest.json"], &m) == nil {
		var parts []any
		for _, name := range []string{"graph.pb", "parameters.bin"} {
			sum := sha256.Sum256(a[name])
			parts = append(parts, map[string]any{"name": name, "bytes": len(a[name]), "sha256": hex.EncodeToString(sum[:])})
		}
		m["parts"] = parts
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		a["manifest.json"] = b
	}
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, name := range []string{"manifest.json", "graph.pb", "parameters.bin"} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = w.Write(a[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// spoil changes a graph file somewhere.
func spoil(t testing.TB, r *rand.Rand, good archive) []byte {
	a := archive{}
	for name, b := range good {
		a[name] = slices.Clone(b)
	}
	flip := func(b []byte) {
		for range 1 + r.IntN(4) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
	}
	// What occurs in the file somewhere, put elsewhere, is more likely to get past the first checks.
	numbers := []byte{0, 1, 2, 3, 4, 7, 8, 9, 0x7f}
	switch r.IntN(5) {
	case 0:
		flip(a["graph.pb"])
	case 1:
		b := a["graph.pb"]
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] = numbers[r.IntN(len(numbers))]
		}
	case 2: // two names of the same length change places: other edges, other ops
		names := bytes.FieldsFunc(a["graph.pb"], func(c rune) bool { return c < '0' || c > 'z' })
		x, y := names[r.IntN(len(names))], names[r.IntN(len(names))]
		if len(x) == len(y) {
			for k := range x {
				x[k], y[k] = y[k], x[k]
			}
		}
	case 3:
		words := []string{`"shape":[-1]`, `"shape":[-1,4]`, `:0"`, `"momentum":0.99`, `"kind":"rows"`, `"kind":"numbers"`, `"dim":4`, `"width":1`}
		others := []string{`"shape":[-1,2]`, `"shape":[4,-1]`, `:1"`, `"momentum":2`, `"kind":"label"`, `"kind":"weight"`, `"dim":5`, `"width":3`, `"shape":[]`}
		from := words[r.IntN(len(words))]
		var compact bytes.Buffer
		if err := json.Compact(&compact, a["manifest.json"]); err != nil {
			t.Fatal(err)
		}
		b := compact.Bytes()
		if at := bytes.Index(b[min(len(b)-1, r.IntN(len(b))):], []byte(from)); at >= 0 {
			b = bytes.Replace(b, []byte(from), []byte(others[r.IntN(len(others))]), 1+r.IntN(2))
		}
		a["manifest.json"] = b
	default:
		b := a.pack(t)
		flip(b)
		return b
	}
	return a.pack(t)
}

// attempts is how many malformed graphs and feeds are tried; TIDEMILL_TENSORFLOW_ATTEMPTS is another number.
func attempts() int {
	if n, err := strconv.Atoi(os.Getenv("TIDEMILL_TENSORFLOW_ATTEMPTS")); err == nil {
		return n
	}
	if testing.Short() {
		return 200
	}
	return 1000
}

// A graph file changed at random is refused, or computes something or fails; the process lives.
func TestMalformedGraphs(t *testing.T) {
	const seed = 17
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	d := driver(t)
	good := unpack(t, ratings(t))
	refused, failed, ran := 0, 0, 0
	for i := range attempts() {
		data := spoil(t, r, good)
		if dir := os.Getenv("TIDEMILL_TENSORFLOW_KEEP"); dir != "" { // what ends the process is then the last one there
			if err := os.WriteFile(filepath.Join(dir, "attempt.graph"), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m, err := d.Compile(&ratingsSpec, ratingsShape, engine.Options{Graph: data})
		if err != nil {
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatalf("attempt %d: error %v is not of kind ErrInvalid", i, err)
			}
			refused++
			continue
		}
		in, look, p := examples(m, 1+r.IntN(3), uint64(i))
		st := m.NewStepper()
		st.Step(in, look, p)
		if st.Err() != nil {
			failed++
			continue
		}
		ran++
		st.Predict(make([]float32, in.N*m.Outputs()), in, look, p)
	}
	t.Logf("%d refused, %d failed in TensorFlow, %d ran", refused, failed, ran)
	if refused == 0 || ran == 0 {
		t.Error("the attempts are too wild or too tame to say anything")
	}
}

// Inputs changed at random are refused by their check or by the stepper, before TensorFlow sees
// them, or computed.
func TestMalformedFeeds(t *testing.T) {
	const seed = 18
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	m := compileRatings(t)
	st := m.NewStepper()
	refused, ran := 0, 0
	for i := range attempts() {
		in, look, p := examples(m, 1+r.IntN(4), uint64(i))
		odd := []float32{float32(math.NaN()), float32(math.Inf(1)), -1, 1e30, 0.5}
		switch r.IntN(10) {
		case 0:
			in.N += 1 - 2*r.IntN(2)
		case 1:
			in.Dense = in.Dense[:r.IntN(len(in.Dense))]
		case 2:
			in.Labels = in.Labels[:r.IntN(len(in.Labels))]
		case 3:
			in.Keys = in.Keys[:r.IntN(len(in.Keys))]
		case 4:
			in.Offsets[1+r.IntN(len(in.Offsets)-1)] = int32(r.IntN(20) - 5)
		case 5:
			in.Weights = make([]float32, r.IntN(4))
		case 6:
			p.Rows[r.IntN(2)] = make([]float32, r.IntN(40))
		case 7:
			k := r.IntN(len(p.Dense))
			p.Dense[k] = p.Dense[k][:r.IntN(len(p.Dense[k]))]
		case 8:
			in.Labels[r.IntN(in.N)] = odd[r.IntN(len(odd))]
		default:
			in.Dense[r.IntN(len(in.Dense))] = odd[r.IntN(len(odd))]
		}
		if in.Check(true) != nil {
			refused++
			continue
		}
		if rows := engine.Lookups(nil, new(engine.Scratch), in, m); !slices.EqualFunc(rows, look, func(a, b engine.Lookup) bool { return slices.Equal(a.Index, b.Index) }) {
			// Offsets that are in order make other inputs, with other rows.
			look = rows
			for t, s := range m.Tables() {
				p.Rows[t] = make([]float32, len(look[t].Unique)*s.Dim)
			}
		}
		func() {
			defer func() {
				if v := recover(); v != nil {
					if s := fmt.Sprint(v); !strings.HasPrefix(s, "tensorflow: ") {
						t.Fatalf("attempt %d: panic %v", i, v)
					}
					refused++
				}
			}()
			st.Step(in, look, p)
			if st.Err() == nil {
				ran++
			}
		}()
	}
	t.Logf("%d refused, %d ran", refused, ran)
	in, look, p := examples(m, 3, 1)
	want := all(m.NewStepper().Step(in, look, p))
	if got := all(st.Step(in, look, p)); !slices.Equal(got, want) {
		t.Error("after them a good batch gives other bits")
	}
}
