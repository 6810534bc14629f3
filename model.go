package tidemill

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Spec is a job: a model, the stream it learns from and how. internal/spec reads it from
// YAML, fills in defaults and checks it; the zero value of a field means its default.
type Spec struct {
	Model        string        `json:"model" yaml:"model"`
	Engine       string        `json:"engine,omitempty" yaml:"engine"` // native (default) or tensorflow
	Stream       StreamSpec    `json:"stream" yaml:"stream"`
	Label        LabelSpec     `json:"label" yaml:"label"`
	Time         TimeSpec      `json:"time,omitzero" yaml:"time"`
	Weight       string        `json:"weight,omitempty" yaml:"weight"` // column of example weights, ≥ 0
	Features     []FeatureSpec `json:"features" yaml:"features"`
	Architecture Architecture  `json:"architecture" yaml:"architecture"`
	Optimizer    OptimizerSpec `json:"optimizer" yaml:"optimizer"`
	// Tables says which rows sparse tables have, by the name of the table.
	Tables map[string]TableChoice `json:"tables,omitempty" yaml:"tables"`
	Train  TrainSpec              `json:"train" yaml:"train"`
	Gate   GateSpec               `json:"gate" yaml:"gate"`
	Serve  ServeSpec              `json:"serve,omitzero" yaml:"serve"`
	Seed   uint64                 `json:"seed,omitempty" yaml:"seed"`
	// Shards is V, fixed when the job is created; 64 by default.
	Shards int `json:"shards,omitempty" yaml:"shards"`
}

// Hash identifies the spec: equal specs have equal hashes.
func (s *Spec) Hash() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("tidemill: a spec always marshals: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// StreamSpec says what a job reads and from where.
type StreamSpec struct {
	Topic string `json:"topic" yaml:"topic"`
	// From is earliest (default), latest, or an RFC 3339 time; Offsets, one per partition,
	// wins over it.
	From    string  `json:"from,omitempty" yaml:"from"`
	Offsets []int64 `json:"offsets,omitempty" yaml:"offsets"`
	// Kafka says that the topic lives there, and not in the cluster's own stream.
	Kafka *KafkaSpec `json:"kafka,omitempty" yaml:"kafka"`
}

// Label types.
const (
	Binary     = "binary"
	Regression = "regression"
	Multiclass = "multiclass"
)

// LabelSpec turns a column into what the model predicts.
type LabelSpec struct {
	Column string `json:"column" yaml:"column"`
	Type   string `json:"type,omitempty" yaml:"type"` // binary (default), regression, multiclass
	// Binary: values written as text, compared with the column's value (numbers by value).
	// With both lists any other value is a bad row; with one list everything else is the
	// other class. AtLeast makes numbers ≥ it positive.
	Positive []string `json:"positive,omitempty" yaml:"positive"`
	Negative []string `json:"negative,omitempty" yaml:"negative"`
	AtLeast  *float64 `json:"at_least,omitempty" yaml:"at_least"`
	// Multiclass: the classes in output order.
	Classes []string `json:"classes,omitempty" yaml:"classes"`
}

// TimeSpec names the event-time column; without one an example's time is its arrival.
type TimeSpec struct {
	Column        string        `json:"column,omitempty" yaml:"column"`
	MaxOutOfOrder time.Duration `json:"max_out_of_order,omitempty" yaml:"max_out_of_order"`
}

// FeatureSpec is one model input. Without any transform a number column is used as it is and
// a text column is hashed.
type FeatureSpec struct {
	Name   string `json:"name,omitempty" yaml:"name"` // default: the column, or the crossed names joined by _x_
	Column string `json:"column,omitempty" yaml:"column"`

	// Numeric, applied in this order.
	Impute      *float64     `json:"impute,omitempty" yaml:"impute"` // value of a null; default 0 (the mean, if standardized)
	Clip        []float64    `json:"clip,omitempty" yaml:"clip"`     // [low, high]
	Log1p       bool         `json:"log1p,omitempty" yaml:"log1p"`   // sign(x)·log(1+|x|)
	Standardize *Standardize `json:"standardize,omitempty" yaml:"standardize"`
	Bucketize   *Bucketize   `json:"bucketize,omitempty" yaml:"bucketize"`

	// Categorical.
	Hash       *HashSpec   `json:"hash,omitempty" yaml:"hash"`
	Vocabulary *Vocabulary `json:"vocabulary,omitempty" yaml:"vocabulary"`
	MultiHot   *MultiHot   `json:"multi_hot,omitempty" yaml:"multi_hot"`

	// Cross names n ≥ 2 other features with categorical output; the product of their values.
	Cross []string `json:"cross,omitempty" yaml:"cross"`
}

// Standardize subtracts the running mean and divides by the running standard deviation of
// the rows trained so far; a constant column gives 0.
type Standardize struct{}

// Bucketize turns a number into the index of its bucket. Exactly one field is set. Edges
// e₀ < … < eₙ₋₁ make n+1 buckets: bucket k holds eₖ₋₁ ≤ x < eₖ. A null has a bucket of its own.
type Bucketize struct {
	Edges     []float64 `json:"edges,omitempty" yaml:"edges"`
	Geometric []float64 `json:"geometric,omitempty" yaml:"geometric"` // [first, last, number of edges], first > 0
	Uniform   []float64 `json:"uniform,omitempty" yaml:"uniform"`     // [first, last, number of edges]
	Quantiles int       `json:"quantiles,omitempty" yaml:"quantiles"` // number of buckets, edges learned, then frozen
	// LearnRows is how many rows quantile edges are learned from (default 1000). Until they
	// are frozen every value falls into one "not yet known" bucket.
	LearnRows int `json:"learn_rows,omitempty" yaml:"learn_rows"`
}

// HashSpec hashes a value to a 64-bit id, seeded by the feature's name.
type HashSpec struct {
	Buckets uint64 `json:"buckets,omitempty" yaml:"buckets"` // 0: the full 64 bits
}

// Vocabulary maps known values to ids of their own and all others to one.
type Vocabulary struct {
	Values []string `json:"values,omitempty" yaml:"values"`
	// LearnRows > 0 learns the values from the first rows, then freezes them; MaxSize keeps
	// the most frequent (default 10000).
	LearnRows int `json:"learn_rows,omitempty" yaml:"learn_rows"`
	MaxSize   int `json:"max_size,omitempty" yaml:"max_size"`
}

// MultiHot treats a value as a list: an Arrow list column, or text split at Separator.
type MultiHot struct {
	Separator string `json:"separator,omitempty" yaml:"separator"` // default: a space
	Max       int    `json:"max,omitempty" yaml:"max"`             // entries used of one row; default 64
}

// Architecture kinds.
const (
	Linear   = "linear"
	Logistic = "logistic"
	Softmax  = "softmax"
	FM       = "fm"
	MLP      = "mlp"
	WideDeep = "wide_deep"
	DeepFM   = "deepfm"
	DLRM     = "dlrm"
	DCN      = "dcn"
	Graph    = "graph"
)

// Precisions.
const (
	Float32  = "float32"
	BFloat16 = "bfloat16"
)

// Architecture says what computes a prediction from the features.
type Architecture struct {
	Kind   string `json:"kind" yaml:"kind"`
	Dim    int    `json:"dim,omitempty" yaml:"dim"`       // of factors and embeddings; default 8
	Hidden []int  `json:"hidden,omitempty" yaml:"hidden"` // of the deep part; default [64, 32]
	// Bottom are dlrm's layers over the numbers, before the last one, which has Dim units;
	// default [64].
	Bottom []int `json:"bottom,omitempty" yaml:"bottom"`
	// File of kind graph: where the graph file was when the job was submitted. Graph is the SHA-256
	// by which the object store has it, set at submit.
	File  string `json:"file,omitempty" yaml:"file"`
	Graph string `json:"graph,omitempty" yaml:"-"`
	// CrossLayers of dcn, default 3, with weights of rank Rank; 0 is full rank.
	CrossLayers int `json:"cross_layers,omitempty" yaml:"cross_layers"`
	Rank        int `json:"rank,omitempty" yaml:"rank"`
	// LayerNorm normalises what goes into each hidden unit over its layer.
	LayerNorm bool `json:"layer_norm,omitempty" yaml:"layer_norm"`
	// Dropout is the share of hidden units that each example trains without; default 0.
	Dropout float64 `json:"dropout,omitempty" yaml:"dropout"`
	// Precision of the factors in the products of hidden and cross layers: float32 (default) or
	// bfloat16, which is about twice as fast where the processor has it. Sums, weights and all else
	// are float32.
	Precision string `json:"precision,omitempty" yaml:"precision"`
	// Loss: logistic, squared, huber or softmax; default by label type. A graph is trained by its
	// own; Loss is then what predictions are compared by.
	Loss       string  `json:"loss,omitempty" yaml:"loss"`
	HuberDelta float64 `json:"huber_delta,omitempty" yaml:"huber_delta"` // default 1
	// InitScale is the standard deviation of initial factors and embeddings; default 0.01.
	InitScale float64 `json:"init_scale,omitempty" yaml:"init_scale"`
}

// OptimizerSpec says how gradients become parameters.
type OptimizerSpec struct {
	Sparse OptimizerChoice `json:"sparse,omitzero" yaml:"sparse"`
	Dense  OptimizerChoice `json:"dense,omitzero" yaml:"dense"`
	// Tables holds a choice of its own for some tables, by name; Sparse is for the others.
	Tables map[string]OptimizerChoice `json:"tables,omitempty" yaml:"tables"`
	// ClipNorm scales a batch's gradient down to this Euclidean norm, over all parameters that
	// the batch touches; 0 does not.
	ClipNorm float64 `json:"clip_norm,omitempty" yaml:"clip_norm"`
	// Average keeps decayed averages of all weights; they are what is served.
	Average *AverageSpec `json:"average,omitempty" yaml:"average"`
}

// AverageSpec: after each example avg ← decay·avg + (1−decay)·w.
type AverageSpec struct {
	Decay float64 `json:"decay" yaml:"decay"` // in (0, 1)
}

// Optimizer kinds.
const (
	SGD      = "sgd"
	Momentum = "momentum"
	Adagrad  = "adagrad"
	RMSProp  = "rmsprop"
	Adam     = "adam"
	FTRL     = "ftrl"
)

// OptimizerChoice is an optimizer with its hyper-parameters; ps/optim gives them meaning and
// defaults. Zero means the default of the kind.
type OptimizerChoice struct {
	Kind     string    `json:"kind,omitempty" yaml:"-"`
	LR       float64   `json:"lr,omitempty" yaml:"lr"`             // learning rate (FTRL calls it alpha)
	Alpha    float64   `json:"alpha,omitempty" yaml:"alpha"`       // ftrl
	Beta     float64   `json:"beta,omitempty" yaml:"beta"`         // ftrl; default 1
	L1       float64   `json:"l1,omitempty" yaml:"l1"`             // ftrl
	L2       float64   `json:"l2,omitempty" yaml:"l2"`             // ftrl; weight decay elsewhere
	Momentum float64   `json:"momentum,omitempty" yaml:"momentum"` // momentum; default 0.9
	Rho      float64   `json:"rho,omitempty" yaml:"rho"`           // rmsprop; default 0.9
	Beta1    float64   `json:"beta1,omitempty" yaml:"beta1"`       // adam; default 0.9
	Beta2    float64   `json:"beta2,omitempty" yaml:"beta2"`       // adam; default 0.999
	Epsilon  float64   `json:"epsilon,omitempty" yaml:"epsilon"`   // adagrad 1e-10, rmsprop and adam 1e-8
	Initial  float64   `json:"initial,omitempty" yaml:"initial"`   // adagrad's initial accumulator; default 0.1
	Schedule *Schedule `json:"schedule,omitempty" yaml:"schedule"`
}

// Schedule scales the learning rate by the number of examples the job has trained, never by
// the clock.
type Schedule struct {
	Kind   string  `json:"kind" yaml:"kind"`     // constant, warmup, inverse_sqrt, exponential, cosine
	Warmup int64   `json:"warmup" yaml:"warmup"` // examples of linear warm-up
	Over   int64   `json:"over" yaml:"over"`     // examples per decay period (exponential, cosine) or scale (inverse_sqrt)
	Factor float64 `json:"factor" yaml:"factor"` // exponential: factor per period; cosine: final fraction
}

// Interval is a cadence, in rows or in time (the other is zero), and how much of what it makes
// is kept.
type Interval struct {
	Rows int64         `json:"rows,omitempty"`
	Time time.Duration `json:"time,omitempty"`
	// Keep is how many of the newest snapshots can be restored; default DefaultKeep. Older ones go,
	// but those of savepoints, and of versions that serve or are under test.
	Keep int `json:"keep,omitempty"`
}

// KeepVersions is how many of a model's newest versions keep their files at least, so that an
// answer can still be checked against the version that it names; DefaultKeep does not bound it.
const KeepVersions = 100

// DefaultKeep is how many snapshots a job keeps unless its spec says otherwise.
const DefaultKeep = 10

// Reductions of a batch's losses.
const (
	ReduceMean = "mean"
	ReduceSum  = "sum"
)

// TrainSpec says how a job is run.
type TrainSpec struct {
	Batch  int           `json:"batch,omitempty" yaml:"batch"`   // rows per batch; default 512
	Linger time.Duration `json:"linger,omitempty" yaml:"linger"` // how long a short batch waits for more rows at the log's end; default 200ms
	// Reduction says what gradients are of: the mean of a batch's losses (default), or their sum,
	// with which a row counts as much in a large batch as in one of its own. That suits adaptive
	// optimizers of sparse tables, where most ids occur in one row of a batch.
	Reduction string `json:"reduction,omitempty" yaml:"reduction"`
	// Staleness: 0 synchronous rounds (default), n > 0 at most n batches ahead of the
	// slowest partition, -1 asynchronous.
	Staleness int `json:"staleness,omitempty" yaml:"staleness"`
	// HotRows is how many of the rows that it asks for most often a partition's worker may use
	// again without pulling them, within the staleness; 0: none.
	HotRows int `json:"hot_rows,omitempty" yaml:"hot_rows"`
	// HotBatches is for how many batches it may, after the one that a row was pulled for; 0: at
	// staleness n that is n. At staleness -1, where nothing else bounds it, it has to be given.
	HotBatches int      `json:"hot_batches,omitempty" yaml:"hot_batches"`
	Snapshot   Interval `json:"snapshot,omitzero" yaml:"-"`         // default 10s
	MaxRows    int64    `json:"max_rows,omitempty" yaml:"max_rows"` // of each table; 0: no bound
	// MaxBadRows is how many rows may be put aside before the job pauses; default 1000.
	MaxBadRows  BadBudget `json:"max_bad_rows,omitzero" yaml:"max_bad_rows"`
	Parallelism int       `json:"parallelism,omitempty" yaml:"parallelism"` // most workers to use; 0: all
	PS          int       `json:"ps,omitempty" yaml:"ps"`                   // most parameter servers to use; 0: all
	UntilEnd    bool      `json:"until_end,omitempty" yaml:"until_end"`     // stop at the end offsets found at submit
	// End is the cut at which a bounded job stops; set at submit.
	End Cut `json:"end,omitempty" yaml:"-"`
}

// Gate modes and what a gate has to prove.
const (
	GateOn  = "on"
	GateOff = "off" // every candidate is published, recorded as unproven; for tests

	ProveNotWorse = "not_worse" // publish when proven not worse by more than the margin (default)
	ProveHarm     = "harm"      // publish unless proven worse, once MinExamples are seen
)

// GateSpec says what a candidate has to prove (trainer/gate).
type GateSpec struct {
	Mode        string  `json:"mode,omitempty" yaml:"mode"`
	Prove       string  `json:"prove,omitempty" yaml:"prove"`
	Margin      float64 `json:"margin,omitempty" yaml:"margin"`             // relative to the champion's loss; default 0.01
	Alpha       float64 `json:"alpha,omitempty" yaml:"alpha"`               // error probability per decision; default 0.01
	Clip        float64 `json:"clip,omitempty" yaml:"clip"`                 // bound of a loss difference; default 0.5
	MinExamples int64   `json:"min_examples,omitempty" yaml:"min_examples"` // fresh rows before any decision; default 1000
	MaxExamples int64   `json:"max_examples,omitempty" yaml:"max_examples"` // fresh rows after which an undecided candidate is rejected; default 20×min
}

// ServeSpec says how a model is served.
type ServeSpec struct {
	MaxBatch int `json:"max_batch,omitempty" yaml:"max_batch"` // rows per request; default 1024
	Keep     int `json:"keep,omitempty" yaml:"keep"`           // older versions kept loaded for explicit requests; default 2
}

// Job states. Submitted → validating → running ⇄ paused → finished, failed or cancelled.
const (
	JobSubmitted  = "submitted"
	JobValidating = "validating"
	JobRunning    = "running"
	JobPaused     = "paused"
	JobFinished   = "finished"
	JobFailed     = "failed"
	JobCancelled  = "cancelled"
)
