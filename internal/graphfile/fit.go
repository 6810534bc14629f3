package graphfile

import (
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
)

// Tables returns the sparse tables that the file implies, in the manifest's order.
func (f *File) Tables() []tidemill.TableSpec {
	out := make([]tidemill.TableSpec, len(f.Manifest.Tables))
	for i, t := range f.Manifest.Tables {
		out[i] = tidemill.TableSpec{Name: t.Name, Dim: t.Dim, Init: tidemill.Init{Kind: initKinds[t.Init.Kind], Scale: t.Init.Scale}}
	}
	return out
}

// Tensors returns the dense tensors that the file implies, in the order of its parameters. Their
// first values are f.Initial, whatever Init says.
func (f *File) Tensors() []tidemill.TensorSpec {
	out := make([]tidemill.TensorSpec, len(f.Manifest.Parameters))
	for i, p := range f.Manifest.Parameters {
		out[i] = tidemill.TensorSpec{Name: p.Name, Shape: slices.Clone(p.Shape)}
	}
	return out
}

// Binding says where the inputs of a graph come from in engine.Inputs.
type Binding struct {
	// Columns[i] are, for an input of kind Numbers, the columns of Inputs.Dense in row-major
	// order; nil for others.
	Columns [][]int
	// Field[i] is the sparse field of an input of kind Rows or Present; -1 for others.
	Field []int
	// Table[i] is the table of an input of kind Rows; -1 for others.
	Table []int
	// Uses[t][f] says whether field f looks rows up in table t.
	Uses [][]bool
}

// Fit joins the file's inputs to the features of spec, which have the given shape. A feature
// that is missing, of another kind or unused, and a label that the graph does not learn, are
// refused with tidemill.ErrInvalid.
func (f *File) Fit(spec *tidemill.Spec, shape engine.Shape) (*Binding, error) {
	m := &f.Manifest
	label, classes := spec.Label.Type, 0
	if label == "" {
		label = tidemill.Binary
	}
	if label == tidemill.Multiclass {
		classes = len(spec.Label.Classes)
	}
	if label != m.Label.Type || classes != m.Label.Classes {
		return nil, tidemill.Invalid("the graph learns a %s label (%d classes), and the job's is %s (%d classes)",
			"change the job's label, or export the model with another loss", m.Label.Type, m.Label.Classes, label, classes)
	}
	b := &Binding{
		Columns: make([][]int, len(m.Inputs)), Field: make([]int, len(m.Inputs)), Table: make([]int, len(m.Inputs)),
		Uses: make([][]bool, len(m.Tables)),
	}
	for t := range b.Uses {
		b.Uses[t] = make([]bool, shape.Fields)
	}
	features := slices.Clone(spec.Features)
	for i := range features {
		if mh := features[i].MultiHot; mh != nil {
			own := *mh
			features[i].MultiHot = &own
		}
		features[i].Bucketize, features[i].Vocabulary = nil, nil // not asked for here
		feature.Defaults(&features[i])
	}
	used := map[string]bool{}
	for i := range m.Inputs {
		in := &m.Inputs[i]
		b.Field[i], b.Table[i] = -1, -1
		switch in.Kind {
		case Numbers:
			for _, name := range in.Features {
				at := slices.Index(shape.DenseNames, name)
				if at < 0 {
					return nil, noFeature(in, name, "a number", shape.DenseNames, shape.FieldNames)
				}
				b.Columns[i] = append(b.Columns[i], at)
				used[name] = true
			}
		case Rows, Present:
			at := slices.Index(shape.FieldNames, in.Feature)
			if at < 0 {
				return nil, noFeature(in, in.Feature, "ids", shape.FieldNames, shape.DenseNames)
			}
			if err := fits(in, features); err != nil {
				return nil, err
			}
			b.Field[i] = at
			used[in.Feature] = true
			if in.Kind == Rows {
				b.Table[i] = slices.IndexFunc(m.Tables, func(t Table) bool { return t.Name == in.Table })
				b.Uses[b.Table[i]][at] = true
			}
		}
	}
	for i := range features {
		for _, part := range features[i].Cross {
			used[part] = true
		}
	}
	for _, name := range slices.Concat(shape.FieldNames, shape.DenseNames) {
		if !used[name] {
			return nil, tidemill.Invalid("feature %q is no input of the graph", "leave it out; the graph takes "+strings.Join(f.Features(), ", "), name)
		}
	}
	return b, nil
}

// Features returns the names of the features that the graph takes, each once, in order of its
// inputs.
func (f *File) Features() []string {
	var names []string
	for i := range f.Manifest.Inputs {
		in := &f.Manifest.Inputs[i]
		for _, name := range append(slices.Clone(in.Features), in.Feature) {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// noFeature is the error for a feature that the job lacks, or has of another kind.
func noFeature(in *Input, name, want string, have, other []string) error {
	if slices.Contains(other, name) {
		if want == "ids" {
			return tidemill.Invalid("feature %q is a number, and the graph looks rows of table %s up by its ids",
				"give the feature bucketize, or hash: {} to take its values as ids", name, in.Table)
		}
		return tidemill.Invalid("feature %q has ids, and input %q of the graph takes numbers",
			"use a column of numbers, without hash, vocabulary and bucketize; or an Embedding layer in the model", name, in.Tensor)
	}
	remedy := "add it to the job's features, or name others in tidemill.keras.export(features=…)"
	if near := tidemill.Nearest(name, have); near != "" {
		remedy = "did you mean " + near + "?"
	}
	return tidemill.Invalid("the job has no feature %q, of which the graph takes %s", remedy, name, want)
}

// fits checks that an input has room for all ids that its feature can have in an example.
func fits(in *Input, features []tidemill.FeatureSpec) error {
	find := func(name string) int {
		return slices.IndexFunc(features, func(f tidemill.FeatureSpec) bool { return f.Name == name })
	}
	i := find(in.Feature)
	if i < 0 {
		return nil // the caller knows it
	}
	for _, part := range features[i].Cross {
		if k := find(part); k >= 0 && features[k].MultiHot != nil {
			return tidemill.Invalid("feature %q crosses %q, which has several ids in an example", "cross features of one id", in.Feature, part)
		}
	}
	if features[i].MultiHot == nil {
		return nil
	}
	room, axis := in.Positions()
	have := features[i].MultiHot.Max
	switch {
	case !axis:
		return tidemill.Invalid("feature %q has several ids in an example, and the graph takes one", "leave multi_hot out, or give the model's input a length: Input((20,))", in.Feature)
	case have > room:
		return tidemill.Invalid("feature %q has up to %d ids in an example, and the graph takes %d", "set multi_hot.max to what the graph takes", in.Feature, have, room)
	}
	return nil
}
