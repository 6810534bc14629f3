package carry

import (
	"fmt"
	"slices"

	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// layoutTensors decides on dense tensors.
func (p *Plan) layoutTensors() {
	was, now := inputRows(p.from), inputRows(p.to)
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
	if d := plan.Deep; d != nil {
		var rows []string
		for _, f := range d.Fields {
			for k := range d.Dim {
				rows = append(rows, fmt.Sprintf("field %s %d", shape.FieldNames[f], k))
			}
		}
		set(d.Layers[0].Weight, append(rows, dense...))
	}
	return out
}
