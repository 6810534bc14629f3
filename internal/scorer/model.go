package scorer

import (
	"sync"
	"unsafe"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Model is an engine.Model that computes in a child. It predicts and evaluates; it has no
// gradients. The dense tensors that its Steppers are given must not change: they are sent once.
type Model struct {
	ward   *ward
	facts  facts
	fields int

	mu    sync.Mutex // guards the rest
	id    uint64     // of the set that dense begins
	dense unsafe.Pointer
	done  bool
}

// Tables implements engine.Model.
func (m *Model) Tables() []tidemill.TableSpec { return m.facts.Tables }

// Tensors implements engine.Model.
func (m *Model) Tensors() []tidemill.TensorSpec { return m.facts.Tensors }

// UsesField implements engine.Model.
func (m *Model) UsesField(t, f int) bool { return m.facts.Uses[t][f] }

// Outputs implements engine.Model.
func (m *Model) Outputs() int { return m.facts.Outputs }

// Profile implements engine.Model.
func (m *Model) Profile() string { return m.facts.Profile }

// Close gives the child back; Steppers must not be used after it.
func (m *Model) Close() error {
	m.mu.Lock()
	done, id := m.done, m.id
	m.done = true
	m.mu.Unlock()
	if !done {
		if m.ward.h.cfg.Shared {
			m.ward.forget(id)
		}
		m.ward.release()
	}
	return nil
}

// NewStepper implements engine.Model.
func (m *Model) NewStepper() engine.Stepper { return &stepper{m: m} }

// set returns the number of a set of dense tensors; one that is not the last one has a new number.
func (m *Model) set(dense [][]float32) uint64 {
	at := unsafe.Pointer(unsafe.SliceData(dense))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dense != at && m.dense != nil {
		m.id = m.ward.next.Add(1)
	}
	m.dense = at
	return m.id
}

// stepper implements engine.Stepper.
type stepper struct {
	m   *Model
	err error
	res engine.Result
}

// Err implements engine.Stepper.
func (s *stepper) Err() error { return s.err }

// Predict implements engine.Stepper.
func (s *stepper) Predict(dst []float32, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	plain := *in
	plain.Labels, plain.Weights = nil, nil
	s.err = s.m.call(opPredict, &plain, look, p, func(r *reader) { readExactly(r, dst, "predictions") })
}

// Evaluate implements engine.Stepper.
func (s *stepper) Evaluate(in *engine.Inputs, look []engine.Lookup, p *engine.Params) *engine.Result {
	s.res.Predictions = sized(s.res.Predictions, in.N*s.m.facts.Outputs)
	s.res.Losses = sized(s.res.Losses, in.N)
	s.err = s.m.call(opEvaluate, in, look, p, func(r *reader) {
		readExactly(r, s.res.Predictions, "predictions")
		readExactly(r, s.res.Losses, "losses")
	})
	return &s.res
}

// Step implements engine.Stepper: there are no gradients here.
func (s *stepper) Step(*engine.Inputs, []engine.Lookup, *engine.Params) *engine.Result {
	s.err = tidemill.Invalid("a process that scores computes no gradients", "compute them in the worker's process")
	return &s.res
}

func (m *Model) call(op byte, in *engine.Inputs, look []engine.Lookup, p *engine.Params, read func(r *reader)) error {
	if len(look) != len(m.facts.Tables) || len(p.Rows) != len(look) || in.Fields != m.fields {
		panic("scorer: inputs, lookups or rows do not match the model's fields and tables")
	}
	if in.N == 0 {
		return nil
	}
	id := m.set(p.Dense)
	dense := p.Dense
	if dense == nil {
		dense = [][]float32{}
	}
	return m.ward.call(id, dense, func(l *lane) (bool, error) {
		writeRequest(l.w, op, id, in, look, p.Rows)
		if err := l.w.flush(); err != nil {
			return true, err
		}
		if broken, err := l.r.answer(); err != nil {
			return broken, err
		}
		read(l.r)
		return l.r.err != nil, l.r.err
	})
}

func sized(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n, n+n/4)
	}
	return s[:n]
}
