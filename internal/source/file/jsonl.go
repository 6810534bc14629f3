package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

// jsonScanner reads one flat JSON object per line: values are numbers, strings, booleans,
// null, or lists of numbers or of strings. Blank lines are passed over.
type jsonScanner struct {
	name string
	l    *lines
	raw  []byte
	line int
	cols []column
	at   map[string]int
	set  []bool // which columns the record has named
	rest bool   // members that are no columns are passed over, whatever they hold
	text []byte // strings whose escapes were undone
}

func (s *jsonScanner) begin() error {
	if b, err := s.l.r.Peek(1); len(b) == 0 {
		if err == nil {
			err = io.EOF
		}
		return err
	}
	return nil
}

func (s *jsonScanner) drained() bool { return s.l.r.Buffered() == 0 }

func (s *jsonScanner) columns() []string { return nil }

func (s *jsonScanner) record() ([]byte, int) { return s.raw, s.line }

func (s *jsonScanner) scan() error { return scanLine(s.l, &s.raw, &s.line, 0) }

func (s *jsonScanner) bind(cols []column) error {
	s.cols, s.at, s.set = cols, make(map[string]int, len(cols)), make([]bool, len(cols))
	for i, c := range cols {
		s.at[c.name] = i
	}
	return nil
}

func (s *jsonScanner) observe(in *inference) {
	type seen struct {
		name  string
		value jsonValue
	}
	var all []seen
	f := s.object(func(name []byte, _ int, v jsonValue) *fault {
		v.text = append([]byte(nil), v.text...)
		all = append(all, seen{string(name), v})
		return nil
	})
	if f != nil {
		return
	}
	in.rows++
	for _, o := range all {
		i := in.column(o.name)
		switch o.value.kind {
		case jsonNumber:
			in.typed(i, numberType(o.value.whole))
		case jsonBool:
			in.typed(i, arrow.FixedWidthTypes.Boolean)
		case jsonString:
			if in.cols[i].typ == nil || in.cols[i].typ == timestampType || in.cols[i].typ.ID() == arrow.STRING {
				in.cols[i].typ = textType(in.cols[i].typ, o.value.text)
			}
		case jsonNumbers:
			in.typed(i, arrow.ListOf(numberType(o.value.whole)))
		case jsonStrings:
			in.typed(i, arrow.ListOf(arrow.BinaryTypes.String))
		}
	}
}

func numberType(whole bool) arrow.DataType {
	if whole {
		return arrow.PrimitiveTypes.Int64
	}
	return arrow.PrimitiveTypes.Float64
}

// textType is timestamp while every text was a time, else utf8.
func textType(was arrow.DataType, b []byte) arrow.DataType {
	if was == nil || was == arrow.DataType(timestampType) {
		if _, err := parseTime(b); err == nil {
			return timestampType
		}
	}
	return arrow.BinaryTypes.String
}

func (s *jsonScanner) fill(cells []cell) *fault {
	for i := range cells {
		cells[i].reset()
		cells[i].null = true
		s.set[i] = false
	}
	return s.object(func(name []byte, at int, v jsonValue) *fault {
		i, ok := s.at[str(name)]
		if !ok {
			names := make([]string, len(s.cols))
			for k, c := range s.cols {
				names[k] = c.name
			}
			remedy := "add it to the schema, or look at more rows to infer from"
			if near := tidemill.Nearest(string(name), names); near != "" {
				remedy = fmt.Sprintf("did you mean %q?", near)
			}
			return &fault{at: at, what: fmt.Sprintf("unknown field %s", clip(name)), remedy: remedy}
		}
		if s.set[i] {
			return &fault{at: at, what: fmt.Sprintf("field %s is there twice", clip(name))}
		}
		s.set[i] = true
		if v.kind == jsonNull {
			return nil
		}
		if what := s.value(&s.cols[i], v, &cells[i]); what != "" {
			return &fault{at: v.at, what: fmt.Sprintf("field %q: %s", s.cols[i].name, what)}
		}
		cells[i].null = false
		return nil
	})
}

// value converts v to the type of col; it returns what is wrong, or "".
func (s *jsonScanner) value(col *column, v jsonValue, c *cell) string {
	if l, ok := col.typ.(*arrow.ListType); ok {
		if v.kind != jsonNumbers && v.kind != jsonStrings {
			return "list expected, found " + v.kind.String()
		}
		elem := parserOf(l.Elem())
		for _, item := range v.items {
			if (item.kind == jsonString) != (l.Elem().ID() == arrow.STRING) {
				return fmt.Sprintf("list of %s expected, found %s in it", l.Elem(), item.kind)
			}
			if what := elem(item.text, c); what != "" {
				return what
			}
			switch l.Elem().ID() {
			case arrow.INT64:
				c.ints = append(c.ints, c.i)
			case arrow.STRING:
				c.texts = append(c.texts, c.s)
			default:
				c.floats = append(c.floats, c.f)
			}
		}
		return ""
	}
	want := jsonNumber
	switch col.typ.ID() {
	case arrow.STRING, arrow.LARGE_STRING, arrow.TIMESTAMP, arrow.DATE32:
		want = jsonString
	case arrow.BOOL:
		want = jsonBool
	}
	if v.kind != want {
		return fmt.Sprintf("%s expected, found %s", want, v.kind)
	}
	return col.parse(v.text, c)
}

type jsonKind uint8

const (
	jsonNull jsonKind = iota
	jsonNumber
	jsonString
	jsonBool
	jsonNumbers
	jsonStrings
)

func (k jsonKind) String() string {
	return [...]string{"null", "number", "string", "true or false", "list of numbers", "list of strings"}[k]
}

// jsonValue is a value as the scanner found it.
type jsonValue struct {
	kind  jsonKind
	at    int    // byte offset in the record
	text  []byte // of a number, string (unescaped) or bool
	whole bool   // a number, or every number of a list, is whole
	items []jsonValue
}

// object calls f with each member of the record.
func (s *jsonScanner) object(f func(name []byte, at int, v jsonValue) *fault) *fault {
	s.text = s.text[:0]
	if cap(s.text) < len(s.raw) {
		s.text = make([]byte, 0, 2*len(s.raw)) // values keep slices of it
	}
	p := jsonParser{b: s.raw, text: &s.text}
	p.space()
	if !p.take('{') {
		return p.want("an object: {")
	}
	p.space()
	if !p.take('}') {
		for {
			p.space()
			at := p.i
			if p.i >= len(p.b) || p.b[p.i] != '"' {
				return p.want("a field's name in quotes")
			}
			name, bad := p.str()
			if bad != nil {
				return bad
			}
			p.space()
			if !p.take(':') {
				return p.want("':'")
			}
			p.space()
			if _, known := s.at[str(name)]; s.rest && !known {
				bad = p.skip()
			} else {
				var v jsonValue
				if v, bad = p.value(true); bad == nil {
					bad = f(name, at, v)
				}
			}
			if bad != nil {
				return bad
			}
			p.space()
			if p.take('}') {
				break
			}
			if !p.take(',') {
				return p.want("',' or '}'")
			}
		}
	}
	p.space()
	if p.i < len(p.b) {
		return p.want("the end of the line")
	}
	return nil
}

// jsonParser reads one line. It is strict: what it takes, encoding/json takes.
type jsonParser struct {
	b    []byte
	i    int
	text *[]byte
}

func (p *jsonParser) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\t' || p.b[p.i] == '\r' || p.b[p.i] == '\n') {
		p.i++
	}
}

func (p *jsonParser) take(c byte) bool {
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *jsonParser) want(what string) *fault {
	if p.i >= len(p.b) {
		return &fault{at: len(p.b), what: "the line ends where " + what + " was expected"}
	}
	return &fault{at: p.i, what: fmt.Sprintf("%s expected, found %s", what, clip(p.b[p.i:min(len(p.b), p.i+10)]))}
}

func (p *jsonParser) value(lists bool) (jsonValue, *fault) {
	v := jsonValue{at: p.i}
	if p.i >= len(p.b) {
		return v, p.want("a value")
	}
	switch c := p.b[p.i]; {
	case c == '"':
		v.kind = jsonString
		var f *fault
		v.text, f = p.str()
		return v, f
	case c == '-' || (c >= '0' && c <= '9'):
		return p.number()
	case c == '[' && lists:
		return p.list()
	case c == '[' || c == '{':
		return v, &fault{at: p.i, what: "nested values are not rows", remedy: "flatten them, or write them as a string"}
	}
	for _, w := range []struct {
		word string
		kind jsonKind
	}{{"true", jsonBool}, {"false", jsonBool}, {"null", jsonNull}} {
		if n := len(w.word); len(p.b)-p.i >= n && string(p.b[p.i:p.i+n]) == w.word {
			v.kind, v.text = w.kind, p.b[p.i:p.i+n]
			p.i += n
			return v, nil
		}
	}
	return v, p.want("a value")
}

// skip passes over a value of any kind.
func (p *jsonParser) skip() *fault {
	from, depth := p.i, 0
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case '"':
			if _, f := p.str(); f != nil {
				return f
			}
		case '{', '[':
			depth++
			p.i++
		case '}', ']':
			if depth--; depth >= 0 {
				p.i++
			}
		case ',':
			if depth > 0 {
				p.i++
				continue
			}
			depth = -1
		default:
			p.i++
			if depth == 0 && p.i < len(p.b) && p.b[p.i] != ',' && p.b[p.i] != '}' {
				continue
			}
		}
		if depth <= 0 {
			break
		}
	}
	if value := bytes.TrimSpace(p.b[from:p.i]); !json.Valid(value) {
		return &fault{at: from, what: "not a JSON value"}
	}
	return nil
}

// number reads a number by JSON's grammar: no leading zero, plus sign or bare point.
func (p *jsonParser) number() (jsonValue, *fault) {
	v := jsonValue{kind: jsonNumber, at: p.i, whole: true}
	p.take('-')
	digits := func() bool {
		from := p.i
		for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
			p.i++
		}
		return p.i > from
	}
	zero := p.i < len(p.b) && p.b[p.i] == '0'
	from := p.i
	if !digits() || (zero && p.i-from > 1) {
		return v, &fault{at: v.at, what: "not a JSON number"}
	}
	if p.take('.') {
		v.whole = false
		if !digits() {
			return v, &fault{at: v.at, what: "not a JSON number"}
		}
	}
	if p.i < len(p.b) && (p.b[p.i] == 'e' || p.b[p.i] == 'E') {
		p.i++
		v.whole = false
		if !p.take('+') {
			p.take('-')
		}
		if !digits() {
			return v, &fault{at: v.at, what: "not a JSON number"}
		}
	}
	v.text = p.b[v.at:p.i]
	return v, nil
}

func (p *jsonParser) list() (jsonValue, *fault) {
	v := jsonValue{kind: jsonNumbers, at: p.i, whole: true}
	p.i++
	p.space()
	if p.take(']') {
		return v, nil
	}
	for {
		p.space()
		item, f := p.value(false)
		if f != nil {
			return v, f
		}
		switch {
		case item.kind == jsonString && (len(v.items) == 0 || v.kind == jsonStrings):
			v.kind = jsonStrings
		case item.kind == jsonNumber && v.kind == jsonNumbers:
			v.whole = v.whole && item.whole
		default:
			return v, &fault{at: item.at, what: "a list holds numbers or strings, not " + item.kind.String() + " beside them"}
		}
		v.items = append(v.items, item)
		p.space()
		if p.take(']') {
			return v, nil
		}
		if !p.take(',') {
			return v, p.want("',' or ']'")
		}
	}
}

// str reads a string; the result is valid until the next record.
func (p *jsonParser) str() ([]byte, *fault) {
	from := p.i
	p.i++
	escaped := false
	for ; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; {
		case c == '\\':
			escaped = true
			p.i++
		case c == '"':
			p.i++
			if !escaped {
				return p.b[from+1 : p.i-1], nil
			}
			var s string
			if err := json.Unmarshal(p.b[from:p.i], &s); err != nil {
				var syn *json.SyntaxError
				if errors.As(err, &syn) {
					return nil, &fault{at: from + int(syn.Offset) - 1, what: "bad escape in a string"}
				}
				return nil, &fault{at: from, what: "bad string"}
			}
			begin := len(*p.text)
			*p.text = append(*p.text, s...)
			return (*p.text)[begin:], nil
		case c < 0x20:
			return nil, &fault{at: p.i, what: "control character in a string", remedy: "escape it"}
		}
	}
	return nil, &fault{at: from, what: "a string is never closed"}
}
