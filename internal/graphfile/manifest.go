package graphfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/tidemill/tidemill"
)

// Format is the number of the format that this package reads.
const Format = 1

// Kinds of input.
const (
	Numbers = "numbers" // dense features
	Rows    = "rows"    // gathered rows of a table
	Present = "present" // which positions of a Rows input hold an id
	Label   = "label"
	Weight  = "weight"
	Keys    = "keys" // engine.Inputs.Keys
)

// Kinds of parameter.
const (
	Trained = "weight" // changed by its gradient
	Moving  = "moving" // a moving statistic
)

// Kinds of prediction.
const (
	Probability = "probability"
	Value       = "value"
	Classes     = "classes"
)

// Manifest says what the tensors of a graph mean.
type Manifest struct {
	Format     int         `json:"format"`
	Name       string      `json:"name"`
	Made       Made        `json:"made"`
	Parts      []Part      `json:"parts"`
	Label      LabelType   `json:"label"`
	Inputs     []Input     `json:"inputs"`
	Tables     []Table     `json:"tables"`
	Parameters []Parameter `json:"parameters"`
	Prediction Prediction  `json:"prediction"`
	Loss       string      `json:"loss"` // tensor [N]
	Ops        []string    `json:"ops"`
	Check      SelfCheck   `json:"check"`
}

// Made names the versions of what wrote a file.
type Made struct {
	Tidemill   string `json:"tidemill"`
	Keras      string `json:"keras"`
	TensorFlow string `json:"tensorflow"`
}

// Part is another entry of the file.
type Part struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// LabelType is what a graph learns to predict.
type LabelType struct {
	Type    string `json:"type"`              // as tidemill.LabelSpec
	Classes int    `json:"classes,omitempty"` // multiclass only
}

// Input is a placeholder that is fed for each batch. Shape begins with -1 for the batch.
type Input struct {
	Kind     string   `json:"kind"`
	Tensor   string   `json:"tensor"`
	Shape    []int    `json:"shape"`
	Features []string `json:"features,omitempty"` // Numbers: as many as an example has values
	Feature  string   `json:"feature,omitempty"`  // Rows, Present
	Table    string   `json:"table,omitempty"`    // Rows
	Gradient string   `json:"gradient,omitempty"` // Rows: tensor of the input's shape
}

// Positions returns how many ids of an example a Rows or Present input has room for, and
// whether it has an axis for them.
func (in *Input) Positions() (n int, axis bool) {
	if in.Kind == Present || len(in.Shape) == 3 {
		return in.Shape[1], true
	}
	return 1, false
}

// Table is a sparse table.
type Table struct {
	Name string `json:"name"`
	Dim  int    `json:"dim"`
	Init Init   `json:"init"`
}

// Init is how rows begin.
type Init struct {
	Kind  string  `json:"kind"` // zero, normal, uniform, constant
	Scale float32 `json:"scale,omitempty"`
}

// Parameter is a dense tensor that is fed.
type Parameter struct {
	Name         string  `json:"name"`
	Kind         string  `json:"kind"`
	Tensor       string  `json:"tensor"`
	Shape        []int   `json:"shape"`
	Gradient     string  `json:"gradient,omitempty"`     // Trained
	Momentum     float32 `json:"momentum,omitempty"`     // Moving: in [0, 1)
	Contribution string  `json:"contribution,omitempty"` // Moving: a batch turns v into Momentum·v + Contribution
}

// Prediction is the output of a model.
type Prediction struct {
	Tensor string `json:"tensor"` // [N] or [N, Width]
	Kind   string `json:"kind"`
	Width  int    `json:"width"`
}

// SelfCheck is what the export found when it compared the graph with Keras: the largest
// differences, relative to the largest value.
type SelfCheck struct {
	Rows     int     `json:"rows"`
	Loss     float64 `json:"loss"`
	Gradient float64 `json:"gradient"`
}

// initKinds are the kinds of Init by name.
var initKinds = map[string]tidemill.InitKind{
	"zero": tidemill.InitZero, "normal": tidemill.InitNormal, "uniform": tidemill.InitUniform, "constant": tidemill.InitConstant,
}

func (r *reader) manifest(data []byte) (*Manifest, error) {
	var format struct {
		Format *int `json:"format"`
	}
	if err := json.Unmarshal(data, &format); err != nil {
		return nil, r.bad("export the model again", "manifest.json is not what an export writes: %v", err)
	}
	switch {
	case format.Format == nil:
		return nil, r.bad("export the model again", "manifest.json has no format number")
	case *format.Format != Format:
		return nil, r.bad("export the model with the Python package of this version", "the file has format %d, and this program reads %d", *format.Format, Format)
	}
	m := new(Manifest)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, r.bad("export the model again", "manifest.json is not what an export writes: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, r.bad("export the model again", "something follows the object in manifest.json")
	}
	return m, nil
}
