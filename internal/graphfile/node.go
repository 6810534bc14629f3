package graphfile

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits of a graph.
const (
	maxNodes     = 100_000
	maxInputs    = 4096 // of a node
	maxText      = 1024 // bytes of a name or a text attribute
	maxConstants = 256 << 20
)

// signature is an op as TensorFlow's registry has it.
type signature struct {
	in, out []arg
	attrs   []attribute
}

// arg is one argument or result: of a fixed type, of the type that attribute attr says, or one
// of each type of attribute list; number says how many of it there are.
type arg struct {
	fixed  uint64
	attr   string
	list   string
	number string
}

// attribute is one attribute of an op.
type attribute struct {
	name     string
	kind     string
	optional bool     // it may be left out, and is value then
	value    int64    // of an int or a type
	bounded  bool     // an int, or the length of a list, is at least least
	least    int64    //
	types    types    // that a type may be
	texts    []string // that a text may be; nil: any
}

// node is a node of the graph.
type node struct {
	name    string
	op      string
	inputs  []edge // data first, then control
	attrs   map[string]value
	outputs []uint64 // types
}

// edge is what a node takes: output of a node, or -1 where it only waits for it.
type edge struct {
	node   int
	output int
	name   string // as written
}

// value is an attribute's.
type value struct {
	kind  string
	int   int64    // int, type, bool
	types []uint64 // list(type)
	count int      // of a list
	text  string
	shape shape
	known bool // the shape's rank is known
	value constant
}

// parseNode reads a NodeDef. Its inputs are not resolved yet.
func parseNode(b []byte) (*node, error) {
	n := &node{attrs: map[string]value{}}
	err := fields(b, func(f field) error {
		d, err := f.data()
		if err != nil {
			return err
		}
		switch f.number {
		case 1:
			n.name = string(d)
		case 2:
			n.op = string(d)
		case 3:
			if len(n.inputs) >= maxInputs {
				return fmt.Errorf("it has more than %d inputs", maxInputs)
			}
			n.inputs = append(n.inputs, edge{name: string(d)})
		case 4:
			if len(d) > 0 {
				return fmt.Errorf("it asks for device %.100q", d)
			}
		case 5:
			return n.parseAttr(d)
		default:
			return f.unexpected()
		}
		return nil
	})
	return n, err
}

// parseAttr reads an entry of a NodeDef's attributes.
func (n *node) parseAttr(b []byte) error {
	var name string
	var body []byte
	err := fields(b, func(f field) error {
		d, err := f.data()
		if err != nil {
			return err
		}
		switch f.number {
		case 1:
			name = string(d)
		case 2:
			body = d
		default:
			return f.unexpected()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, twice := n.attrs[name]; twice {
		return fmt.Errorf("attribute %.100q stands twice", name)
	}
	v, err := parseValue(body)
	if err != nil {
		return fmt.Errorf("attribute %.100q: %w", name, err)
	}
	n.attrs[name] = v
	return nil
}

// parseValue reads an AttrValue.
func parseValue(b []byte) (value, error) {
	var v value
	err := fields(b, func(f field) error {
		if v.kind != "" {
			return fmt.Errorf("it has two values")
		}
		switch f.number {
		case 3, 5, 6:
			x, err := f.varint()
			if err != nil {
				return err
			}
			v.kind = map[int]string{3: "int", 5: "bool", 6: "type"}[f.number]
			v.int = int64(x)
			return nil
		case 4:
			if f.kind != protowire.Fixed32Type {
				return fmt.Errorf("field 4 is no float")
			}
			v.kind = "float"
			if x := float64(math.Float32frombits(uint32(f.bits))); math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("it is %v", x)
			}
			return nil
		}
		d, err := f.data()
		if err != nil {
			return err
		}
		switch f.number {
		case 1:
			return v.parseList(d)
		case 2:
			v.kind, v.text = "string", string(d)
			if len(d) > maxText || !utf8.Valid(d) {
				return fmt.Errorf("it is a text of %d bytes, or no text", len(d))
			}
			return nil
		case 7:
			v.kind = "shape"
			v.shape, err = parseShape(d, false)
			v.known = v.shape != nil
			return err
		case 8:
			v.kind = "tensor"
			v.value, err = parseTensor(d)
			return err
		case 10:
			return fmt.Errorf("it names a function")
		case 9:
			return fmt.Errorf("it is a placeholder of a function")
		}
		return f.unexpected()
	})
	if err == nil && v.kind == "" {
		// A oneof whose member is an empty list is written as an empty message of field 1, so
		// nothing at all is no value.
		err = fmt.Errorf("it has no value")
	}
	return v, err
}

// parseList reads an AttrValue.ListValue. An empty one fits every list.
func (v *value) parseList(b []byte) error {
	v.kind = "list"
	return fields(b, func(f field) error {
		kind := map[int]string{2: "string", 3: "int", 4: "float", 5: "bool", 6: "type", 7: "shape"}[f.number]
		switch kind = "list(" + kind + ")"; {
		case f.number == 8 || f.number == 9:
			return fmt.Errorf("it is a list of tensors or functions")
		case kind == "list()":
			return f.unexpected()
		case v.kind != "list" && v.kind != kind:
			return fmt.Errorf("its list has values of two types")
		}
		v.kind = kind
		if f.number == 2 || f.number == 7 {
			v.count++
			_, err := f.data()
			return err
		}
		width := 0
		if f.number == 4 {
			width = 4
		}
		return f.packed(width, maxInputs, func(x uint64) {
			v.count++
			if f.number == 6 {
				v.types = append(v.types, x)
			}
		})
	})
}

// checkAttrs compares n's attributes with its op's and fills in what is left out.
func (n *node) checkAttrs(sig *signature) error {
	known := make(map[string]bool, len(sig.attrs))
	for i := range sig.attrs {
		a := &sig.attrs[i]
		known[a.name] = true
		v, ok := n.attrs[a.name]
		if !ok {
			if !a.optional {
				return fmt.Errorf("attribute %s is missing", a.name)
			}
			if a.kind == "int" || a.kind == "type" {
				n.attrs[a.name] = value{kind: a.kind, int: a.value}
			}
			continue
		}
		if err := a.check(v); err != nil {
			return fmt.Errorf("attribute %s: %w", a.name, err)
		}
	}
	for name := range n.attrs {
		if !known[name] {
			return fmt.Errorf("op %s has no attribute %.100q", n.op, name)
		}
	}
	if v, ok := n.attrs[fatal[n.op]]; ok && v.int != 0 {
		return fmt.Errorf("attribute %s is %d: only 0 is taken, since TensorFlow ends the process where it does not know a rank", fatal[n.op], v.int)
	}
	return nil
}

// fatal are attributes, by op, that TensorFlow computes a rank with and does not check.
var fatal = map[string]string{"GatherV2": "batch_dims"}

// check reports whether v is a value that a may have.
func (a *attribute) check(v value) error {
	list := strings.HasPrefix(a.kind, "list(")
	switch {
	case v.kind != a.kind && !(list && v.kind == "list"):
		return fmt.Errorf("it is a %s instead of a %s", v.kind, a.kind)
	case a.kind == "type" && !a.types.has(uint64(v.int)):
		return fmt.Errorf("it is %s, which the op does not take here", typeName(uint64(v.int)))
	case a.kind == "int" && a.bounded && v.int < a.least:
		return fmt.Errorf("it is %d, less than %d", v.int, a.least)
	case list && a.bounded && int64(v.count) < a.least:
		return fmt.Errorf("it has %d values, fewer than %d", v.count, a.least)
	case a.kind == "string" && a.texts != nil && !slices.Contains(a.texts, v.text):
		return fmt.Errorf("it is %q, and may be %s", v.text, strings.Join(a.texts, ", "))
	}
	for _, d := range v.types {
		if !a.types.has(d) {
			return fmt.Errorf("it has %s, which the op does not take here", typeName(d))
		}
	}
	return nil
}

// expand returns the types of args, as n's attributes say.
func (n *node) expand(args []arg) ([]uint64, error) {
	var out []uint64
	for _, a := range args {
		switch {
		case a.list != "":
			out = append(out, n.attrs[a.list].types...)
			continue
		case a.attr != "":
			a.fixed = uint64(n.attrs[a.attr].int)
		}
		count := int64(1)
		if a.number != "" {
			count = n.attrs[a.number].int
		}
		if count < 0 || int64(len(out))+count > maxInputs {
			return nil, fmt.Errorf("it has more than %d inputs or outputs", maxInputs)
		}
		for range count {
			out = append(out, a.fixed)
		}
	}
	return out, nil
}

// splitTensor splits NODE:OUTPUT; a missing output is 0.
func splitTensor(s string) (node string, output int, ok bool) {
	node, num, found := strings.Cut(s, ":")
	if !found {
		return s, 0, s != ""
	}
	k, err := strconv.ParseUint(num, 10, 16)
	if err != nil || num != strconv.FormatUint(k, 10) {
		return "", 0, false
	}
	return node, int(k), node != ""
}

// goodName reports whether s is a name that TensorFlow takes for a node.
func goodName(s string) bool {
	if s == "" || len(s) > maxText {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.':
		case i > 0 && strings.IndexByte("_/\\>-", c) >= 0:
		default:
			return false
		}
	}
	return true
}
