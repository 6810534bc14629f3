package carry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// layoutTensors decides on dense tensors.
func (p *Plan) layoutTensors() {
	was, now := inputRows(p.from), inputRows(p.to)
	wasColumns, nowColumns := inputColumns(p.from), inputColumns(p.to)
	for i, t := range p.to.Layout.Tensors {
		what := "tensor " + t.Name
		k := slices.IndexFunc(p.from.Layout.Tensors, func(o snapshot.TensorLayout) bool { return o.Name == t.Name })
		move := tensorMove{from: k}
		switch {
		case k < 0:
			p.add(Initialised, what, "the snapshot lacks it")
		case now[i] != nil && was[k] != nil && slices.Equal(t.Shape[1:], p.from.Layout.Tensors[k].Shape[1:]):
			if slices.Equal(now[i], was[k]) {
				p.add(Carried, what, "")
				break
			}
			fresh := 0
			for _, name := range now[i] {
				row := slices.Index(was[k], name)
				if row < 0 {
					fresh++
				}
				move.rows = append(move.rows, row)
			}
			p.add(Carried, what, "row by row: %d carried, %d initialised, %d gone with their features", len(now[i])-fresh, fresh, len(was[k])-(len(now[i])-fresh))
		case wasColumns[k] != nowColumns[i]:
			p.lose(what, "its columns belong to the inputs, which are others now")
			p.add(Initialised, what, "for the inputs as they are")
			move.from = -1
		case !slices.Equal(t.Shape, p.from.Layout.Tensors[k].Shape):
			p.lose(what, "its shape was %v and is %v", p.from.Layout.Tensors[k].Shape, t.Shape)
			p.add(Initialised, what, "in its new shape")
			move.from = -1
		default:
			p.add(Carried, what, "")
		}
		p.tensors = append(p.tensors, move)
	}
	for _, o := range p.from.Layout.Tensors {
		if !slices.ContainsFunc(p.to.Layout.Tensors, func(t snapshot.TensorLayout) bool { return t.Name == o.Name }) {
			p.lose("tensor "+o.Name, "the spec has none of this name")
		}
	}
}

// inputRows names, for each tensor whose rows belong to inputs, what each row belongs to; nil
// for other tensors.
func inputRows(m *model.Model) [][]string {
	out := make([][]string, len(m.Layout.Tensors))
	shape := m.Plan.Shape()
	plan, err := engine.NewPlan(m.Spec, shape)
	if err != nil { // the model was compiled from the same
		return out
	}
	var dense []string
	for _, name := range m.Plan.DenseNames() {
		dense = append(dense, "number "+name)
	}
	set := func(tensor int, rows []string) {
		if tensor >= 0 && len(rows) == m.Layout.Tensors[tensor].Shape[0] {
			out[tensor] = rows
		}
	}
	if plan.Wide != nil {
		set(plan.Wide.Dense, dense)
	}
	if plan.FM != nil {
		set(plan.FM.Dense, dense)
		set(plan.FM.DenseFactors, dense)
	}
	if x := plan.Interaction; x != nil {
		var vectors, rows []string
		if len(x.Bottom) > 0 {
			set(x.Bottom[0].Weight, dense)
			vectors = append(vectors, "numbers")
			for k := range x.Dim {
				rows = append(rows, fmt.Sprintf("numbers %d", k))
			}
		}
		for _, f := range x.Fields {
			vectors = append(vectors, "field "+shape.FieldNames[f])
		}
		for b := range vectors {
			for a := range b {
				// Whichever comes first, the product is the same.
				rows = append(rows, fmt.Sprintf("%s times %s", min(vectors[a], vectors[b]), max(vectors[a], vectors[b])))
			}
		}
		set(plan.Deep.Layers[0].Weight, rows)
	} else if d := plan.Deep; d != nil {
		rows := deepInputs(d, shape, dense)
		set(d.Layers[0].Weight, rows)
		if plan.Cross != nil {
			set(plan.Cross.Head, rows)
		}
	}
	return out
}

// deepInputs names the inputs of a perceptron over embeddings and numbers.
func deepInputs(d *engine.Deep, shape engine.Shape, dense []string) []string {
	var rows []string
	for _, f := range d.Fields {
		for k := range d.Dim {
			rows = append(rows, fmt.Sprintf("field %s %d", shape.FieldNames[f], k))
		}
	}
	return append(rows, dense...)
}

// inputColumns names, for each tensor whose columns belong to inputs, all of these; "" for
// other tensors. Such a tensor is carried whole or not at all.
func inputColumns(m *model.Model) []string {
	out := make([]string, len(m.Layout.Tensors))
	shape := m.Plan.Shape()
	plan, err := engine.NewPlan(m.Spec, shape)
	if err != nil || plan.Cross == nil {
		return out
	}
	inputs := strings.Join(deepInputs(plan.Deep, shape, m.Plan.DenseNames()), "\n")
	for _, l := range plan.Cross.Layers {
		for _, tensor := range []int{l.Weight, l.Left, l.Right, l.Bias} {
			if tensor >= 0 {
				out[tensor] = inputs
			}
		}
	}
	return out
}
