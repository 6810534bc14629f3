package graphfile

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tidemill/tidemill"
)

// Limits of a manifest. Those that architectures have too are the same there.
const (
	maxTensor = 1 << 28 // values of a parameter
	maxDim    = 1 << 12 // of a table
	maxWidth  = 1 << 12 // of a prediction
	maxLength = 1 << 12 // ids of an example in one input
	maxList   = 4096    // inputs, tables, parameters
)

// members checks what the manifest says by itself.
func (r *reader) members(m *Manifest) error {
	bad := func(what string, args ...any) error {
		return r.bad("export the model again with tidemill.keras.export", "manifest: "+what, args...)
	}
	if len(m.Inputs) > maxList || len(m.Tables) > maxList || len(m.Parameters) > maxList {
		return r.bad("use fewer, larger layers", "manifest: more than %d inputs, tables or parameters", maxList)
	}
	names := map[string]bool{}
	take := func(kind, name string) error {
		if name == "" || len(name) > 200 || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return bad("%s %.200q: a name has 1 to 200 visible ASCII characters", kind, name)
		}
		if names[kind+" "+name] {
			return bad("%s %q stands twice", kind, name)
		}
		names[kind+" "+name] = true
		return nil
	}
	dims := map[string]int{}
	for i := range m.Tables {
		t := &m.Tables[i]
		if err := take("table", t.Name); err != nil {
			return err
		}
		if t.Dim < 1 || t.Dim > maxDim {
			return bad("table %q has dim %d instead of 1 to %d", t.Name, t.Dim, maxDim)
		}
		if _, ok := initKinds[t.Init.Kind]; !ok || math.IsNaN(float64(t.Init.Scale)) || math.IsInf(float64(t.Init.Scale), 0) {
			return bad("table %q begins as %v %q", t.Name, t.Init.Scale, t.Init.Kind)
		}
		dims[t.Name] = t.Dim
	}
	for i := range m.Parameters {
		p := &m.Parameters[i]
		if err := take("parameter", p.Name); err != nil {
			return err
		}
		if _, ok := product(p.Shape); !ok || len(p.Shape) > maxRank {
			return bad("parameter %q has shape %v", p.Name, p.Shape)
		}
		switch {
		case p.Kind == Trained && (p.Gradient == "" || p.Contribution != "" || p.Momentum != 0):
			return bad("parameter %q is trained, and has no gradient, or a moving statistic's members", p.Name)
		case p.Kind == Moving && (p.Contribution == "" || p.Gradient != "" || !(p.Momentum >= 0 && p.Momentum < 1)):
			return bad("parameter %q is a moving statistic, and has no contribution, a gradient, or momentum %v", p.Name, p.Momentum)
		case p.Kind != Trained && p.Kind != Moving:
			return bad("parameter %q is of kind %.100q", p.Name, p.Kind)
		}
	}
	for i := range m.Inputs {
		if err := r.input(&m.Inputs[i], dims); err != nil {
			return err
		}
	}
	for _, kind := range []string{Label, Weight, Keys} {
		n := 0
		for i := range m.Inputs {
			if m.Inputs[i].Kind == kind {
				n++
			}
		}
		if n > 1 || kind == Label && n == 0 {
			return bad("there are %d inputs of kind %s", n, kind)
		}
	}
	switch l := m.Label; {
	case !slices.Contains([]string{tidemill.Binary, tidemill.Regression, tidemill.Multiclass}, l.Type):
		return bad("label type %.100q", l.Type)
	case (l.Type == tidemill.Multiclass) != (l.Classes > 0) || l.Classes == 1 || l.Classes < 0:
		return bad("a %s label with %d classes", l.Type, l.Classes)
	}
	switch p := m.Prediction; {
	case p.Width < 1 || p.Width > maxWidth:
		return bad("a prediction of width %d", p.Width)
	case p.Kind == Classes && p.Width == m.Label.Classes && m.Label.Type == tidemill.Multiclass:
	case p.Kind == Probability && p.Width == 1 && m.Label.Type == tidemill.Binary:
	case p.Kind == Value && p.Width == 1 && m.Label.Type != tidemill.Multiclass:
	default:
		return bad("a prediction of kind %.100q and width %d does not fit a %s label", p.Kind, p.Width, m.Label.Type)
	}
	return nil
}

// input checks one input. dims are the tables' by name.
func (r *reader) input(in *Input, dims map[string]int) error {
	bad := func(what string, args ...any) error {
		return r.bad("export the model again with tidemill.keras.export", "manifest: input %.200q: "+what, append([]any{in.Tensor}, args...)...)
	}
	if len(in.Shape) < 1 || len(in.Shape) > maxRank || in.Shape[0] != -1 {
		return bad("shape %v does not begin with -1, the batch", in.Shape)
	}
	values, ok := product(in.Shape[1:])
	if !ok {
		return bad("shape %v", in.Shape)
	}
	sparse, table := in.Kind == Rows || in.Kind == Present, in.Kind == Rows
	switch {
	case (in.Kind == Numbers) != (len(in.Features) > 0), sparse != (in.Feature != ""), table != (in.Table != ""), table != (in.Gradient != ""):
		return bad("an input of kind %.100q has members that another kind has, or lacks its own", in.Kind)
	}
	switch in.Kind {
	case Numbers:
		if int64(len(in.Features)) != values {
			return bad("%d features for %d values", len(in.Features), values)
		}
	case Rows:
		dim, ok := dims[in.Table]
		switch {
		case !ok:
			return bad("there is no table %.200q", in.Table)
		case len(in.Shape) < 2 || len(in.Shape) > 3 || in.Shape[len(in.Shape)-1] != dim:
			return bad("shape %v for rows of dim %d", in.Shape, dim)
		}
		if n, _ := in.Positions(); n > maxLength {
			return bad("%d ids in an example, more than %d", n, maxLength)
		}
	case Present:
		if len(in.Shape) != 2 || in.Shape[1] > maxLength {
			return bad("shape %v", in.Shape)
		}
	case Label, Weight, Keys:
		if len(in.Shape) != 1 {
			return bad("shape %v instead of [-1]", in.Shape)
		}
	default:
		return bad("unknown kind %.100q", in.Kind)
	}
	return nil
}

// join checks that the manifest and the graph fit together, and fills in what of the inputs
// a prediction depends on.
func (r *reader) join(f *File, g *graph) error {
	m := &f.Manifest
	bad := func(what string, args ...any) error {
		return r.bad("export the model again with tidemill.keras.export", what, args...)
	}
	claimed := map[int]string{}
	claim := func(what, tensor string, shape []int, dtype uint64) (int, error) {
		at, got, err := g.tensor(tensor)
		if err != nil {
			return 0, bad("%s: %v", what, err)
		}
		n := g.nodes[at]
		if n.op != "Placeholder" {
			return 0, bad("%s is fed to node %q, which is a %s instead of a Placeholder", what, n.name, n.op)
		}
		if by, twice := claimed[at]; twice {
			return 0, bad("%s and %s are fed to the same node %q", by, what, n.name)
		}
		claimed[at] = what
		if got != dtype {
			return 0, bad("%s is fed to node %q, which takes %s instead of %s", what, n.name, typeName(got), typeName(dtype))
		}
		if s := n.attrs["shape"]; !s.known || !same(s.shape, shape) {
			return 0, bad("%s has shape %v, and node %q takes %v", what, shape, n.name, []int64(s.shape))
		}
		return at, nil
	}
	inputs := make([]int, len(m.Inputs))
	for i := range m.Inputs {
		in := &m.Inputs[i]
		dtype := uint64(typeFloat)
		if in.Kind == Keys {
			dtype = typeUint64
		}
		var err error
		if inputs[i], err = claim(fmt.Sprintf("input %d (%s)", i, in.Kind), in.Tensor, in.Shape, dtype); err != nil {
			return err
		}
	}
	parameters := make([]int, len(m.Parameters))
	for i := range m.Parameters {
		p := &m.Parameters[i]
		var err error
		if parameters[i], err = claim(fmt.Sprintf("parameter %q", p.Name), p.Tensor, p.Shape, typeFloat); err != nil {
			return err
		}
	}
	ops := map[string]bool{}
	for i, n := range g.nodes {
		ops[n.op] = true
		if n.op == "Placeholder" && claimed[i] == "" {
			return bad("nothing is fed to node %q (Placeholder)", n.name)
		}
	}
	for _, op := range m.Ops {
		if !ops[op] {
			return bad("the manifest lists op %.100q, which the graph does not have", op)
		}
		delete(ops, op)
	}
	for op := range ops {
		return bad("the manifest does not list op %s, which the graph has, or lists another one twice", op)
	}
	fetch := func(what, tensor string) (int, error) {
		at, dtype, err := g.tensor(tensor)
		if err == nil && dtype != typeFloat {
			err = fmt.Errorf("tensor %q is %s instead of float32", tensor, typeName(dtype))
		}
		if err != nil {
			return 0, bad("%s: %v", what, err)
		}
		return at, nil
	}
	for i := range m.Inputs {
		if m.Inputs[i].Kind == Rows {
			if _, err := fetch("gradient of input "+m.Inputs[i].Tensor, m.Inputs[i].Gradient); err != nil {
				return err
			}
		}
	}
	for i := range m.Parameters {
		p := &m.Parameters[i]
		if p.Kind == Trained {
			if _, err := fetch("gradient of "+p.Name, p.Gradient); err != nil {
				return err
			}
			continue
		}
		at, err := fetch("contribution to "+p.Name, p.Contribution)
		if err != nil {
			return err
		}
		if g.needs(at)[parameters[i]] {
			return bad("the contribution to moving statistic %q depends on the statistic", p.Name)
		}
	}
	prediction, err := fetch("prediction", m.Prediction.Tensor)
	if err != nil {
		return err
	}
	loss, err := fetch("loss", m.Loss)
	if err != nil {
		return err
	}
	forward, scored := g.needs(prediction), g.needs(loss)
	f.Forward, f.ForwardParameters = make([]bool, len(inputs)), make([]bool, len(parameters))
	for i, at := range inputs {
		kind := m.Inputs[i].Kind
		f.Forward[i] = forward[at]
		if forward[at] && (kind == Label || kind == Weight || kind == Keys) {
			return bad("the prediction depends on the %s (node %q)", kind, g.nodes[at].name)
		}
		if scored[at] && (kind == Weight || kind == Keys) {
			return bad("the loss of an example depends on the %s (node %q)", kind, g.nodes[at].name)
		}
	}
	for i, at := range parameters {
		f.ForwardParameters[i] = forward[at]
	}
	return nil
}

// same reports whether a placeholder's shape is the one that a manifest says.
func same(s shape, want []int) bool {
	if len(s) != len(want) {
		return false
	}
	for i := range s {
		if s[i] != int64(want[i]) {
			return false
		}
	}
	return true
}
