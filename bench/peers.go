package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/kernel"
	"github.com/tidemill/tidemill/internal/process"
)

// PeersConfig says what Peers compares. Binary, Dir and Venv are required.
type PeersConfig struct {
	Binary string // the program; each of its runs is a process
	Dir    string // for rows, stream and scripts
	Venv   string // Python environment of the peers; made when missing, and kept
	Python string // that makes it; "": the first that fits
	Seed   uint64
	Rows   int64    // default 1,000,000
	Pairs  int      // default 5
	Models []string // some of PeerModels; default all
	// Batches of DeepFM; default 512, 2048.
	Batches []int
	// Only are the peers to run, by their names in PeerNames; default all.
	Only   []string
	Events func(Event)
}

// PeerModels are what can be compared.
func PeerModels() []string { return []string{tidemill.Logistic, tidemill.DeepFM, "gemm"} }

// PeerNames are the peers.
func PeerNames() []string { return []string{"vw", "tensorflow", "torch", "openblas"} }

// PeerResult compares Tidemill and one peer at one thing. Figures that are nil were not measured;
// Error then says why.
type PeerResult struct {
	Workload string   `json:"workload"`
	Metric   string   `json:"metric"`
	Tidemill *float64 `json:"tidemill"` // median
	Peer     *float64 `json:"peer"`     // median
	PeerName string   `json:"peer_name"`
	// Ratios of Tidemill's metric to the peer's, pair by pair.
	RatioMin        *float64 `json:"ratio_min"`
	RatioMedian     *float64 `json:"ratio_median"`
	RatioMax        *float64 `json:"ratio_max"`
	Pairs           int      `json:"pairs"`
	QualityMetric   string   `json:"quality_metric,omitempty"`
	TidemillQuality *float64 `json:"tidemill_quality"`
	PeerQuality     *float64 `json:"peer_quality"`
	// Most memory that was resident, in bytes, and processor time of the pass, in seconds; medians.
	TidemillRSS *float64 `json:"tidemill_max_rss_bytes"`
	PeerRSS     *float64 `json:"peer_max_rss_bytes"`
	TidemillCPU *float64 `json:"tidemill_cpu_seconds"`
	PeerCPU     *float64 `json:"peer_cpu_seconds"`
	PeerVersion string   `json:"peer_version,omitempty"`
	PeerThreads int      `json:"peer_threads,omitempty"`
	Error       string   `json:"error,omitempty"`
}

// pass is what one pass of one system was.
type pass struct {
	Speed   float64 `json:"rows_per_second"`
	CPU     float64 `json:"cpu_seconds"`
	RSS     float64 `json:"max_rss_bytes"`
	Quality float64 `json:"quality"`
	Threads int     `json:"threads"`
	Version string  `json:"version"`
}

// contest is one job of Tidemill's and the peers that do the same.
type contest struct {
	name  string
	job   ClicksJobConfig
	peers []rival
}

// rival is a peer with its settings.
type rival struct {
	name   string // as printed
	lock   string // that it needs, one of PeerNames
	script string
	args   []string
}

// qualityMetric is what passes are judged by.
const qualityMetric = "AUC over the last tenth, predicted before learned"

// contests are those of a configuration.
func (cfg *PeersConfig) contests() []contest {
	var out []contest
	threads := fmt.Sprint(runtime.GOMAXPROCS(0))
	if slices.Contains(cfg.Models, tidemill.Logistic) {
		vw := func(model, source string) rival {
			return rival{fmt.Sprintf("VW %s, from %s", model, source), "vw", "vw.py", []string{"--model", model, "--source", source}}
		}
		out = append(out,
			contest{"logistic/ftrl", ClicksJobConfig{Model: tidemill.Logistic, Optimizer: tidemill.FTRL, Batch: 512}, []rival{vw("ftrl", "cache"), vw("ftrl", "text")}},
			contest{"logistic/adagrad", ClicksJobConfig{Model: tidemill.Logistic, Optimizer: tidemill.Adagrad, Batch: 512}, []rival{
				vw("adaptive", "cache"), vw("adaptive", "text"),
				{"TensorFlow, batches of 512", "tensorflow", "tf.py", []string{"--model", "logistic", "--batch", "512", "--threads", threads}},
				{"PyTorch, batches of 512", "torch", "torch_peer.py", []string{"--model", "logistic", "--batch", "512", "--threads", threads}},
			}})
	}
	if slices.Contains(cfg.Models, tidemill.DeepFM) {
		for _, b := range cfg.Batches {
			args := []string{"--model", "deepfm", "--batch", fmt.Sprint(b), "--threads", threads}
			// The peers compute in float32 in both.
			for _, precision := range []string{"", tidemill.BFloat16} {
				name := fmt.Sprintf("deepfm/batch=%d", b)
				if precision != "" {
					name += "/" + precision
				}
				out = append(out, contest{name, ClicksJobConfig{Model: tidemill.DeepFM, Optimizer: tidemill.Adagrad, Batch: b, Precision: precision}, []rival{
					{"TensorFlow, XLA", "tensorflow", "tf.py", args}, {"PyTorch, compiled", "torch", "torch_peer.py", args},
				}})
			}
		}
	}
	for i := range out {
		out[i].peers = slices.DeleteFunc(out[i].peers, func(p rival) bool { return !slices.Contains(cfg.Only, p.lock) })
	}
	return slices.DeleteFunc(out, func(c contest) bool { return len(c.peers) == 0 })
}

// Peers runs Tidemill and other systems on the same rows, each run a process of its own, in turns,
// and compares speed, quality, memory and processor time. A peer that cannot be set up or run is
// in the results with its error; only what keeps all of them away is an error.
func Peers(ctx context.Context, cfg PeersConfig) ([]PeerResult, *report.Report, error) {
	if err := cfg.complete(); err != nil {
		return nil, nil, err
	}
	r := report.New("peers", fmt.Sprintf("One pass over the same %d rows of clicks by Tidemill and by others, in turns, %d times; each run is a process of its own.", cfg.Rows, cfg.Pairs))
	say := func(format string, args ...any) {
		if cfg.Events != nil {
			cfg.Events(Event{time.Since(r.Began), fmt.Sprintf(format, args...)})
		}
	}
	contests := cfg.contests()
	var locks []string
	for _, c := range contests {
		for _, p := range c.peers {
			if !slices.Contains(locks, p.lock) {
				locks = append(locks, p.lock)
			}
		}
	}
	gemm := slices.Contains(cfg.Models, "gemm") && slices.Contains(cfg.Only, "openblas")
	if gemm && !slices.Contains(locks, "vw") {
		locks = append(locks, "vw") // the smallest that brings numpy, and with it OpenBLAS
	}
	env, err := setUp(ctx, cfg.Venv, cfg.Python, filepath.Join(cfg.Dir, "scripts"), locks, func(s string) { say("%s", s) })
	if err != nil {
		return nil, nil, err
	}
	rows := filepath.Join(cfg.Dir, "rows")
	if len(contests) > 0 && len(env.missing) < len(locks) {
		say("writes %d rows for the peers", cfg.Rows)
		if err := WritePeerRows(ctx, rows, &workload.Clicks{Seed: cfg.Seed}, cfg.Rows, nil); err != nil {
			return nil, nil, err
		}
	}
	var out []PeerResult
	for _, c := range contests {
		results, err := cfg.contest(ctx, r, env, &c, rows, say)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, results...)
	}
	if gemm {
		results, err := cfg.gemm(ctx, env, say)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, results...)
	}
	addRatios(r, out)
	r.Note("A ratio is Tidemill's rows a second by the peer's in the same turn. Tidemill reads a durable stream, transforms, keeps count of every row and writes a snapshot every 10 s; VW reads text or its own cache; TensorFlow and PyTorch have hashed arrays in memory. Peers have 2^22 weights or rows, Tidemill one for each value.")
	if !slices.ContainsFunc(out, func(p PeerResult) bool { return p.Error == "" }) {
		return out, r.Done(), fmt.Errorf("no peer could be compared: %s: %w", out[0].Error, tidemill.ErrUnavailable)
	}
	return out, r.Done(), nil
}

func (cfg *PeersConfig) complete() error {
	if cfg.Binary == "" || cfg.Dir == "" || cfg.Venv == "" {
		return tidemill.Invalid("a comparison without program, directory or environment", "set Binary, Dir and Venv")
	}
	or(&cfg.Rows, 1_000_000)
	or(&cfg.Pairs, 5)
	if len(cfg.Models) == 0 {
		cfg.Models = PeerModels()
	}
	if len(cfg.Batches) == 0 {
		cfg.Batches = []int{512, 2048}
	}
	if len(cfg.Only) == 0 {
		cfg.Only = PeerNames()
	}
	for _, m := range cfg.Models {
		if !slices.Contains(PeerModels(), m) {
			return tidemill.Invalid("nothing to compare is called %q", "use "+strings.Join(PeerModels(), ", "), m)
		}
	}
	for _, p := range cfg.Only {
		if !slices.Contains(PeerNames(), p) {
			return tidemill.Invalid("no peer is called %q", "use "+strings.Join(PeerNames(), ", "), p)
		}
	}
	for _, b := range cfg.Batches {
		if b < 1 || int64(b) > cfg.Rows {
			return tidemill.Invalid("batches of %d of %d rows", "give fewer, and at least 1", b, cfg.Rows)
		}
	}
	if cfg.Rows < 1000 || cfg.Pairs < 1 {
		return tidemill.Invalid("%d pairs over %d rows", "give at least 1, and 1000", cfg.Pairs, cfg.Rows)
	}
	if len(cfg.contests()) == 0 && !(slices.Contains(cfg.Models, "gemm") && slices.Contains(cfg.Only, "openblas")) {
		return tidemill.Invalid("no peer of those that are named does %s", "name others", strings.Join(cfg.Models, " or "))
	}
	return nil
}

// contest runs all systems of a contest, each round beginning with the next of them.
func (cfg *PeersConfig) contest(ctx context.Context, r *report.Report, env *environment, c *contest, rows string, say func(string, ...any)) ([]PeerResult, error) {
	n := 1 + len(c.peers)
	passes := make([][]*pass, n) // by system, Tidemill first; nil where one failed
	failed := make([]error, n)
	for i, p := range c.peers {
		failed[i+1] = env.missing[p.lock]
	}
	for round := range cfg.Pairs {
		for k := range n {
			i := (round + k) % n
			name := "tidemill"
			if i > 0 {
				name = c.peers[i-1].name
			}
			if failed[i] != nil {
				passes[i] = append(passes[i], nil)
				continue
			}
			var p *pass
			var err error
			if i == 0 {
				p, err = cfg.tidemill(ctx, c)
			} else {
				p, err = env.run(ctx, &c.peers[i-1], rows)
			}
			if err != nil {
				if i == 0 || ctx.Err() != nil {
					return nil, fmt.Errorf("%s: %s: %w", c.name, name, err)
				}
				failed[i] = err
				say("%s: %s: %v", c.name, name, err)
			} else {
				m := map[string]float64{"rows/s": p.Speed, "AUC": p.Quality, "max-rss-MB": p.RSS / 1e6, "cpu-s/Mrow": p.CPU / float64(cfg.Rows) * 1e6}
				r.Add(fmt.Sprintf("work=%s/system=%s", strings.ReplaceAll(c.name, "/", "-"), name), cfg.Rows, m)
				say("%s: %-28s %8.0f rows/s, AUC %.4f, %5.2f s of processor", c.name, name, p.Speed, p.Quality, p.CPU)
			}
			passes[i] = append(passes[i], p)
		}
	}
	var out []PeerResult
	for i, p := range c.peers {
		res := compare(passes[0], passes[i+1])
		res.Workload, res.Metric, res.PeerName, res.QualityMetric = c.name, "rows/s", p.name, qualityMetric
		if failed[i+1] != nil {
			res.Error = failed[i+1].Error()
		}
		out = append(out, res)
	}
	return out, nil
}

// compare compares passes of equal rounds. Rounds in which either is missing have no ratio.
func compare(own, other []*pass) PeerResult {
	var ratios []float64
	for k := range own {
		if own[k] != nil && other[k] != nil && other[k].Speed > 0 {
			ratios = append(ratios, own[k].Speed/other[k].Speed)
		}
	}
	res := PeerResult{Pairs: len(ratios), RatioMin: some(report.Quantile(ratios, 0)), RatioMedian: some(report.Median(ratios)), RatioMax: some(report.Quantile(ratios, 1))}
	of := func(passes []*pass, figure func(*pass) float64) *float64 {
		var v []float64
		for _, p := range passes {
			if p != nil {
				v = append(v, figure(p))
			}
		}
		return some(report.Median(v))
	}
	speed := func(p *pass) float64 { return p.Speed }
	quality := func(p *pass) float64 { return p.Quality }
	rss := func(p *pass) float64 { return p.RSS }
	cpu := func(p *pass) float64 { return p.CPU }
	res.Tidemill, res.Peer = of(own, speed), of(other, speed)
	res.TidemillQuality, res.PeerQuality = of(own, quality), of(other, quality)
	res.TidemillRSS, res.PeerRSS = of(own, rss), of(other, rss)
	res.TidemillCPU, res.PeerCPU = of(own, cpu), of(other, cpu)
	for _, p := range other {
		if p != nil {
			res.PeerVersion, res.PeerThreads = p.Version, p.Threads
		}
	}
	return res
}

// some is a figure, or nil for none.
func some(v float64) *float64 {
	if v != v {
		return nil
	}
	return &v
}

// tidemill runs one pass by a process of this program.
func (cfg *PeersConfig) tidemill(ctx context.Context, c *contest) (*pass, error) {
	cores := fmt.Sprint(runtime.GOMAXPROCS(0))
	precision := c.job.Precision
	if precision == "" {
		precision = tidemill.Float32
	}
	out, err := process.Run(ctx, cfg.Binary, "bench", "train", "--json", "--model", c.job.Model, "--optimizer", c.job.Optimizer, "--batch", fmt.Sprint(c.job.Batch),
		"--precision", precision, "--rows", fmt.Sprint(cfg.Rows), "--seed", fmt.Sprint(cfg.Seed), "--partitions", "2", "--slots", cores, "--dir", filepath.Join(cfg.Dir, "stream"))
	if err != nil {
		return nil, err
	}
	var t TrainResult
	if err := json.Unmarshal([]byte(lastLine(string(out))), &t); err != nil || t.Rows != cfg.Rows {
		return nil, fmt.Errorf("it said %q: %w", lastLine(string(out)), tidemill.ErrCorrupt)
	}
	return &pass{Speed: t.RowsPerSecond, CPU: t.CPUSeconds, RSS: float64(t.PeakBytes), Quality: t.AUC}, nil
}

// run runs one pass of a peer.
func (e *environment) run(ctx context.Context, p *rival, rows string) (*pass, error) {
	args := append([]string{filepath.Join(e.scripts, p.script), "--rows", rows, "--bits", fmt.Sprint(PeerBits)}, p.args...)
	cmd := exec.CommandContext(ctx, e.python, args...)
	cmd.Env = append(os.Environ(), "TF_CPP_MIN_LOG_LEVEL=2")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("it failed: %s: %w", lastLine(stderr.String()), tidemill.ErrUnavailable)
	}
	var got pass
	if err := json.Unmarshal([]byte(lastLine(string(out))), &got); err != nil || got.Speed <= 0 {
		return nil, fmt.Errorf("it said %q: %w", lastLine(string(out)), tidemill.ErrCorrupt)
	}
	return &got, nil
}

// gemm compares matrix products with OpenBLAS's, told to take the kernels of the same instructions.
func (cfg *PeersConfig) gemm(ctx context.Context, env *environment, say func(string, ...any)) ([]PeerResult, error) {
	var levels []kernel.Level
	for _, l := range kernel.Levels() {
		if coreTypes[l] != "" {
			levels = append(levels, l)
		}
	}
	missing := env.missing["vw"]
	if missing == nil && len(levels) == 0 {
		missing = tidemill.Invalid("this machine or build has no assembly level to compare", "build for amd64, without the tag noasm")
	}
	if missing != nil {
		return []PeerResult{{Workload: "gemm", Metric: "GFLOP/s", PeerName: "OpenBLAS", Error: missing.Error()}}, nil
	}
	var rounds []*report.Report
	for round := range cfg.Pairs {
		r, err := Kernels(ctx, KernelsConfig{Levels: levels, Runs: 1, Python: env.python})
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return []PeerResult{{Workload: "gemm", Metric: "GFLOP/s", PeerName: "OpenBLAS", Error: err.Error()}}, nil
		}
		rounds = append(rounds, r)
		say("gemm: round %d of %d", round+1, cfg.Pairs)
	}
	var out []PeerResult
	for _, l := range levels {
		for _, p := range Products() {
			var own, other []*pass
			for _, r := range rounds {
				for s, to := range map[string]*[]*pass{l.String(): &own, "openblas-" + strings.ToLower(coreTypes[l]): &other} {
					if v := some(r.Median(kernelName(s, p), "GFLOP/s")); v != nil {
						*to = append(*to, &pass{Speed: *v})
					} else {
						*to = append(*to, nil)
					}
				}
			}
			res := compare(own, other)
			res.Workload, res.Metric, res.PeerName = "gemm/"+kernelName(l.String(), p), "GFLOP/s", "OpenBLAS "+coreTypes[l]
			res.TidemillQuality, res.PeerQuality, res.TidemillRSS, res.PeerRSS, res.TidemillCPU, res.PeerCPU = nil, nil, nil, nil, nil, nil
			if res.Pairs == 0 {
				res.Error = "OpenBLAS did not take the kernels of this level"
			}
			out = append(out, res)
		}
	}
	return out, nil
}

// addRatios puts the comparison into the report.
func addRatios(r *report.Report, all []PeerResult) {
	p := report.Plot{Title: "Tidemill's speed by the peer's, median", YLabel: "ratio"}
	var s report.Series
	for _, x := range all {
		if x.Error != "" {
			r.Note(fmt.Sprintf("%s: %s was not measured: %s", x.Workload, x.PeerName, x.Error))
		}
		if x.RatioMedian == nil {
			continue
		}
		r.Add(fmt.Sprintf("ratio/work=%s/peer=%s", strings.ReplaceAll(x.Workload, "/", "-"), x.PeerName), int64(x.Pairs), map[string]float64{
			"ratio-min": *x.RatioMin, "ratio-median": *x.RatioMedian, "ratio-max": *x.RatioMax,
		})
		if x.Metric == "rows/s" {
			p.Categories, s.Y = append(p.Categories, x.Workload+" "+x.PeerName), append(s.Y, *x.RatioMedian)
		}
	}
	if len(s.Y) > 0 {
		p.Series = []report.Series{s}
		r.Plots = append(r.Plots, p)
	}
}
