package serving

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/predict"
)

// request is an inference request of either protocol.
type request struct {
	model   string
	version string // "", "champion" or a number
	timeout time.Duration
	inputs  []tensor
	outputs []string // requested ones; none means all
}

// response answers a request: predictions [rows × outputs] of one version.
type response struct {
	model       string
	version     int64
	rows        int
	outputs     int
	predictions []float32
}

// shape of the prediction tensor: [rows], or [rows, outputs] for more than one.
func (r *response) shape() []int64 {
	if r.outputs == 1 {
		return []int64{int64(r.rows)}
	}
	return []int64{int64(r.rows), int64(r.outputs)}
}

// outputName is the name of the one output.
const outputName = "prediction"

// Limits on what a request may look like, whatever its model.
const (
	maxInputs = 4096
	maxName   = 256 // bytes of a tensor's name
)

// infer answers a request. protocol labels metrics.
func (s *Server) infer(ctx context.Context, protocol string, r *request) (resp *response, err error) {
	start := s.cfg.Now()
	label := ""
	defer func() {
		rows := 0
		if resp != nil {
			rows = resp.rows
		}
		s.metrics.done(label, protocol, err, rows, s.cfg.Now().Sub(start))
	}()
	m, err := s.named(r.model)
	if err != nil {
		return nil, err
	}
	label = m.name
	if r.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.timeout)
		defer cancel()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, fmt.Errorf("%d requests are being answered already, try again: %w", cap(s.slots), tidemill.ErrUnavailable)
	}
	v, err := m.acquire(r.version)
	if err != nil {
		return nil, err
	}
	defer v.release()
	return v.answer(ctx, m.name, r)
}

// named returns a served model.
func (s *Server) named(name string) (*served, error) {
	if name == "" {
		return nil, tidemill.Invalid("the request names no model", "give model_name")
	}
	m := s.model(name)
	if m == nil {
		return nil, fmt.Errorf("model %s: %w", quote(name), tidemill.ErrNotFound)
	}
	return m, nil
}

// answer runs the request on v, which the caller has pinned.
func (v *version) answer(ctx context.Context, model string, r *request) (*response, error) {
	for i, o := range r.outputs {
		if o != outputName {
			return nil, tidemill.Invalid("output %s", "the output is called prediction", quote(o))
		}
		if slices.Contains(r.outputs[:i], o) {
			return nil, tidemill.Invalid("output %s is requested twice", "", quote(o))
		}
	}
	batch, err := v.decode(r.inputs)
	if err != nil {
		return nil, err
	}
	defer batch.Release()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	resp := &response{model: model, version: v.number, rows: int(batch.NumRows()), outputs: v.model.Outputs()}
	scorer := v.scorers.Get().(*predict.Scorer)
	resp.predictions, err = scorer.Predict(make([]float32, 0, resp.rows*resp.outputs), batch)
	v.scorers.Put(scorer)
	if err != nil {
		return nil, err
	}
	for i, p := range resp.predictions {
		if p-p != 0 {
			return nil, tidemill.Invalid("the prediction of row %d is not finite", "its inputs are beyond what the model can compute with", i/resp.outputs)
		}
	}
	return resp, nil
}

// decode turns the inputs into one batch with the columns of the version.
func (v *version) decode(inputs []tensor) (arrow.RecordBatch, error) {
	if len(inputs) > maxInputs {
		return nil, tidemill.Invalid("%d inputs", "at most 4096", len(inputs))
	}
	place := make([]int, len(v.columns)) // of each column in inputs, + 1
	for i := range inputs {
		c := slices.IndexFunc(v.columns, func(c column) bool { return c.name == inputs[i].name })
		if c < 0 {
			return nil, v.unknownInput(inputs[i].name)
		}
		if place[c] != 0 {
			return nil, tidemill.Invalid("input %s is given twice", "", quote(inputs[i].name))
		}
		place[c] = i + 1
	}
	var missing []string
	for c, p := range place {
		if p == 0 {
			missing = append(missing, v.columns[c].name)
		}
	}
	if len(missing) > 0 {
		return nil, tidemill.Invalid("inputs are missing: %s", "send one tensor per column that the model needs", shorten(strings.Join(missing, ", ")))
	}
	if len(inputs) == 0 {
		return nil, tidemill.Invalid("the request has no input", "")
	}
	rows := int64(-1)
	for _, p := range place {
		t := &inputs[p-1]
		if err := t.checkShape(v.rows); err != nil {
			return nil, err
		}
		if rows >= 0 && t.shape[0] != rows {
			return nil, tidemill.Invalid("input %s has %d rows, and another input %d", "all inputs have the same number of rows", quote(t.name), t.shape[0], rows)
		}
		rows = t.shape[0]
	}
	columns := make([]arrow.Array, 0, len(place))
	defer func() {
		for _, c := range columns {
			c.Release()
		}
	}()
	for c, p := range place {
		arr, err := v.columns[c].array(&inputs[p-1])
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", quote(inputs[p-1].name), err)
		}
		columns = append(columns, arr)
	}
	return array.NewRecordBatch(v.schema, columns, rows), nil
}

func (v *version) unknownInput(name string) error {
	names := make([]string, len(v.columns))
	for i, c := range v.columns {
		names[i] = c.name
	}
	if near := tidemill.Nearest(name, names); near != "" && len(name) <= maxName {
		return tidemill.Invalid("the model has no input %s", "did you mean "+quote(near)+"?", quote(name))
	}
	return tidemill.Invalid("the model has no input %s", "it needs "+shorten(strings.Join(names, ", ")), quote(name))
}

// Parameters that clients of the protocol send. Others are ignored, as the protocol wants.
const (
	paramTimeout  = "timeout" // microseconds
	paramPriority = "priority"
)

// parameter is a request parameter as either protocol gives it.
type parameter struct {
	kind byte // 'b' bool, 'i' whole number, 's' string, 'f' number
	i    int64
	b    bool
}

// take checks a reserved parameter and applies it.
func (r *request) take(name string, p parameter) error {
	want := ""
	switch name {
	case paramTimeout:
		if p.kind == 'i' && p.i >= 0 && p.i <= int64(math.MaxInt64/time.Microsecond) {
			r.timeout = time.Duration(p.i) * time.Microsecond
			return nil
		}
		want = "a number of microseconds ≥ 0"
	case paramPriority:
		if p.kind == 'i' {
			return nil
		}
		want = "a whole number"
	case "sequence_id":
		if p.kind == 'i' || p.kind == 's' {
			return nil
		}
		want = "a whole number or a string"
	case "sequence_start", "sequence_end", "binary_data_output":
		if p.kind == 'b' {
			return nil
		}
		want = "true or false"
	default:
		if strings.HasPrefix(name, "triton_") {
			return tidemill.Invalid("parameter %s", "names that begin with triton_ are reserved", quote(name))
		}
		return nil
	}
	return tidemill.Invalid("parameter %s", "it is "+want, quote(name))
}

// quote writes what a client sent for an error text, shortened.
func quote(s string) string { return strconv.Quote(shorten(s)) }

// shorten cuts s to what an error text can bear.
func shorten(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
