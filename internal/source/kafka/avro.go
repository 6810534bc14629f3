package kafka

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source/rows"
)

// avroType is a type of Avro's specification (1.12), as far as its binary encoding goes.
type avroType struct {
	kind    string // null, boolean, int, long, float, double, bytes, string, enum, fixed, array, map, record, union
	logical string
	size    int64       // fixed
	symbols []string    // enum
	elem    *avroType   // array, map
	fields  []avroField // record
	of      []*avroType // union
}

type avroField struct {
	name string
	t    *avroType
	col  int // column of the schema bound; -1: read over
}

// avroSchema is the schema that records are written with.
type avroSchema struct{ root *avroType }

// Bounds on a schema, far above any that people write.
const (
	maxAvroBytes = 256 << 10
	maxAvroTypes = 4096
	maxAvroDepth = 32
)

// avroParser reads a schema. Named types are known from where they stand on; a type that names
// itself is not a row's.
type avroParser struct {
	names map[string]*avroType
	open  map[string]bool
	types int
}

// parseAvro reads an Avro schema, which has to be a record's.
func parseAvro(text string) (*avroSchema, error) {
	const remedy = "give the record schema that the producers use, as JSON"
	if text == "" {
		return nil, tidemill.Invalid("format avro needs a schema", "write avro: with the record schema, as JSON")
	}
	if len(text) > maxAvroBytes {
		return nil, tidemill.Invalid("the Avro schema has %d bytes", "use one of at most %d", len(text), maxAvroBytes)
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, tidemill.Invalid("the Avro schema is not JSON: %v", remedy, err)
	}
	p := &avroParser{names: map[string]*avroType{}, open: map[string]bool{}}
	t, err := p.parse(v, "", 0)
	if err != nil {
		return nil, tidemill.Invalid("the Avro schema cannot be used: %v", remedy, err)
	}
	if t.kind != "record" {
		return nil, tidemill.Invalid("the Avro schema is that of a %s, not of a record", remedy, t.kind)
	}
	return &avroSchema{t}, nil
}

var avroPrimitives = []string{"null", "boolean", "int", "long", "float", "double", "bytes", "string"}

func (p *avroParser) parse(v any, space string, depth int) (*avroType, error) {
	if p.types++; p.types > maxAvroTypes || depth > maxAvroDepth {
		return nil, fmt.Errorf("it has too many types, or nests too deeply")
	}
	switch v := v.(type) {
	case string:
		if slices.Contains(avroPrimitives, v) {
			return &avroType{kind: v}, nil
		}
		for _, full := range []string{v, space + "." + v} {
			if p.open[full] {
				return nil, fmt.Errorf("type %q holds itself", v)
			}
			if t := p.names[full]; t != nil {
				return t, nil
			}
		}
		return nil, fmt.Errorf("unknown type %q", v)
	case []any:
		t := &avroType{kind: "union"}
		for _, b := range v {
			bt, err := p.parse(b, space, depth+1)
			if err != nil {
				return nil, err
			}
			t.of = append(t.of, bt)
		}
		if len(t.of) == 0 {
			return nil, fmt.Errorf("a union of nothing")
		}
		return t, nil
	case map[string]any:
		return p.complex(v, space, depth)
	}
	return nil, fmt.Errorf("%v is no type", v)
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func (p *avroParser) complex(m map[string]any, space string, depth int) (*avroType, error) {
	kind, isName := m["type"].(string)
	if !isName {
		if m["type"] == nil {
			return nil, fmt.Errorf("a type without \"type\"")
		}
		return p.parse(m["type"], space, depth+1)
	}
	t := &avroType{kind: kind, logical: text(m, "logicalType")}
	full := ""
	if kind == "record" || kind == "error" || kind == "enum" || kind == "fixed" {
		name := text(m, "name")
		if name == "" {
			return nil, fmt.Errorf("a %s has no name", kind)
		}
		if ns := text(m, "namespace"); ns != "" {
			space = ns
		}
		full = name
		if space != "" && !slices.Contains([]rune(name), '.') {
			full = space + "." + name
		}
		if p.names[full] != nil || p.open[full] {
			return nil, fmt.Errorf("type %q is defined twice", full)
		}
		p.open[full] = true
	}
	switch kind {
	case "record", "error":
		t.kind = "record"
		list, _ := m["fields"].([]any)
		seen := map[string]bool{}
		for _, f := range list {
			fm, _ := f.(map[string]any)
			name := text(fm, "name")
			if name == "" || seen[name] {
				return nil, fmt.Errorf("record %q has a field without a name of its own", full)
			}
			seen[name] = true
			ft, err := p.parse(fm["type"], space, depth+1)
			if err != nil {
				return nil, fmt.Errorf("field %q: %w", name, err)
			}
			t.fields = append(t.fields, avroField{name, ft, -1})
		}
	case "enum":
		list, _ := m["symbols"].([]any)
		for _, s := range list {
			sym, ok := s.(string)
			if !ok {
				return nil, fmt.Errorf("enum %q has a symbol that is no text", full)
			}
			t.symbols = append(t.symbols, sym)
		}
		if len(t.symbols) == 0 {
			return nil, fmt.Errorf("enum %q has no symbols", full)
		}
	case "fixed":
		size, ok := m["size"].(float64)
		if !ok || size < 0 || size > maxAvroBytes || size != float64(int64(size)) {
			return nil, fmt.Errorf("fixed %q has no size", full)
		}
		t.size = int64(size)
	case "array", "map":
		key := map[string]string{"array": "items", "map": "values"}[kind]
		elem, err := p.parse(m[key], space, depth+1)
		if err != nil {
			return nil, err
		}
		t.elem = elem
	default:
		named, err := p.parse(kind, space, depth+1)
		if err != nil {
			return nil, err
		}
		if slices.Contains(avroPrimitives, kind) {
			return t, nil // with its logical type
		}
		return named, nil
	}
	if full != "" {
		delete(p.open, full)
		p.names[full] = t
	}
	return t, nil
}

// value returns the type of a field's value: that of the one branch of a union that is not null.
// ok is false where a row has no column for it.
func (t *avroType) value() (v *avroType, ok bool) {
	v = t
	if t.kind == "union" {
		v = nil
		for _, b := range t.of {
			if b.kind == "null" {
				continue
			}
			if v != nil {
				return nil, false
			}
			v = b
		}
		if v == nil {
			return nil, false
		}
	}
	return v, v.natural() != nil
}

// natural returns the column type that holds every value of t, or nil.
func (t *avroType) natural() arrow.DataType {
	switch t.kind {
	case "boolean":
		return arrow.FixedWidthTypes.Boolean
	case "int":
		return arrow.PrimitiveTypes.Int32
	case "long":
		if t.logical == "timestamp-millis" || t.logical == "timestamp-micros" {
			return arrow.FixedWidthTypes.Timestamp_us
		}
		return arrow.PrimitiveTypes.Int64
	case "float":
		return arrow.PrimitiveTypes.Float32
	case "double":
		return arrow.PrimitiveTypes.Float64
	case "string", "enum":
		return arrow.BinaryTypes.String
	case "bytes", "fixed":
		if t.logical != "" {
			return nil // a decimal's digits are not its value
		}
		return arrow.BinaryTypes.Binary
	case "array":
		e := t.elem
		switch {
		case e.kind == "int" || e.kind == "long" && e.logical == "":
			return arrow.ListOf(arrow.PrimitiveTypes.Int64)
		case e.kind == "float" || e.kind == "double":
			return arrow.ListOf(arrow.PrimitiveTypes.Float64)
		case e.kind == "string" || e.kind == "enum":
			return arrow.ListOf(arrow.BinaryTypes.String)
		}
	}
	return nil
}

// fits reports whether every value of t can be one of column type c.
func (t *avroType) fits(c arrow.DataType) bool {
	n := t.natural()
	if n == nil {
		return false
	}
	if arrow.TypeEqual(n, c) {
		return true
	}
	switch t.kind {
	case "int":
		return c.ID() == arrow.INT64 || c.ID() == arrow.FLOAT64
	case "long":
		// A stamp is its number where a number is asked for; whole numbers up to 2^53 are exact.
		return c.ID() == arrow.INT64 || c.ID() == arrow.FLOAT64 && t.logical == ""
	case "float":
		return c.ID() == arrow.FLOAT64
	}
	return false
}

// bind says which fields become which columns: those of want, or, where want is nil, every field
// that a row can hold. It returns the rows' schema.
func (s *avroSchema) bind(want *arrow.Schema) (*arrow.Schema, error) {
	if want == nil {
		var fields []arrow.Field
		for i := range s.root.fields {
			f := &s.root.fields[i]
			v, ok := f.t.value()
			if !ok {
				continue
			}
			f.col = len(fields)
			fields = append(fields, arrow.Field{Name: f.name, Type: v.natural(), Nullable: true})
		}
		if len(fields) == 0 {
			return nil, tidemill.Invalid("no field of the Avro schema can be a column", "columns are numbers, text, booleans, timestamps, bytes and lists of numbers or text")
		}
		return rows.Check(arrow.NewSchema(fields, nil))
	}
	var names []string
	for _, f := range s.root.fields {
		names = append(names, f.name)
	}
	for col, w := range want.Fields() {
		at := slices.Index(names, w.Name)
		if at < 0 {
			remedy := "name one of its fields"
			if near := tidemill.Nearest(w.Name, names); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			return nil, tidemill.Invalid("the Avro schema has no field %q", remedy, w.Name)
		}
		f := &s.root.fields[at]
		v, ok := f.t.value()
		if !ok || !v.fits(w.Type) {
			remedy := "leave it out"
			if ok {
				remedy = "declare it as " + rows.TypeName(v.natural())
			}
			return nil, tidemill.Invalid("field %q of the Avro schema, %s, cannot be a column of type %s", remedy, w.Name, f.t.kind, rows.TypeName(w.Type))
		}
		f.col = col
	}
	return want, nil
}
