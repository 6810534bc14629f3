package serving

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/predict"
)

// served is one model. The goroutine that follows it alone changes what it serves.
type served struct {
	name     string
	hint     chan struct{}
	champion atomic.Pointer[version]
	looked   atomic.Bool // its chain was read at least once
	awaited  atomic.Bool // its chain names a champion

	mu   sync.Mutex // guards kept
	kept []*version // former champions, the last one first
}

// version is a loaded version. It is counted: the registry holds one reference while it keeps
// the version, each request one while it runs.
type version struct {
	number  int64
	model   *predict.Model
	columns []column
	schema  *arrow.Schema // of columns
	rows    int           // most rows of a request
	scorers sync.Pool     // of *predict.Scorer

	refs atomic.Int64
	free func()
}

// newVersion wraps a loaded model; the caller holds the first reference. free runs when the
// last one is gone.
func newVersion(m *predict.Model, free func()) (*version, error) {
	v := &version{number: m.Version().Number, model: m, rows: m.Spec().Serve.MaxBatch, free: free}
	if v.rows <= 0 {
		v.rows = 1024
	}
	var fields []arrow.Field
	for _, c := range m.Columns() {
		col, err := newColumn(c.Name, c.Type)
		if err != nil {
			return nil, err
		}
		v.columns = append(v.columns, col)
		fields = append(fields, arrow.Field{Name: col.name, Type: col.batch, Nullable: true})
	}
	v.schema = arrow.NewSchema(fields, nil)
	v.scorers.New = func() any { return m.NewScorer() }
	v.refs.Store(1)
	return v, nil
}

// pin takes a reference, unless the last one is already gone.
func (v *version) pin() bool {
	for {
		n := v.refs.Load()
		if n == 0 {
			return false
		}
		if v.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives a reference back.
func (v *version) release() {
	if v.refs.Add(-1) == 0 && v.free != nil {
		v.free()
	}
}

// keep is how many former champions stay loaded.
func (v *version) keep() int {
	if k := v.model.Spec().Serve.Keep; k > 0 {
		return k
	}
	return 2
}

// acquire pins the version that a request names: "" or "champion", or a number. The caller
// releases it.
func (m *served) acquire(name string) (*version, error) {
	if name == "" || name == "champion" {
		for {
			v := m.champion.Load()
			if v == nil {
				return nil, fmt.Errorf("model %s has no published version yet: %w", m.name, tidemill.ErrNotReady)
			}
			if v.pin() {
				return v, nil
			}
		}
	}
	n, err := parseVersion(name)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range append([]*version{m.champion.Load()}, m.kept...) {
		if v != nil && v.number == n && v.pin() {
			return v, nil
		}
	}
	return nil, fmt.Errorf("version %d of model %s is not loaded; the champion is the default: %w", n, m.name, tidemill.ErrNotFound)
}

func parseVersion(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || s[0] == '+' {
		return 0, tidemill.Invalid("version %s", "give a whole number > 0, \"champion\", or nothing", quote(s))
	}
	return n, nil
}

// versions lists what is loaded, ascending.
func (m *served) versions() []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []int64
	if v := m.champion.Load(); v != nil {
		all = append(all, v.number)
	}
	for _, v := range m.kept {
		all = append(all, v.number)
	}
	slices.Sort(all)
	return all
}

// loaded returns the kept version with this number, or nil.
func (m *served) loaded(number int64) *version {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.kept {
		if v.number == number {
			return v
		}
	}
	return nil
}

// flip makes v, of which the caller gives its reference away, the champion. The former one is
// kept as long as v's spec wants. It returns the number of the version served before, or 0.
func (m *served) flip(v *version) (before int64) {
	var gone []*version
	m.mu.Lock()
	old := m.champion.Swap(v)
	m.kept = slices.DeleteFunc(m.kept, func(k *version) bool { return k == v })
	if old != nil {
		before = old.number
		m.kept = slices.Insert(m.kept, 0, old)
	}
	if n := v.keep(); len(m.kept) > n {
		gone = slices.Clone(m.kept[n:])
		m.kept = slices.Delete(m.kept, n, len(m.kept))
	}
	m.mu.Unlock()
	for _, g := range gone {
		g.release()
	}
	return before
}
