package bench

import (
	"fmt"
	"math"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/workload"
)

// ClicksModels are the architectures that ClicksJob knows.
func ClicksModels() []string { return []string{tidemill.Logistic, tidemill.DeepFM} }

// ClicksJobConfig says what ClicksJob makes; zero values are the defaults that are named.
type ClicksJobConfig struct {
	Engine    string // native or tensorflow; native
	Model     string // one of ClicksModels; logistic
	Optimizer string // of the sparse tables: ftrl or adagrad; adagrad
	Batch     int    // rows; 512
	Staleness int
	// Buckets is how many ids each category is hashed to; 0: all 64 bits, so that no two values
	// share a weight.
	Buckets int
	// Precision of DeepFM's layers, as architecture.precision; float32.
	Precision string
}

// ClicksJob returns the YAML of a job over workload.Clicks: logarithms of the numbers, hashed
// categories, snapshots every 10 s, and hyper-parameters that suit one pass.
func ClicksJob(cfg ClicksJobConfig) ([]byte, error) {
	if cfg.Model == "" {
		cfg.Model = tidemill.Logistic
	}
	if cfg.Optimizer == "" {
		cfg.Optimizer = tidemill.Adagrad
	}
	if cfg.Batch == 0 {
		cfg.Batch = 512
	}
	if cfg.Batch < 1 || cfg.Buckets < 0 {
		return nil, tidemill.Invalid("a batch of %d rows and %d buckets", "give at least one row", cfg.Batch, cfg.Buckets)
	}
	if cfg.Precision == "" {
		cfg.Precision = tidemill.Float32
	}
	if cfg.Precision != tidemill.Float32 && (cfg.Precision != tidemill.BFloat16 || cfg.Model != tidemill.DeepFM) {
		return nil, tidemill.Invalid("the precision %q of %s", "use float32, or bfloat16 for deepfm", cfg.Precision, cfg.Model)
	}
	architecture := map[string]string{
		tidemill.Logistic: "{kind: logistic}",
		tidemill.DeepFM:   fmt.Sprintf("{kind: deepfm, dim: 16, hidden: [256, 128], precision: %s}", cfg.Precision),
	}[cfg.Model]
	if architecture == "" {
		return nil, tidemill.Invalid("no benchmark trains %q", "use "+strings.Join(ClicksModels(), " or "), cfg.Model)
	}
	var sparse, dense string
	switch cfg.Optimizer {
	case tidemill.FTRL:
		sparse, dense = "{ftrl: {alpha: 0.1, beta: 1}}", "{adagrad: {lr: 0.05}}"
	case tidemill.Adagrad:
		sparse, dense = "{adagrad: {lr: 0.1, initial: 0.1}}", "{adagrad: {lr: 0.05}}"
	default:
		return nil, tidemill.Invalid("the optimizer %q", "use ftrl or adagrad", cfg.Optimizer)
	}
	if cfg.Model == tidemill.DeepFM {
		// A first step of an id's weight by about 0.02 of its gradient: more, or an accumulator that
		// begins smaller, fits embeddings to the one row that an id occurs in.
		dense = "{adam: {lr: 0.001}}"
		if cfg.Optimizer == tidemill.Adagrad {
			sparse = "{adagrad: {lr: 0.02, initial: 1}}"
		}
	}
	var b strings.Builder
	if cfg.Engine != "" {
		fmt.Fprintf(&b, "engine: %s\n", cfg.Engine)
	}
	fmt.Fprintf(&b, "model: clicks\nstream: {topic: %s, from: earliest}\nlabel: {column: clicked, positive: 1}\ntime: {column: ts}\nfeatures:\n", topicName)
	for i := range workload.Numbers {
		// A number that is missing is one like most: its logarithm is 1+0.3·i in the middle.
		fmt.Fprintf(&b, "  - {name: i%d, column: i%[1]d, impute: %.3g, log1p: true}\n", i+1, math.Exp(1+0.3*float64(i))-1)
	}
	hash := "{}"
	if cfg.Buckets > 0 {
		hash = fmt.Sprintf("{buckets: %d}", cfg.Buckets)
	}
	for i := range workload.Categories {
		fmt.Fprintf(&b, "  - {name: c%d, column: c%[1]d, hash: %s}\n", i+1, hash)
	}
	fmt.Fprintf(&b, "architecture: %s\noptimizer: {sparse: %s, dense: %s}\n", architecture, sparse, dense)
	// A row counts the same in batches of any size; Adam takes gradients of any size alike.
	fmt.Fprintf(&b, "train: {batch: %d, reduction: sum, staleness: %d, snapshot: {every: 10s}}\ngate: {mode: off}\n", cfg.Batch, cfg.Staleness)
	return []byte(b.String()), nil
}
