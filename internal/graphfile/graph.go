package graphfile

import (
	"fmt"
	"strings"
)

// graph is a checked GraphDef.
type graph struct {
	nodes  []*node
	byName map[string]int
	order  []int // every node after those that it takes from
}

// refusal is why ops with one of parts in their name are refused.
type refusal struct {
	parts        []string
	what, remedy string
}

// whyNot says why op is not in the table, and what to do.
func whyNot(op string) (what, remedy string) {
	for _, r := range refused {
		for _, part := range r.parts {
			if strings.Contains(op, part) {
				return "op " + op + " " + r.what, r.remedy
			}
		}
	}
	return fmt.Sprintf("op %.100q is not known to be safe", op), "write that part of the model with other layers; docs/format/graph.md says where the list of ops is"
}

// graph reads a GraphDef and checks every node of it.
func (r *reader) graph(data []byte) (*graph, error) {
	g := &graph{byName: map[string]int{}}
	again := "export the model again with tidemill.keras.export"
	err := fields(data, func(f field) error {
		switch f.number {
		case 1:
			d, err := f.data()
			if err != nil {
				return err
			}
			if len(g.nodes) >= maxNodes {
				return fmt.Errorf("it has more than %d nodes", maxNodes)
			}
			n, err := parseNode(d)
			if err != nil {
				return fmt.Errorf("node %.200q: %w", n.name, err)
			}
			g.nodes = append(g.nodes, n)
			return nil
		case 2:
			if len(f.bytes) > 0 {
				return fmt.Errorf("it has a library of functions")
			}
			return nil
		case 3, 4: // versions
			return nil
		}
		return f.unexpected()
	})
	if err != nil {
		return nil, r.bad(again, "graph.pb: %v", err)
	}
	var constants int64
	for i, n := range g.nodes {
		if !goodName(n.name) {
			return nil, r.bad(again, "node %.200q has a name that TensorFlow does not take", n.name)
		}
		if _, twice := g.byName[n.name]; twice {
			return nil, r.bad(again, "two nodes are called %q", n.name)
		}
		g.byName[n.name] = i
		sig, ok := signatures[n.op]
		if !ok {
			what, remedy := whyNot(n.op)
			return nil, r.bad(remedy, "node %q: %s", n.name, what)
		}
		if err := n.checkAttrs(&sig); err != nil {
			return nil, r.bad(again, "node %q (%s): %v", n.name, n.op, err)
		}
		if n.outputs, err = n.expand(sig.out); err != nil {
			return nil, r.bad(again, "node %q (%s): %v", n.name, n.op, err)
		}
		if n.op == "Const" {
			c := n.attrs["value"].value
			if c.dtype != uint64(n.attrs["dtype"].int) {
				return nil, r.bad(again, "node %q (Const) is said to be %s and holds %s", n.name, typeName(uint64(n.attrs["dtype"].int)), typeName(c.dtype))
			}
			if constants += c.bytes; constants > maxConstants {
				return nil, r.bad("make what is large trainable, so that it is a parameter", "the graph's constants take more than %d MiB", maxConstants>>20)
			}
		}
	}
	for _, n := range g.nodes {
		if err := g.resolve(n); err != nil {
			return nil, r.bad(again, "node %q (%s): %v", n.name, n.op, err)
		}
	}
	if at := g.sort(); at != nil {
		return nil, r.bad("graphs with loops are not taken: give recurrent layers unroll=True", "node %q (%s) depends on itself", at.name, at.op)
	}
	return g, nil
}

// resolve finds the nodes that n takes from, and checks that types agree.
func (g *graph) resolve(n *node) error {
	sig := signatures[n.op]
	want, err := n.expand(sig.in)
	if err != nil {
		return err
	}
	data := 0
	for i := range n.inputs {
		e := &n.inputs[i]
		if from, control := strings.CutPrefix(e.name, "^"); control {
			at, ok := g.byName[from]
			if !ok {
				return fmt.Errorf("it waits for node %.200q, which is not there", from)
			}
			e.node, e.output = at, -1
			continue
		}
		if data != i {
			return fmt.Errorf("it takes %.200q after what it only waits for", e.name)
		}
		data++
		from, k, ok := splitTensor(e.name)
		if !ok {
			return fmt.Errorf("%.200q is no name of a tensor", e.name)
		}
		at, ok := g.byName[from]
		if !ok {
			return fmt.Errorf("it takes %.200q, and there is no such node", e.name)
		}
		if k >= len(g.nodes[at].outputs) {
			return fmt.Errorf("it takes %.200q, and that node (%s) has %d outputs", e.name, g.nodes[at].op, len(g.nodes[at].outputs))
		}
		e.node, e.output = at, k
		if i < len(want) && g.nodes[at].outputs[k] != want[i] {
			return fmt.Errorf("its input %d is %s, and %q gives %s", i, typeName(want[i]), e.name, typeName(g.nodes[at].outputs[k]))
		}
	}
	if data != len(want) {
		return fmt.Errorf("it takes %d inputs instead of %d", data, len(want))
	}
	return nil
}

// sort fills order in, or returns a node of a cycle.
func (g *graph) sort() *node {
	waits := make([]int, len(g.nodes))
	users := make([][]int, len(g.nodes))
	for i, n := range g.nodes {
		waits[i] = len(n.inputs)
		for _, e := range n.inputs {
			users[e.node] = append(users[e.node], i)
		}
	}
	g.order = make([]int, 0, len(g.nodes))
	for i := range g.nodes {
		if waits[i] == 0 {
			g.order = append(g.order, i)
		}
	}
	for at := 0; at < len(g.order); at++ {
		for _, u := range users[g.order[at]] {
			if waits[u]--; waits[u] == 0 {
				g.order = append(g.order, u)
			}
		}
	}
	for i := range g.nodes {
		if waits[i] > 0 {
			return g.nodes[i]
		}
	}
	return nil
}

// tensor returns the node that a tensor comes from and its type.
func (g *graph) tensor(name string) (at int, dtype uint64, err error) {
	from, k, ok := splitTensor(name)
	if !ok || !strings.Contains(name, ":") {
		return 0, 0, fmt.Errorf("%.200q is no name of a tensor", name)
	}
	at, ok = g.byName[from]
	if !ok || k >= len(g.nodes[at].outputs) {
		return 0, 0, fmt.Errorf("the graph has no tensor %.200q", name)
	}
	return at, g.nodes[at].outputs[k], nil
}

// needs marks every node that node at depends on, itself included.
func (g *graph) needs(at int) []bool {
	seen := make([]bool, len(g.nodes))
	seen[at] = true
	stack := []int{at}
	for len(stack) > 0 {
		n := g.nodes[stack[len(stack)-1]]
		stack = stack[:len(stack)-1]
		for _, e := range n.inputs {
			if !seen[e.node] {
				seen[e.node] = true
				stack = append(stack, e.node)
			}
		}
	}
	return seen
}
