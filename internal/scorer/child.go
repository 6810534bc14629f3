package scorer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Compile makes a model of a spec, in the child's process.
type Compile func(s *tidemill.Spec, shape engine.Shape, o engine.Options) (engine.Model, error)

// order is what a child is to compute with.
type order struct {
	Spec    tidemill.Spec `json:"spec"`
	Shape   engine.Shape  `json:"shape"`
	Threads int           `json:"threads"`
}

// facts are what a Model says of itself.
type facts struct {
	Tables  []tidemill.TableSpec  `json:"tables"`
	Tensors []tidemill.TensorSpec `json:"tensors"`
	Uses    [][]bool              `json:"uses"` // [tables][fields]
	Outputs int                   `json:"outputs"`
	Profile string                `json:"profile"`
}

// child is the served side: one model, and the sets of dense tensors that it may be asked with.
type child struct {
	compile Compile

	mu    sync.RWMutex // guards the rest
	model engine.Model
	facts facts
	sets  map[uint64][][]float32
}

// Serve answers on every lane until all of them are closed by the other end. It returns what
// broke a lane, if not that.
func Serve(lanes []io.ReadWriteCloser, compile Compile) error {
	c := &child{compile: compile, sets: map[uint64][][]float32{}}
	errs := make(chan error, len(lanes))
	for _, l := range lanes {
		go func() {
			err := c.serve(l)
			l.Close()
			errs <- err
		}()
	}
	var all []error
	for range lanes {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// serve answers on one lane. A message that is none ends it: what follows cannot be told from it.
func (c *child) serve(lane io.ReadWriter) error {
	r := &reader{r: bufio.NewReaderSize(lane, 1<<16)}
	w := &writer{w: bufio.NewWriterSize(lane, 1<<16)}
	l := &answering{c: c}
	for {
		op, err := r.begin()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch op {
		case opCompile:
			c.order(r, w)
		case opDense:
			c.dense(r, w)
		case opForget:
			id := r.number()
			c.mu.Lock()
			delete(c.sets, id)
			c.mu.Unlock()
			w.byte(answerOK)
		case opPredict, opEvaluate:
			l.score(r, w, op)
		default:
			return fmt.Errorf("%w: kind %d", errFrame, op)
		}
		if r.err != nil {
			return r.err
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}

// order makes the model.
func (c *child) order(r *reader, w *writer) {
	text := r.blob("JSON", maxJSON)
	graph := r.blob("graph", maxGraph)
	if r.err != nil {
		return
	}
	f, err := func() (f facts, err error) {
		defer caught(&err)
		var o order
		if err := json.Unmarshal(text, &o); err != nil {
			return f, tidemill.Invalid("model for scoring: %v", "", err)
		}
		m, err := c.compile(&o.Spec, o.Shape, engine.Options{Threads: o.Threads, Graph: graph})
		if err != nil {
			return f, err
		}
		f = facts{Tables: m.Tables(), Tensors: m.Tensors(), Outputs: m.Outputs(), Profile: m.Profile()}
		for t := range f.Tables {
			uses := make([]bool, o.Shape.Fields)
			for i := range uses {
				uses[i] = m.UsesField(t, i)
			}
			f.Uses = append(f.Uses, uses)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.model, c.facts = m, f
		clear(c.sets)
		return f, nil
	}()
	if err == nil {
		text, err = json.Marshal(f)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.byte(answerOK)
	writeArray(w, text)
}

// dense takes a set of dense tensors.
func (c *child) dense(r *reader, w *writer) {
	id := r.number()
	n := r.count("tensors", maxArrays)
	c.mu.RLock()
	tensors, known := c.facts.Tensors, c.model != nil
	c.mu.RUnlock()
	var set [][]float32
	var err error
	if !known || n != len(tensors) {
		err = tidemill.Invalid("%d tensors, and the model has %d", "", n, len(tensors))
	}
	for i := 0; i < n && r.err == nil; i++ {
		v := readArray[float32](r, nil, "tensor values")
		if err == nil && r.err == nil && len(v) != tensors[i].Len() {
			err = tidemill.Invalid("tensor %s has %d values instead of %d", "", tensors[i].Name, len(v), tensors[i].Len())
		}
		if err == nil {
			set = append(set, v)
		}
	}
	if r.err != nil {
		return
	}
	if err != nil {
		writeError(w, err)
		return
	}
	c.mu.Lock()
	c.sets[id] = set
	c.mu.Unlock()
	w.byte(answerOK)
}

// answering is what one lane computes with.
type answering struct {
	c     *child
	of    engine.Model // that step was made by
	step  engine.Stepper
	req   request
	preds []float32
}

func (l *answering) score(r *reader, w *writer, op byte) {
	l.c.mu.RLock()
	m, f := l.c.model, l.c.facts
	l.c.mu.RUnlock()
	err := l.req.read(r, f.Tables, op == opEvaluate)
	if r.err != nil {
		return
	}
	if err == nil && m == nil {
		err = tidemill.Invalid("a request before there is a model", "")
	}
	var losses []float32
	if err == nil {
		losses, err = l.compute(m, f, op)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.byte(answerOK)
	writeArray(w, l.preds)
	if op == opEvaluate {
		writeArray(w, losses)
	}
}

func (l *answering) compute(m engine.Model, f facts, op byte) (losses []float32, err error) {
	defer caught(&err)
	l.c.mu.RLock()
	set, ok := l.c.sets[l.req.set]
	l.c.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("dense tensors %d are not here", l.req.set)
	}
	if l.of != m {
		l.of, l.step = m, m.NewStepper()
	}
	p := engine.Params{Rows: l.req.rows, Dense: set}
	n := l.req.in.N * f.Outputs
	if n > maxElements {
		return nil, tidemill.Invalid("%d predictions", "send fewer rows at a time", n)
	}
	if cap(l.preds) < n {
		l.preds = make([]float32, n, n+n/4)
	}
	l.preds = l.preds[:n]
	if op == opPredict {
		if n > 0 {
			l.step.Predict(l.preds, &l.req.in, l.req.look, &p)
		}
		return nil, l.step.Err()
	}
	res := l.step.Evaluate(&l.req.in, l.req.look, &p)
	if err := l.step.Err(); err != nil {
		return nil, err
	}
	l.preds = append(l.preds[:0], res.Predictions...)
	return res.Losses, nil
}

// caught turns a panic into an error: what a caller joined wrongly is that request's failure.
func caught(err *error) {
	if p := recover(); p != nil {
		*err = tidemill.Invalid("the engine cannot compute with this: %v", "", p)
	}
}
