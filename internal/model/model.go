// Package model compiles a spec and a schema into what every role needs of a model: the
// feature transforms, the computation, and the layout of its parameters. All roles compile
// the same spec to the same layout.
package model

import (
	"bytes"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/feature"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source/rows"
	"github.com/tidemill/tidemill/ps/optim"
)

// Model is a compiled spec: immutable, safe for concurrent use.
type Model struct {
	Spec   *tidemill.Spec
	Schema *arrow.Schema
	Plan   *feature.Plan
	Engine engine.Model
	Layout snapshot.Layout
	// Sparse holds the rule and the schedule of each table; Dense those of all tensors.
	Sparse []Optimizer
	Dense  Optimizer
}

// Optimizer is a rule with the schedule of its rate.
type Optimizer struct {
	optim.Rule
	Schedule *tidemill.Schedule
}

func optimizer(path string, c tidemill.OptimizerChoice) (Optimizer, error) {
	r, err := optim.New(c)
	if err != nil {
		return Optimizer{}, fmt.Errorf("%s: %w", path, err)
	}
	return Optimizer{r, c.Schedule}, nil
}

// Compile compiles spec for rows of schema. It returns ErrInvalid errors for a spec that does
// not fit the schema or names what its engine does not offer.
func Compile(spec *tidemill.Spec, schema *arrow.Schema) (*Model, error) {
	return CompileFor(spec, schema, engine.Options{})
}

// CompileFor is Compile for computing with the bits of a numeric profile, and with so many
// threads. A profile that this process does not offer is refused with tidemill.ErrInvalid.
func CompileFor(spec *tidemill.Spec, schema *arrow.Schema, o engine.Options) (*Model, error) {
	isolated := o.Isolator != nil && Isolated(spec)
	driver := engine.Driver{}
	if !isolated { // else this process need not open the engine's library
		var err error
		if driver, err = Driver(spec); err != nil {
			return nil, err
		}
	}
	plan, err := feature.Compile(spec, schema)
	if err != nil {
		return nil, err
	}
	compile := driver.Compile
	if isolated {
		compile = o.Isolator.Compile
	}
	eng, err := compile(spec, plan.Shape(), o)
	if err != nil {
		return nil, err
	}
	m := &Model{Spec: spec, Schema: schema, Plan: plan, Engine: eng}
	if err := m.choose(); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close gives back what an isolated engine holds.
func (m *Model) Close() {
	if c, ok := m.Engine.(io.Closer); ok {
		_ = c.Close()
	}
}

// choose fills in the rules of tables and tensors, and the layout that follows from them.
func (m *Model) choose() (err error) {
	spec, eng := m.Spec, m.Engine
	if m.Dense, err = optimizer("optimizer.dense", spec.Optimizer.Dense); err != nil {
		return err
	}
	average := spec.Optimizer.Average != nil
	named, chosen := 0, 0
	for _, t := range eng.Tables() {
		choice, path := spec.Optimizer.Sparse, "optimizer.sparse"
		if own, ok := spec.Optimizer.Tables[t.Name]; ok {
			choice, path = own, "optimizer.tables."+t.Name
			named++
		}
		rule, err := optimizer(path, choice)
		if err != nil {
			return err
		}
		t.MaxRows = spec.Train.MaxRows
		if choice, ok := spec.Tables[t.Name]; ok {
			t.TableChoice = choice
			chosen++
		}
		m.Sparse = append(m.Sparse, rule)
		m.Layout.Tables = append(m.Layout.Tables, snapshot.TableLayout{TableSpec: t, State: rule.StateLen(t.Dim), Average: average, Uses: t.Expire.Every > 0})
	}
	if named < len(spec.Optimizer.Tables) {
		return tidemill.Invalid("optimizer.tables names a table that the model does not have", "it has those that inspect shows")
	}
	if chosen < len(spec.Tables) {
		return tidemill.Invalid("tables names a table that the model does not have", "it has those that inspect shows")
	}
	for _, t := range eng.Tensors() {
		m.Layout.Tensors = append(m.Layout.Tensors, snapshot.TensorLayout{TensorSpec: t, Average: average})
	}
	return m.Layout.Validate()
}

// Decay returns the decay of averaged weights, 0 when weights are not averaged.
func (m *Model) Decay() float64 {
	if m.Spec.Optimizer.Average == nil {
		return 0
	}
	return m.Spec.Optimizer.Average.Decay
}

// EncodeSchema returns schema as an Arrow IPC stream without batches.
func EncodeSchema(schema *arrow.Schema) ([]byte, error) {
	var b bytes.Buffer
	w := ipc.NewWriter(&b, ipc.WithSchema(schema))
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return b.Bytes(), nil
}

// DecodeSchema reads what EncodeSchema wrote, or returns ErrCorrupt.
func DecodeSchema(data []byte) (*arrow.Schema, error) { return rows.DecodeSchema(data) }
