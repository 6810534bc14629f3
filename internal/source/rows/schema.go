package rows

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
)

// MaxColumns bounds the columns of a topic.
const MaxColumns = 4096

// Check returns schema without its metadata, or tidemill.ErrInvalid naming the column that a
// topic cannot hold: a nameless or repeated one, or one of a type that needs more than its
// own buffers (dictionary, union, extension, view, run-end encoded, null).
func Check(schema *arrow.Schema) (*arrow.Schema, error) {
	if schema == nil || schema.NumFields() == 0 {
		return nil, tidemill.Invalid("the schema has no columns", "name at least one")
	}
	if n := schema.NumFields(); n > MaxColumns {
		return nil, tidemill.Invalid("the schema has %d columns, more than %d", "put wide features into list columns", n, MaxColumns)
	}
	seen := make(map[string]bool, schema.NumFields())
	fields := make([]arrow.Field, schema.NumFields())
	for i, f := range schema.Fields() {
		if f.Name == "" {
			return nil, tidemill.Invalid("column %d has no name", "name it", i+1)
		}
		if seen[f.Name] {
			return nil, tidemill.Invalid("column %q is there twice", "rename one", f.Name)
		}
		seen[f.Name] = true
		if t := unsupported(f.Type, 0); t != nil {
			return nil, tidemill.Invalid("column %q has type %s, which streams do not carry", "cast it to a plain type, such as utf8", f.Name, t)
		}
		fields[i] = arrow.Field{Name: f.Name, Type: f.Type, Nullable: f.Nullable}
	}
	return arrow.NewSchema(fields, nil), nil
}

// maxDepth bounds the nesting of lists and structs.
const maxDepth = 16

// unsupported returns the part of t that rows cannot carry, or nil.
func unsupported(t arrow.DataType, depth int) arrow.DataType {
	if t == nil {
		return arrow.Null
	}
	if depth > maxDepth {
		return t
	}
	switch t := t.(type) {
	case *arrow.BooleanType, *arrow.BinaryType, *arrow.LargeBinaryType, *arrow.StringType, *arrow.LargeStringType:
		return nil
	case *arrow.ListType:
		return unsupported(t.Elem(), depth+1)
	case *arrow.LargeListType:
		return unsupported(t.Elem(), depth+1)
	case *arrow.FixedSizeListType:
		if t.Len() == 0 {
			return t
		}
		return unsupported(t.Elem(), depth+1)
	case *arrow.StructType:
		if t.NumFields() == 0 {
			return t
		}
		for _, f := range t.Fields() {
			if u := unsupported(f.Type, depth+1); u != nil {
				return u
			}
		}
		return nil
	case *arrow.DictionaryType, arrow.ExtensionType, arrow.BinaryViewDataType, *arrow.MapType:
		return t
	case arrow.FixedWidthDataType:
		if t.BitWidth() > 0 && t.BitWidth()%8 == 0 {
			return nil
		}
	}
	return t
}

// Fingerprint is a hash of names, types and nullability, in order. It is never 0.
func Fingerprint(schema *arrow.Schema) uint64 {
	h := xxh3.New()
	for _, f := range schema.Fields() {
		fmt.Fprintf(h, "%q %s %v\n", f.Name, f.Type, f.Nullable)
	}
	return max(h.Sum64(), 1)
}

// Same reports whether a and b have the same columns in the same order, metadata aside.
func Same(a, b *arrow.Schema) bool {
	if a == b {
		return true
	}
	if a.NumFields() != b.NumFields() {
		return false
	}
	for i := range a.NumFields() {
		f, g := a.Field(i), b.Field(i)
		if f.Name != g.Name || f.Nullable != g.Nullable || !arrow.TypeEqual(f.Type, g.Type) {
			return false
		}
	}
	return true
}

// Compatible returns nil when rows of schema may be appended to a topic of schema topic:
// each column exists there with the same type, and those it leaves out are nullable.
func Compatible(topic, schema *arrow.Schema) error {
	_, err := match(topic, schema)
	return err
}

// Evolve returns the schema of a topic after adding columns: want must begin with topic's
// columns, unchanged, and any further ones must be nullable. When want is only a beginning
// of topic (somebody else evolved it further), the result is topic.
func Evolve(topic, want *arrow.Schema) (*arrow.Schema, error) {
	want, err := Check(want)
	if err != nil {
		return nil, err
	}
	for i := range want.NumFields() {
		w := want.Field(i)
		if i >= topic.NumFields() {
			if topic.HasField(w.Name) {
				return nil, tidemill.Invalid("column %q is in another place in the topic", "keep the topic's columns first, in their order", w.Name)
			}
			if !w.Nullable {
				return nil, tidemill.Invalid("new column %q is not nullable, but older rows lack it", "make it nullable", w.Name)
			}
			continue
		}
		t := topic.Field(i)
		if t.Name != w.Name {
			return nil, tidemill.Invalid("column %d is %q in the topic and %q here", "add columns at the end only; none can be renamed, moved or dropped", i+1, t.Name, w.Name)
		}
		if !arrow.TypeEqual(t.Type, w.Type) {
			return nil, typeError(w.Name, t.Type, w.Type)
		}
	}
	if want.NumFields() <= topic.NumFields() {
		return topic, nil
	}
	// The columns that exist keep the topic's nullability: it is not the caller's to change.
	fields := append(append([]arrow.Field(nil), topic.Fields()...), want.Fields()[topic.NumFields():]...)
	return arrow.NewSchema(fields, nil), nil
}

func typeError(column string, topic, got arrow.DataType) error {
	return tidemill.Invalid("column %q is %s in the topic and %s here", "cast it, or use another column name", column, topic, got)
}

// match returns, for each column of topic, its index in schema or -1.
func match(topic, schema *arrow.Schema) ([]int, error) {
	for _, f := range schema.Fields() {
		at := topic.FieldIndices(f.Name)
		if len(at) == 0 {
			var names []string
			for _, t := range topic.Fields() {
				names = append(names, t.Name)
			}
			remedy := "add it to the topic first (evolve), or leave it out"
			if near := tidemill.Nearest(f.Name, names); near != "" {
				remedy += fmt.Sprintf("; the nearest column is %q", near)
			}
			return nil, tidemill.Invalid("the topic has no column %q", remedy, f.Name)
		}
		if t := topic.Field(at[0]); !arrow.TypeEqual(t.Type, f.Type) {
			return nil, typeError(f.Name, t.Type, f.Type)
		}
	}
	idx := make([]int, topic.NumFields())
	for i, t := range topic.Fields() {
		at := schema.FieldIndices(t.Name)
		switch {
		case len(at) == 1:
			idx[i] = at[0]
		case len(at) > 1:
			return nil, tidemill.Invalid("column %q is there twice", "rename one", t.Name)
		case !t.Nullable:
			return nil, tidemill.Invalid("column %q is missing and not nullable", "give it", t.Name)
		default:
			idx[i] = -1
		}
	}
	return idx, nil
}
