package scorer

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// Config of a Host.
type Config struct {
	// Command starts a child: a program and its arguments. Required.
	Command []string
	// Env is added to the environment of children.
	Env []string
	// Lanes is how many requests a child answers at a time; 0 is one per processor.
	Lanes int
	// Memory that a child may use in bytes; 0 is 4 GiB, less than 0 no limit.
	Memory int64
	// Timeout is how long a request may take before its child is replaced; 0 is 30 s. Starting, and
	// making the model, may take ten times as long.
	Timeout time.Duration
	// Shared lets models of one spec and graph share a child; else each has its own, and a swap
	// of models is one of children.
	Shared bool
	// Linger is how long a shared child outlives its last model; 0 is a minute.
	Linger time.Duration
	// Restarted is called when a child has ended which should not have, with the model's name.
	Restarted func(model string)
	Logger    *slog.Logger // nil discards
}

// Host makes models that compute in children. It is safe for concurrent use.
type Host struct {
	cfg Config

	mu     sync.Mutex // guards the rest
	shared map[[sha256.Size]byte]*ward
	all    map[*ward]struct{}
	closed bool
}

// NewHost returns a Host without children.
func NewHost(cfg Config) *Host {
	if cfg.Lanes <= 0 {
		cfg.Lanes = runtime.GOMAXPROCS(0)
	}
	if cfg.Memory == 0 {
		cfg.Memory = 4 << 30
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Linger <= 0 {
		cfg.Linger = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Restarted == nil {
		cfg.Restarted = func(string) {}
	}
	return &Host{cfg: cfg, shared: map[[sha256.Size]byte]*ward{}, all: map[*ward]struct{}{}}
}

// Compile makes a model that computes in a child; its caller closes it. What the child's engine
// refuses is returned as it says it.
func (h *Host) Compile(s *tidemill.Spec, shape engine.Shape, o engine.Options) (engine.Model, error) {
	text, err := json.Marshal(order{Spec: *s, Shape: shape, Threads: o.Threads})
	if err != nil {
		return nil, fmt.Errorf("write a model for scoring: %w", err)
	}
	if len(text) > maxJSON || len(o.Graph) > maxGraph {
		return nil, tidemill.Invalid("a spec of %d bytes with a graph of %d", "at most 16 MiB and 1 GiB", len(text), len(o.Graph))
	}
	w, err := h.ward(s.Model, text, o.Graph)
	if err != nil {
		return nil, err
	}
	_, f, err := w.process()
	if err != nil {
		w.release()
		return nil, err
	}
	return &Model{ward: w, facts: f, fields: shape.Fields, id: w.next.Add(1)}, nil
}

// Close ends all children; models that are still open answer nothing more.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	all := slices.Collect(maps.Keys(h.all))
	for _, w := range all {
		if w.linger != nil {
			w.linger.Stop()
		}
	}
	h.mu.Unlock()
	for _, w := range all {
		w.close()
	}
}

// ward returns what looks after the child of a model, with a reference for the caller.
func (h *Host) ward(model string, text, graph []byte) (*ward, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosed
	}
	w := &ward{h: h, model: model, text: text, graph: graph, refs: 1, over: make(chan struct{})}
	if !h.cfg.Shared {
		h.all[w] = struct{}{}
		return w, nil
	}
	sum := sha256.New()
	sum.Write(text)
	sum.Write(graph)
	w.key = [sha256.Size]byte(sum.Sum(nil))
	if have := h.shared[w.key]; have != nil {
		if have.refs == 0 {
			have.linger.Stop()
		}
		have.refs++
		return have, nil
	}
	h.shared[w.key] = w
	h.all[w] = struct{}{}
	return w, nil
}

var errClosed = fmt.Errorf("scoring has ended here: %w", tidemill.ErrNotReady)

// ward keeps one child alive.
type ward struct {
	h           *Host
	model       string
	text, graph []byte
	next        atomic.Uint64 // numbers sets of dense tensors

	key    [sha256.Size]byte
	refs   int         // guarded by h.mu
	linger *time.Timer // guarded by h.mu; set when refs fell to 0

	over   chan struct{} // closed by close
	ending sync.Once

	mu     sync.Mutex // guards the rest; held while a child is started
	p      *process
	facts  facts
	closed bool
	fails  int       // children in a row that ended before they had lived for a while
	began  time.Time // of p
	wait   time.Time // no child is started before
}

func (w *ward) release() {
	h := w.h
	h.mu.Lock()
	w.refs--
	last := w.refs == 0
	if last && h.cfg.Shared && !h.closed {
		w.linger = time.AfterFunc(h.cfg.Linger, func() {
			h.mu.Lock()
			over := w.refs == 0 && h.shared[w.key] == w
			if over {
				delete(h.shared, w.key)
			}
			h.mu.Unlock()
			if over {
				w.close()
			}
		})
		last = false
	} else if last && h.cfg.Shared {
		delete(h.shared, w.key)
	}
	h.mu.Unlock()
	if last {
		w.close()
	}
}

func (w *ward) close() {
	w.h.mu.Lock()
	delete(w.h.all, w)
	w.h.mu.Unlock()
	w.ending.Do(func() { close(w.over) })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.p != nil {
		w.p.close()
		w.p = nil
	}
}

// steady is how long a child has to live for its end not to count as another failure in a row.
const steady = time.Minute

// patience is how long requests wait for a child that is to be started, instead of being refused.
const patience = time.Second

// process returns the child, which it starts if there is none.
func (w *ward) process() (*process, facts, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, w.facts, errClosed
	}
	if w.p != nil {
		select {
		case <-w.p.ended:
			w.lost(w.p)
		default:
			return w.p, w.facts, nil
		}
	}
	left := time.Until(w.wait)
	if left > 0 && left <= patience {
		select {
		case <-time.After(left):
		case <-w.over:
			return nil, w.facts, errClosed
		}
		left = 0
	}
	if left > 0 {
		return nil, w.facts, fmt.Errorf("the scoring process of model %s failed %d times in a row, and is started again in %v: %w", w.model, w.fails, left.Round(time.Millisecond), tidemill.ErrNotReady)
	}
	c := &w.h.cfg
	p, err := start(c.Command, c.Env, c.Lanes, c.Memory, c.Logger)
	if err != nil {
		w.failed()
		return nil, w.facts, fmt.Errorf("%w: %w", err, tidemill.ErrNotReady)
	}
	l := <-p.lanes
	f, broken, err := w.order(l)
	if err != nil {
		p.kill()
		if broken {
			w.failed()
			err = fmt.Errorf("the scoring process of model %s ended while it made the model (%s): %w", w.model, p.why(), tidemill.ErrNotReady)
		}
		return nil, w.facts, err
	}
	p.lanes <- l
	w.p, w.facts, w.began = p, f, time.Now()
	return p, f, nil
}

// order gives a new child its model.
func (w *ward) order(l *lane) (f facts, broken bool, err error) {
	if err := l.conn.SetDeadline(time.Now().Add(10 * w.h.cfg.Timeout)); err != nil {
		return f, true, err
	}
	l.w.byte(opCompile)
	writeArray(l.w, w.text)
	writeArray(l.w, w.graph)
	if err := l.w.flush(); err != nil {
		return f, true, err
	}
	if broken, err := l.r.answer(); err != nil {
		return f, broken, err
	}
	text := l.r.blob("JSON", maxJSON)
	if l.r.err != nil {
		return f, true, l.r.err
	}
	if err := json.Unmarshal(text, &f); err != nil || f.Outputs < 1 || len(f.Uses) != len(f.Tables) {
		return f, true, errors.Join(errFrame, err)
	}
	return f, false, nil
}

// replace ends a child that cannot be used any more, so that the next request starts another.
func (w *ward) replace(p *process, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.p != p {
		return // somebody else did
	}
	p.kill()
	w.lost(p)
	w.h.cfg.Logger.Error("a scoring process is replaced", "model", w.model, "err", why, "ended", p.why())
}

// lost forgets a child that has ended. mu is held.
func (w *ward) lost(p *process) {
	if time.Since(w.began) > steady {
		w.fails = 0
	}
	w.p = nil
	p.hangUp()
	w.failed()
	w.h.cfg.Restarted(w.model)
}

// failed counts a failure and says when to try again: at once after the first ones. mu is held.
func (w *ward) failed() {
	w.fails++
	if w.fails > 3 {
		w.wait = time.Now().Add(min(10*time.Second, 50*time.Millisecond<<min(w.fails-3, 8)))
	}
}

// call runs f on a lane of the child, once more on another child if the first is lost meanwhile.
func (w *ward) call(set uint64, dense [][]float32, f func(l *lane) (broken bool, err error)) error {
	var lost error
	for range 2 {
		p, _, err := w.process()
		if err != nil {
			return err
		}
		broken, err := w.once(p, set, dense, f)
		if !broken {
			return err
		}
		w.replace(p, err)
		lost = err
	}
	return fmt.Errorf("the scoring process of model %s was lost twice while it computed this (%v): %w", w.model, lost, tidemill.ErrNotReady)
}

func (w *ward) once(p *process, set uint64, dense [][]float32, f func(l *lane) (broken bool, err error)) (broken bool, err error) {
	var l *lane
	select {
	case l = <-p.lanes:
	case <-p.ended:
		return true, errors.New(p.why())
	}
	if err := l.conn.SetDeadline(time.Now().Add(w.h.cfg.Timeout)); err != nil {
		return true, err
	}
	p.mu.Lock()
	known := p.sent[set]
	p.mu.Unlock()
	if !known && dense != nil {
		broken, err = l.send(set, dense)
		if err == nil {
			p.mu.Lock()
			p.sent[set] = true
			p.mu.Unlock()
		}
	}
	if err == nil {
		broken, err = f(l)
	}
	if !broken {
		p.lanes <- l
	}
	return broken, err
}

// send gives the child a set of dense tensors.
func (l *lane) send(set uint64, dense [][]float32) (broken bool, err error) {
	l.w.byte(opDense)
	l.w.number(set)
	l.w.number(uint64(len(dense)))
	for _, d := range dense {
		writeArray(l.w, d)
	}
	if err := l.w.flush(); err != nil {
		return true, err
	}
	return l.r.answer()
}

// forget tells the child that a set is not asked for again.
func (w *ward) forget(set uint64) {
	w.mu.Lock()
	p := w.p
	w.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	known := p.sent[set]
	delete(p.sent, set)
	p.mu.Unlock()
	if !known {
		return
	}
	if broken, err := w.once(p, set, nil, func(l *lane) (bool, error) {
		l.w.byte(opForget)
		l.w.number(set)
		if err := l.w.flush(); err != nil {
			return true, err
		}
		return l.r.answer()
	}); broken {
		w.replace(p, err)
	}
}
