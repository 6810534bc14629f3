//go:build tensorflow

package tensorflow

import (
	"slices"
	"strconv"
	"strings"

	tf "github.com/tensorflow/tensorflow/tensorflow/go"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/graphfile"
	"github.com/tidemill/tidemill/internal/kernel"
)

// imported is a model whose graph came in a file. Its inputs are feeds 0, 1, …, its parameters
// those behind them.
type imported struct {
	file    *graphfile.File
	bind    *graphfile.Binding
	tables  []tidemill.TableSpec
	tensors []tidemill.TensorSpec
	profile string
	threads int
	level   kernel.Level

	graph                   *tf.Graph
	feeds                   []tf.Output
	predict, evaluate, step program
	moving                  []bool // by parameter
	keyed                   bool   // a step needs examples' keys
}

// compileGraph makes a model of the graph file in o, which has to fit the features of s.
func compileGraph(s *tidemill.Spec, shape engine.Shape, version string, o engine.Options) (engine.Model, error) {
	if len(o.Graph) == 0 {
		return nil, tidemill.Invalid("the graph file %q of the job is not there", "submit the job with the file", s.Architecture.File)
	}
	f, err := graphfile.Decode(o.Graph, s.Architecture.File)
	if err != nil {
		return nil, err
	}
	b, err := f.Fit(s, shape)
	if err != nil {
		return nil, err
	}
	m := &imported{
		file: f, bind: b, tables: f.Tables(), tensors: f.Tensors(), profile: profile(version), threads: max(1, o.Threads), level: kernel.Best(),
		graph: tf.NewGraph(),
	}
	for i := range m.tables {
		m.tables[i].MaxRows = s.Train.MaxRows
	}
	if err := m.graph.Import(f.GraphDef, ""); err != nil {
		return nil, tidemill.Invalid("graph file %s: TensorFlow %s refuses it: %v", "export it again with a TensorFlow of this version or an older one", s.Architecture.File, version, err)
	}
	return m, m.join()
}

// join finds the tensors that the manifest names and makes the programs.
func (m *imported) join() error {
	man := &m.file.Manifest
	var failed error
	find := func(name string, shape ...int64) tf.Output {
		o, err := m.find(name, shape)
		if err != nil && failed == nil {
			failed = err
		}
		return o
	}
	ints := func(shape []int) []int64 {
		out := make([]int64, len(shape))
		for i, d := range shape {
			out[i] = int64(d)
		}
		return out
	}
	prediction := find(man.Prediction.Tensor)
	loss := find(man.Loss, -1)
	m.evaluate.fetches = []tf.Output{prediction, loss}
	m.predict.fetches = []tf.Output{prediction}
	m.step.fetches = []tf.Output{prediction, loss}
	for i := range man.Inputs {
		in := &man.Inputs[i]
		m.feeds = append(m.feeds, find(in.Tensor))
		m.step.feeds = append(m.step.feeds, i)
		if in.Kind != graphfile.Weight && in.Kind != graphfile.Keys {
			m.evaluate.feeds = append(m.evaluate.feeds, i)
		}
		if m.file.Forward[i] {
			m.predict.feeds = append(m.predict.feeds, i)
		}
		m.keyed = m.keyed || in.Kind == graphfile.Keys
		if in.Kind == graphfile.Rows {
			m.step.fetches = append(m.step.fetches, find(in.Gradient, ints(in.Shape)...))
		}
	}
	for i := range man.Parameters {
		p := &man.Parameters[i]
		at := len(man.Inputs) + i
		m.feeds = append(m.feeds, find(p.Tensor))
		m.step.feeds, m.evaluate.feeds = append(m.step.feeds, at), append(m.evaluate.feeds, at)
		if m.file.ForwardParameters[i] {
			m.predict.feeds = append(m.predict.feeds, at)
		}
		by := p.Gradient
		if p.Kind == graphfile.Moving {
			by = p.Contribution
		}
		m.moving = append(m.moving, p.Kind == graphfile.Moving)
		m.step.fetches = append(m.step.fetches, find(by, ints(p.Shape)...))
	}
	return failed
}

// find returns a tensor of the graph. Where both TensorFlow and shape, unless it is empty, know a size, they
// have to agree; -1 is unknown.
func (m *imported) find(name string, shape []int64) (tf.Output, error) {
	node, at, _ := strings.Cut(name, ":")
	k, err := strconv.Atoi(at)
	op := m.graph.Operation(node)
	if err != nil || op == nil || k < 0 || k >= op.NumOutputs() {
		return tf.Output{}, tidemill.Invalid("the graph has no tensor %q", "export the model again", name)
	}
	o := op.Output(k)
	got, err := o.Shape().ToSlice()
	if len(shape) == 0 || err != nil {
		return o, nil
	}
	fits := len(got) == len(shape)
	for i := 0; fits && i < len(got); i++ {
		fits = got[i] < 0 || shape[i] < 0 || got[i] == shape[i]
	}
	if !fits {
		return o, tidemill.Invalid("tensor %q of the graph has shape %v, and %v is expected", "export the model again", name, got, shape)
	}
	return o, nil
}

func (m *imported) Tables() []tidemill.TableSpec   { return m.tables }
func (m *imported) Tensors() []tidemill.TensorSpec { return m.tensors }
func (m *imported) UsesField(t, f int) bool        { return m.bind.Uses[t][f] }
func (m *imported) Outputs() int                   { return m.file.Manifest.Prediction.Width }
func (m *imported) Profile() string                { return m.profile }

// Begin implements engine.Exported.
func (m *imported) Begin() [][]float32 { return m.file.Initial }

// Momentum implements engine.Exported.
func (m *imported) Momentum(k int) (float32, bool) {
	return m.file.Manifest.Parameters[k].Momentum, m.moving[k]
}

// Keyed implements engine.Exported.
func (m *imported) Keyed() bool { return m.keyed }

func (m *imported) NewStepper() engine.Stepper {
	s := &graphStepper{m: m, values: make([][]float32, len(m.feeds)), grads: make([][]float32, len(m.feeds))}
	s.res.RowGrads = make([][]float32, len(m.tables))
	s.res.DenseGrads = make([][]float32, len(m.tensors))
	for k, t := range m.tensors {
		s.res.DenseGrads[k] = make([]float32, t.Len())
	}
	if slices.Contains(m.moving, true) {
		s.res.Moving = m.moving
	}
	s.run, s.err = newSession(m.graph, m.threads, m.feeds)
	return s
}
