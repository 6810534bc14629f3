package file

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

// Columns of libsvm files.
var svmSchema = arrow.NewSchema([]arrow.Field{
	{Name: "label", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "indices", Type: arrow.ListOf(arrow.PrimitiveTypes.Int64), Nullable: true},
	{Name: "values", Type: arrow.ListOf(arrow.PrimitiveTypes.Float64), Nullable: true},
}, nil)

// svmScanner reads "label index:value … # comment" lines. Blank lines and lines that are
// comments are passed over.
type svmScanner struct {
	name string
	l    *lines
	raw  []byte
	line int
}

func (s *svmScanner) begin() error {
	if b, err := s.l.r.Peek(1); len(b) == 0 {
		return err
	}
	return nil
}

func (s *svmScanner) drained() bool { return s.l.r.Buffered() == 0 }

func (s *svmScanner) columns() []string { return nil }

func (s *svmScanner) record() ([]byte, int) { return s.raw, s.line }

func (s *svmScanner) scan() error { return scanLine(s.l, &s.raw, &s.line, '#') }

// scanLine reads the next line that is not blank and does not begin with comment.
func scanLine(l *lines, raw *[]byte, line *int, comment byte) error {
	for {
		b, err := l.next()
		*line = l.line
		*raw = trim(b)
		if errors.Is(err, errTooLong) {
			return &fault{what: fmt.Sprintf("the line is longer than %d bytes", l.max)}
		}
		if err != nil {
			*raw = nil
			return err
		}
		t := bytes.TrimLeft(*raw, " \t")
		if len(t) == 0 || (comment != 0 && t[0] == comment) {
			continue
		}
		return nil
	}
}

func (s *svmScanner) observe(in *inference) {
	in.rows++
	for _, f := range svmSchema.Fields() {
		in.typed(in.column(f.Name), f.Type)
	}
}

func (s *svmScanner) bind(cols []column) error {
	for i, c := range cols {
		if i >= svmSchema.NumFields() || c.name != svmSchema.Field(i).Name || !arrow.TypeEqual(c.typ, svmSchema.Field(i).Type) {
			return &tidemill.InputError{Place: tidemill.Place{File: s.name}, What: "libsvm files have the columns label float64, indices list<int64>, values list<float64>", Remedy: "leave the schema out"}
		}
	}
	if len(cols) != svmSchema.NumFields() {
		return &tidemill.InputError{Place: tidemill.Place{File: s.name}, What: "libsvm files have three columns: label, indices, values", Remedy: "leave the schema out"}
	}
	return nil
}

func (s *svmScanner) fill(cells []cell) *fault {
	for i := range cells {
		cells[i].reset()
	}
	var v cell
	number := parseFloat(64)
	whole := parseInt(64)
	text := s.raw
	if i := bytes.IndexByte(text, '#'); i >= 0 {
		text = text[:i]
	}
	first := true
	for at := 0; at < len(text); {
		if text[at] == ' ' || text[at] == '\t' {
			at++
			continue
		}
		end := at
		for end < len(text) && text[end] != ' ' && text[end] != '\t' {
			end++
		}
		word := text[at:end]
		if first {
			if what := number(word, &v); what != "" {
				return &fault{at: at, what: "label: " + what}
			}
			cells[0].f, first = v.f, false
			at = end
			continue
		}
		colon := bytes.IndexByte(word, ':')
		if colon < 0 {
			return &fault{at: at, what: fmt.Sprintf("index:value expected, found %s", clip(word))}
		}
		if what := whole(word[:colon], &v); what != "" {
			return &fault{at: at, what: "index: " + what}
		}
		if what := number(word[colon+1:], &v); what != "" {
			return &fault{at: at + colon + 1, what: "value: " + what}
		}
		cells[1].ints = append(cells[1].ints, v.i)
		cells[2].floats = append(cells[2].floats, v.f)
		at = end
	}
	return nil
}
