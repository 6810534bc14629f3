package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/peers"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Product is C[m × n] += op(A)·op(B) with k summed over: NN, TN (A transposed) or NT (B transposed).
type Product struct {
	Op      string
	M, N, K int
}

func (p Product) String() string { return fmt.Sprintf("op=%s/shape=%dx%dx%d", p.Op, p.M, p.N, p.K) }

// flops is how many floating-point operations the product takes.
func (p Product) flops() float64 { return 2 * float64(p.M) * float64(p.N) * float64(p.K) }

// Products are those that DeepFM (26 fields of 16, 13 numbers, layers 256 and 128) and DLRM's
// bottom layers take forward and backward, and rows asked one at a time.
func Products() []Product {
	var out []Product
	for _, s := range [][3]int{{512, 256, 429}, {2048, 256, 429}, {2048, 128, 256}, {512, 64, 160}, {2048, 512, 13}, {1, 256, 429}} {
		m, n, k := s[0], s[1], s[2] // of the forward product
		out = append(out, Product{"NN", m, n, k}, Product{"TN", k, n, m}, Product{"NT", m, k, n})
	}
	return out
}

// KernelsConfig says what Kernels measures.
type KernelsConfig struct {
	Products []Product      // default Products()
	Levels   []kernel.Level // default all of this machine
	Least    time.Duration  // of each measurement; default 100 ms
	Runs     int            // default 3
	Python   string         // with numpy or scipy, to measure their OpenBLAS beside; "": none
	Events   func(Event)
}

// coreTypes are the kernels that OpenBLAS is told to take to be compared with a level.
var coreTypes = map[kernel.Level]string{kernel.AVX2: "Haswell", kernel.AVX512: "SkylakeX"}

// Kernels measures matrix products on one core, by the processor's time, at each instruction level.
func Kernels(ctx context.Context, cfg KernelsConfig) (*report.Report, error) {
	or(&cfg.Least, 100*time.Millisecond)
	cfg.Runs = orRuns(cfg.Runs)
	if len(cfg.Products) == 0 {
		cfg.Products = Products()
	}
	if len(cfg.Levels) == 0 {
		cfg.Levels = kernel.Levels()
	}
	r := report.New("kernel", "GFLOP/s of float32 matrix products on one core, by wall time, of random operands in cache as training has them.")
	rng := rand.New(rand.NewPCG(1, 1))
	began := time.Now()
	for range cfg.Runs {
		for _, level := range cfg.Levels {
			for _, p := range cfg.Products {
				if err := over(ctx, "kernel"); err != nil {
					return nil, err
				}
				n, seconds := product(kernel.NewGemm(level), p, rng, cfg.Least)
				r.Add(kernelName(level.String(), p), n, map[string]float64{"ns/op": 1e9 * seconds / float64(n), "GFLOP/s": p.flops() * float64(n) / seconds / 1e9})
			}
		}
		if cfg.Python == "" {
			continue
		}
		for _, level := range cfg.Levels {
			if core, ok := coreTypes[level]; ok {
				if err := openBLAS(ctx, r, &cfg, core); err != nil {
					return nil, err
				}
			}
		}
		if cfg.Events != nil {
			cfg.Events(Event{time.Since(began), "kernel: a round is measured"})
		}
	}
	if cfg.Python == "" {
		r.Note("OpenBLAS was not measured beside: give --venv, the environment that `tidemill bench peers` makes, or --python, one that has numpy.")
	}
	r.Plots = append(r.Plots, cfg.plot(r))
	return r.Done(), nil
}

func kernelName(level string, p Product) string { return fmt.Sprintf("level=%s/%s", level, p) }

// product multiplies for at least as long as given and returns how often, and in which time.
func product(g *kernel.Gemm, p Product, rng *rand.Rand, least time.Duration) (n int64, seconds float64) {
	random := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	a, b, c := random(p.M*p.K), random(p.K*p.N), make([]float32, p.M*p.N)
	do := func() {
		switch p.Op {
		case "NN":
			g.NN(c, a, b, p.M, p.N, p.K)
		case "TN":
			g.TN(c, a, b, p.M, p.N, p.K)
		case "NT":
			g.NT(c, a, b, p.M, p.N, p.K)
		default:
			panic("bench: unknown product " + p.Op)
		}
	}
	do() // packs into memory that is there from then on
	for batch, start := int64(1), time.Now(); ; batch *= 2 {
		for range batch {
			do()
		}
		n += batch
		if d := time.Since(start); d >= least {
			return n, d.Seconds()
		}
	}
}

// openBLAS measures the library of a Python's numpy or scipy, told which kernels to take.
func openBLAS(ctx context.Context, r *report.Report, cfg *KernelsConfig, core string) error {
	dir, err := os.MkdirTemp("", "tidemill-openblas-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := peers.Unpack(dir); err != nil {
		return err
	}
	args := []string{filepath.Join(dir, "openblas.py")}
	for _, p := range cfg.Products {
		args = append(args, fmt.Sprintf("%s,%d,%d,%d", p.Op, p.M, p.N, p.K))
	}
	cmd := exec.CommandContext(ctx, cfg.Python, args...)
	cmd.Env = append(os.Environ(), "OPENBLAS_CORETYPE="+core)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("OpenBLAS cannot be measured: %s: %w", lastLine(stderr.String()), tidemill.ErrUnavailable)
	}
	for line := range strings.Lines(string(out)) {
		var x struct {
			Op      string
			M, N, K int
			Gflops  float64
			Core    string
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			return fmt.Errorf("OpenBLAS's script said %q: %w", line, tidemill.ErrCorrupt)
		}
		p := Product{x.Op, x.M, x.N, x.K}
		r.Add(kernelName("openblas-"+strings.ToLower(x.Core), p), 1, map[string]float64{"ns/op": p.flops() / x.Gflops, "GFLOP/s": x.Gflops})
	}
	return nil
}

// lastLine returns the last line of text that is not empty.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func (cfg *KernelsConfig) plot(r *report.Report) report.Plot {
	p := report.Plot{Title: "Products on one core", YLabel: "GFLOP/s"}
	for _, x := range cfg.Products {
		p.Categories = append(p.Categories, fmt.Sprintf("%s %d·%d·%d", x.Op, x.M, x.N, x.K))
	}
	var series []string
	for _, l := range cfg.Levels {
		series = append(series, l.String())
		if core, ok := coreTypes[l]; ok && cfg.Python != "" {
			series = append(series, "openblas-"+strings.ToLower(core))
		}
	}
	for _, s := range series {
		var names []string
		for _, x := range cfg.Products {
			names = append(names, kernelName(s, x))
		}
		if m := medians(r, s, names, nil, "GFLOP/s"); len(m.Y) == len(names) {
			p.Series = append(p.Series, m)
		}
	}
	return p
}
