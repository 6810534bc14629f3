// Package engine says what a model computes: predictions, losses and gradients of a batch,
// from inputs that internal/feature made and parameters that ps served. Drivers live below
// it (native, tensorflow) and all pass enginetest.
//
// A driver compiles a spec to a Model once; each goroutine that computes has a Stepper of
// its own, whose buffers it reuses, so that the steady state allocates nothing.
package engine

import (
	"github.com/tidemill/tidemill"
)

// Inputs is a batch of N examples after the feature transforms.
//
// Fields of an example are either dense numbers or sparse ids. IDs are stored example by
// example, field by field, in compressed form: field f of example i is
// IDs[Offsets[i*Fields+f]:Offsets[i*Fields+f+1]], each with the value at the same position of
// Values (1 for a plain category). The owner is whoever filled it; drivers only read.
type Inputs struct {
	N       int
	Fields  int       // number of sparse fields
	Width   int       // number of dense numbers per example
	Dense   []float32 // [N × Width], row-major
	IDs     []uint64
	Values  []float32 // len(IDs); empty means all 1
	Offsets []int32   // len N*Fields+1
	Labels  []float32 // [N]: 0/1, a number, or a class index; empty when predicting
	Weights []float32 // [N]: example weights; empty means all 1
	// Keys [N] are what the random numbers of each example are functions of: its place in the
	// stream (Key). Only a Step of a model with dropout looks at them.
	Keys []uint64
}

// Key is the key of the example at an offset of a partition.
func Key(seed uint64, partition int, offset int64) uint64 {
	return tidemill.Mix(tidemill.Mix(seed+uint64(partition)) + uint64(offset))
}

// Reset empties in, keeping its buffers.
func (in *Inputs) Reset(fields, width int) {
	in.N, in.Fields, in.Width = 0, fields, width
	in.Dense, in.IDs, in.Values = in.Dense[:0], in.IDs[:0], in.Values[:0]
	in.Offsets = append(in.Offsets[:0], 0)
	in.Labels, in.Weights, in.Keys = in.Labels[:0], in.Weights[:0], in.Keys[:0]
}

// Lookup is one table's view of a batch: the distinct ids it needs and where each occurrence
// finds its row.
type Lookup struct {
	Unique []uint64 // distinct ids, in order of first occurrence, or of their shards (Scratch.Sort)
	Index  []int32  // len(Inputs.IDs): row in Unique, or -1 where the field does not use the table
}

// Params is what a batch needs of the model. Rows[t] is [len(Lookup[t].Unique) × dim] of
// table t, Dense[k] the values of tensor k. Drivers only read.
type Params struct {
	Rows  [][]float32
	Dense [][]float32
}

// Result receives a step. All slices are owned by the Stepper and valid until its next call.
type Result struct {
	// Predictions is [N × Outputs]: probabilities for logistic and softmax, values otherwise.
	Predictions []float32
	// Losses is [N], unweighted.
	Losses []float32
	// RowGrads[t] is laid out as Params.Rows[t]; DenseGrads[k] as Params.Dense[k]. Both are of
	// Σ weightᵢ·lossᵢ / N, summed in example order, so they do not depend on anything but the
	// batch. With dropout, that loss is of the units kept; Predictions and Losses are of all.
	RowGrads   [][]float32
	DenseGrads [][]float32
	// Moving says which of DenseGrads are no gradients but what the batch adds to a moving
	// statistic (Exported.Momentum); nil: none.
	Moving []bool
}

// Model is a compiled architecture: immutable, safe for concurrent use.
type Model interface {
	// Tables lists the sparse tables, in the order that Params.Rows uses.
	Tables() []tidemill.TableSpec
	// Tensors lists the dense tensors, in the order that Params.Dense uses.
	Tensors() []tidemill.TensorSpec
	// UsesField reports whether sparse field f looks rows up in table t.
	UsesField(t, f int) bool
	// Outputs is the number of predictions per example: 1, or the number of classes.
	Outputs() int
	// Profile names what the bits of a result depend on: engine, GOARCH, Go version and
	// instruction level.
	Profile() string
	// NewStepper returns a Stepper with buffers of its own.
	NewStepper() Stepper
}

// Stepper computes batches, one at a time, for one goroutine.
type Stepper interface {
	// Predict writes [in.N × Outputs] predictions to dst.
	Predict(dst []float32, in *Inputs, look []Lookup, p *Params)
	// Evaluate computes predictions and losses, the bits that Step would, and leaves the
	// gradients of the result as they were. Labels must be set.
	Evaluate(in *Inputs, look []Lookup, p *Params) *Result
	// Step computes predictions, losses and gradients. Labels must be set. The result is
	// valid until the next call.
	Step(in *Inputs, look []Lookup, p *Params) *Result
	// Err is why the last call computed nothing, and whatever it returned is unspecified; nil after
	// one that did. Engines that cannot fail always return nil.
	Err() error
}

// Shape is what a driver needs to know of the features: their number and how the spec names
// them.
type Shape struct {
	Fields     int      // sparse fields
	Width      int      // dense numbers
	FieldNames []string // len Fields
	DenseNames []string // len Width
	IsCross    []bool   // len Fields: a cross goes to the wide part of wide_deep only
	Outputs    int      // classes of a multiclass label, else 1
}
