//go:build tensorflow

package tensorflow

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/graphfile"
)

// graphStepper implements engine.Stepper for a graph from a file.
type graphStepper struct {
	m   *imported
	run *session
	err error

	values [][]float32 // by input: what is fed, where it is made here
	grads  [][]float32 // by input: what is fetched
	shape  []int
	dst    [][]float32

	res engine.Result
}

// Err implements engine.Stepper.
func (s *graphStepper) Err() error { return s.err }

// Predict implements engine.Stepper.
func (s *graphStepper) Predict(dst []float32, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	s.check(in, look, p)
	if len(dst) != in.N*s.m.Outputs() {
		panic("tensorflow: Predict needs a destination of N × Outputs values")
	}
	if in.N == 0 || s.run == nil {
		return
	}
	s.feed(&s.m.predict, in, look, p)
	s.dst = append(s.dst[:0], dst)
	s.err = s.run.run(&s.m.predict, s.dst)
}

// Evaluate implements engine.Stepper.
func (s *graphStepper) Evaluate(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	if s.begin(&s.m.evaluate, in, look, p) {
		s.dst = append(s.dst[:0], s.res.Predictions, s.res.Losses)
		s.err = s.run.run(&s.m.evaluate, s.dst)
	}
	return &s.res
}

// Step implements engine.Stepper.
func (s *graphStepper) Step(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	r := &s.res
	if s.m.keyed && len(in.Keys) != in.N {
		panic("tensorflow: Step with dropout needs a key for each example")
	}
	compute := s.begin(&s.m.step, in, look, p)
	for t := range r.RowGrads {
		r.RowGrads[t] = zeros(r.RowGrads[t], len(p.Rows[t]))
	}
	if !compute {
		for k := range r.DenseGrads {
			clear(r.DenseGrads[k])
		}
		return r
	}
	s.dst = append(s.dst[:0], r.Predictions, r.Losses)
	for i := range s.m.file.Manifest.Inputs {
		if s.m.file.Manifest.Inputs[i].Kind == graphfile.Rows {
			s.grads[i] = grow(s.grads[i], len(s.values[i]))
			s.dst = append(s.dst, s.grads[i])
		}
	}
	s.dst = append(s.dst, r.DenseGrads...)
	if s.err = s.run.run(&s.m.step, s.dst); s.err == nil {
		s.spread(in, look)
	}
	return r
}

// begin feeds what Evaluate and Step need; it reports whether there is anything to compute.
func (s *graphStepper) begin(prog *program, in *engine.Inputs, look []engine.Lookup, p *engine.Params) bool {
	s.check(in, look, p)
	if len(in.Labels) != in.N {
		panic("tensorflow: a step needs a label for each example")
	}
	s.res.Predictions, s.res.Losses = grow(s.res.Predictions, in.N*s.m.Outputs()), grow(s.res.Losses, in.N)
	if in.N == 0 || s.run == nil {
		return false
	}
	s.feed(prog, in, look, p)
	return true
}

// check panics when what the caller joined does not fit together.
func (s *graphStepper) check(in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	m := s.m
	if len(look) != len(m.tables) || len(p.Rows) != len(m.tables) || len(p.Dense) != len(m.tensors) {
		panic("tensorflow: lookups or parameters do not match the model's tables and tensors")
	}
	for t, spec := range m.tables {
		if in.Fields != len(m.bind.Uses[t]) || len(look[t].Index) != len(in.IDs) || len(p.Rows[t]) != len(look[t].Unique)*spec.Dim {
			panic("tensorflow: table " + spec.Name + ": lookup or rows do not match the inputs")
		}
	}
	for k, t := range m.tensors {
		if len(p.Dense[k]) != t.Len() {
			panic("tensorflow: tensor " + t.Name + " does not have its length")
		}
	}
	if len(in.Dense) != in.N*in.Width {
		panic("tensorflow: inputs have another number of dense numbers than they say")
	}
}

// feed fills what a program takes.
func (s *graphStepper) feed(prog *program, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	inputs := s.m.file.Manifest.Inputs
	for _, i := range prog.feeds {
		if k := i - len(inputs); k >= 0 {
			fill(s.run, i, float32s, p.Dense[k], s.m.tensors[k].Shape...)
			continue
		}
		s.shape = append(s.shape[:0], inputs[i].Shape...)
		s.shape[0] = in.N
		switch inputs[i].Kind {
		case graphfile.Numbers:
			s.numbers(i, in)
		case graphfile.Rows:
			s.rows(i, in, look, p)
		case graphfile.Present:
			s.present(i, in)
		case graphfile.Label:
			s.values[i] = append(s.values[i][:0], in.Labels...)
		case graphfile.Weight:
			s.weights(i, in)
		case graphfile.Keys:
			fill(s.run, i, uint64s, in.Keys, s.shape...)
			continue
		}
		fill(s.run, i, float32s, s.values[i], s.shape...)
	}
}

func (s *graphStepper) numbers(i int, in *engine.Inputs) {
	columns := s.m.bind.Columns[i]
	v := grow(s.values[i], in.N*len(columns))
	s.values[i] = v
	for n := range in.N {
		row := in.Dense[n*in.Width : (n+1)*in.Width]
		for c, at := range columns {
			v[n*len(columns)+c] = row[at]
		}
	}
}

// positions returns the ids of example n that input i has room for, and that room.
func (s *graphStepper) positions(i, n int, in *engine.Inputs) (lo, hi int32, room int) {
	room, _ = s.m.file.Manifest.Inputs[i].Positions()
	at := n*in.Fields + s.m.bind.Field[i]
	lo, hi = in.Offsets[at], in.Offsets[at+1]
	return lo, min(hi, lo+int32(room)), room
}

func (s *graphStepper) rows(i int, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	t := s.m.bind.Table[i]
	dim := s.m.tables[t].Dim
	index, rows := look[t].Index, p.Rows[t]
	room, _ := s.m.file.Manifest.Inputs[i].Positions()
	v := grow(s.values[i], in.N*room*dim)
	s.values[i] = v
	for n := range in.N {
		lo, hi, _ := s.positions(i, n, in)
		own := v[n*room*dim : (n+1)*room*dim]
		for j := lo; j < hi; j++ {
			copy(own[int(j-lo)*dim:][:dim], rows[int(index[j])*dim:])
		}
		clear(own[int(hi-lo)*dim:])
	}
}

func (s *graphStepper) present(i int, in *engine.Inputs) {
	room, _ := s.m.file.Manifest.Inputs[i].Positions()
	v := zeros(s.values[i], in.N*room)
	s.values[i] = v
	for n := range in.N {
		lo, hi, _ := s.positions(i, n, in)
		for q := range int(hi - lo) {
			v[n*room+q] = 1
		}
	}
}

func (s *graphStepper) weights(i int, in *engine.Inputs) {
	v := grow(s.values[i], in.N)
	s.values[i] = v
	if copy(v, in.Weights) == 0 {
		for n := range v {
			v[n] = 1
		}
	}
}

// spread adds the gradients by gathered rows to those of the rows, in order of input, example and
// position.
func (s *graphStepper) spread(in *engine.Inputs, look []engine.Lookup) {
	for i := range s.m.file.Manifest.Inputs {
		t := s.m.bind.Table[i]
		if t < 0 {
			continue
		}
		dim := s.m.tables[t].Dim
		grads, index := s.res.RowGrads[t], look[t].Index
		for n := range in.N {
			lo, hi, room := s.positions(i, n, in)
			own := s.grads[i][n*room*dim:]
			for j := lo; j < hi; j++ {
				s.m.level.Add(grads[int(index[j])*dim:][:dim], own[int(j-lo)*dim:][:dim])
			}
		}
	}
}
