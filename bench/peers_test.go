package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/workload"
)

// Ratios are pair by pair, and those of rounds that one side did not finish do not count.
func TestComparePasses(t *testing.T) {
	own := []*pass{{Speed: 10, Quality: 0.7, RSS: 1, CPU: 2}, {Speed: 30, Quality: 0.7, RSS: 3, CPU: 4}, {Speed: 20, Quality: 0.7, RSS: 5, CPU: 6}}
	other := []*pass{{Speed: 5, Quality: 0.6}, nil, {Speed: 40, Quality: 0.6, Threads: 2, Version: "1"}}
	r := compare(own, other)
	if r.Pairs != 2 || *r.RatioMin != 0.5 || *r.RatioMax != 2 || *r.RatioMedian != 1.25 || *r.Tidemill != 20 || *r.Peer != 22.5 ||
		*r.TidemillQuality != 0.7 || *r.PeerQuality != 0.6 || *r.TidemillRSS != 3 || *r.TidemillCPU != 4 || r.PeerThreads != 2 || r.PeerVersion != "1" {
		t.Errorf("%+v", r)
	}
	none := compare(own, []*pass{nil, nil, nil})
	b, err := json.Marshal(none)
	if err != nil {
		t.Fatal(err)
	}
	if none.Pairs != 0 || !strings.Contains(string(b), `"peer":null`) || !strings.Contains(string(b), `"ratio_median":null`) {
		t.Errorf("%s", b)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "n")
		speeds := rapid.SliceOfN(rapid.Float64Range(1, 1e6), n, n)
		var a, b []*pass
		for i, s := range speeds.Draw(t, "own") {
			a, b = append(a, &pass{Speed: s}), append(b, nil)
			b[i] = &pass{Speed: s / 3}
		}
		if r := compare(a, b); math.Abs(*r.RatioMin-3) > 1e-9 || math.Abs(*r.RatioMax-3) > 1e-9 || r.Pairs != n {
			t.Fatalf("%v %v", *r.RatioMin, *r.RatioMax)
		}
	})
}

// What peers are given are the rows of the generator, in forms that agree with each other.
func TestPeerRows(t *testing.T) {
	const n = peerChunk + 10
	dir := filepath.Join(t.TempDir(), "rows")
	clicks := &workload.Clicks{Seed: 4}
	if err := WritePeerRows(t.Context(), dir, clicks, n, nil); err != nil {
		t.Fatal(err)
	}
	read := func(name string, wide int, shape string) []uint32 {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		head := 10 + int(binary.LittleEndian.Uint16(b[8:]))
		if string(b[:6]) != "\x93NUMPY" || head%64 != 0 || !strings.Contains(string(b[:head]), "'shape': ("+shape+")") || b[head-1] != '\n' {
			t.Fatalf("%s begins %q", name, b[:head])
		}
		if len(b)-head != 4*n*wide {
			t.Fatalf("%s has %d bytes", name, len(b)-head)
		}
		out := make([]uint32, n*wide)
		for i := range out {
			out[i] = binary.LittleEndian.Uint32(b[head+4*i:])
		}
		return out
	}
	labels := read("labels.npy", 1, fmt.Sprintf("%d,", n))
	numbers := read("numbers.npy", 13, fmt.Sprintf("%d, 13", n))
	ids := read("ids.npy", 26, fmt.Sprintf("%d, 26", n))
	text, err := os.ReadFile(filepath.Join(dir, "rows.vw"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != n {
		t.Fatalf("%d lines", len(lines))
	}
	known := map[string]uint32{} // the text of a value to its id
	var row workload.Click
	for i, line := range lines {
		clicks.Row(int64(i), &row)
		label, rest, _ := strings.Cut(line, " |")
		if row.Clicked != (label == "1") || row.Clicked != (math.Float32frombits(labels[i]) == 1) {
			t.Fatalf("row %d: clicked %v, %q, %v", i, row.Clicked, label, labels[i])
		}
		features := strings.Fields(rest)
		for j, word := range features[len(features)-26:] {
			id := ids[i*26+j]
			if was, ok := known[word]; ok && was != id || id >= 1<<PeerBits || word[0] != byte('A'+j) {
				t.Fatalf("row %d: %q has id %d, before it had %d", i, word, id, was)
			}
			known[word] = id
		}
		for _, word := range features[:len(features)-26] {
			var v float32
			if _, err := fmt.Sscanf(word[2:], "%g", &v); err != nil {
				t.Fatal(err)
			}
			if got := math.Float32frombits(numbers[i*13+int(word[0]-'a')]); math.Abs(float64(got-v)) > 1e-5*math.Abs(float64(v)) {
				t.Fatalf("row %d: %q, %v", i, word, got)
			}
		}
	}
	// Once written they stay.
	if err := WritePeerRows(t.Context(), dir, nil, n, nil); err != nil {
		t.Error(err)
	}
}

// fake writes a program that a comparison takes for Python, or for this program: pip fails where
// pip says so.
func fake(t *testing.T, pip string) (python, binary string) {
	t.Helper()
	dir := t.TempDir()
	python, binary = filepath.Join(dir, "python"), filepath.Join(dir, "tidemill")
	for name, script := range map[string]string{
		python: `#!/bin/sh
case "$1 $2" in
"-c "*) echo 3.12 ;;
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") ` + pip + ` ;;
*vw.py*) echo '{"rows_per_second": 50, "cpu_seconds": 2, "max_rss_bytes": 3, "quality": 0.7, "threads": 2, "version": "9"}' ;;
*) echo "Traceback" >&2; echo "ValueError: no such thing" >&2; exit 1 ;;
esac
`,
		binary: "#!/bin/sh\necho '{\"rows\": 3000, \"rows_per_second\": 100, \"cpu_seconds\": 1, \"auc_last_tenth\": 0.75, \"peak_rss_bytes\": 5}'\n",
	} {
		if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return python, binary
}

func TestPeers(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("peers are pinned for Linux on x86-64")
	}
	python, binary := fake(t, "exit 0")
	cfg := PeersConfig{Binary: binary, Dir: t.TempDir(), Venv: filepath.Join(t.TempDir(), "venv"), Python: python, Rows: 3000, Pairs: 3, Models: []string{tidemill.Logistic}, Only: []string{"vw", "tensorflow"}}
	results, r, err := Peers(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 5 {
		t.Fatalf("%d results", len(results))
	}
	for _, x := range results {
		if strings.HasPrefix(x.PeerName, "VW") {
			if x.Error != "" || x.Pairs != 3 || *x.RatioMedian != 2 || *x.PeerQuality != 0.7 || *x.TidemillQuality != 0.75 {
				t.Errorf("%+v", x)
			}
		} else if x.Pairs != 0 || x.RatioMedian != nil || !strings.Contains(x.Error, "ValueError: no such thing") {
			t.Errorf("%+v", x)
		}
	}
	if len(r.Plots) != 1 || len(r.Plots[0].Categories) != 4 {
		t.Errorf("%+v", r.Plots)
	}
}

// A peer that cannot be installed is named with what pip said; without any peer the run fails.
func TestPeersThatCannotBeHad(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("peers are pinned for Linux on x86-64")
	}
	python, binary := fake(t, `echo "ERROR: no matching distribution" >&2; exit 1`)
	cfg := PeersConfig{Binary: binary, Dir: t.TempDir(), Venv: filepath.Join(t.TempDir(), "venv"), Python: python, Rows: 3000, Pairs: 1}
	results, r, err := Peers(t.Context(), cfg)
	if !errors.Is(err, tidemill.ErrUnavailable) || r == nil || len(results) != 6+2*4+1 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for _, x := range results {
		if !strings.Contains(x.Error, "no matching distribution") || !strings.Contains(x.Error, "pip's own configuration") {
			t.Errorf("%+v", x)
		}
	}
	cfg.Venv, cfg.Python = filepath.Join(t.TempDir(), "venv"), filepath.Join(t.TempDir(), "nothing")
	if _, _, err := Peers(t.Context(), cfg); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "no Python was found") {
		t.Error(err)
	}
	for _, bad := range []PeersConfig{{Models: []string{"dcn"}}, {Only: []string{"river"}}, {Batches: []int{0}}, {Rows: 10}, {Models: []string{"gemm"}, Only: []string{"vw"}}} {
		bad.Binary, bad.Dir, bad.Venv = binary, "x", "x"
		if _, _, err := Peers(t.Context(), bad); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
