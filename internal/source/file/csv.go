package file

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/tidemill/tidemill"
)

// csvScanner reads delimited text. Blank lines are passed over.
type csvScanner struct {
	name   string
	l      *lines
	comma  byte
	quotes bool // fields may be quoted
	header bool
	short  bool // rows may lack their last fields

	raw    []byte // the record, without its line end
	long   []byte // a record of several lines
	line   int    // where it began
	fields [][]byte
	starts []int  // byte offset of each field in raw
	open   int    // offset of the last opening quote
	buf    []byte // fields whose doubled quotes were undone
	names  []string
	of     []int // field of each bound column, -1: none
	cols   []column
}

func (s *csvScanner) drained() bool { return s.l.r.Buffered() == 0 }

func (s *csvScanner) columns() []string { return s.names }

func (s *csvScanner) record() ([]byte, int) { return s.raw, s.line }

func (s *csvScanner) begin() error {
	if err := s.scan(); err != nil {
		return err
	}
	if !s.header {
		for i := range s.fields {
			s.names = append(s.names, fmt.Sprintf("c%d", i))
		}
		// The record is a row: read it again.
		again := append(append([]byte(nil), s.raw...), '\n')
		s.unread(again, s.line)
		return nil
	}
	seen := make(map[string]bool)
	for i, f := range s.fields {
		name := string(bytes.TrimSpace(f))
		switch {
		case name == "":
			return &fault{at: s.starts[i], what: fmt.Sprintf("column %d of the header has no name", i+1), remedy: "name it, or say that there is no header"}
		case seen[name]:
			return &fault{at: s.starts[i], what: fmt.Sprintf("column %q is there twice in the header", name), remedy: "rename one"}
		}
		seen[name] = true
		s.names = append(s.names, name)
	}
	return nil
}

func (s *csvScanner) bind(cols []column) error {
	s.cols = cols
	want := make(map[string]int, len(cols))
	s.of = make([]int, len(cols))
	for i, c := range cols {
		want[c.name] = i
		s.of[i] = -1
	}
	for i, n := range s.names {
		at, ok := want[n]
		if !ok {
			return &tidemill.InputError{Place: tidemill.Place{File: s.name, Line: 1}, What: fmt.Sprintf("the file has a column %q that the schema lacks", n), Remedy: "add it to the schema, or take it out of the file"}
		}
		s.of[at] = i
	}
	return nil
}

// unread puts bytes back that were read as beginning in line.
func (s *csvScanner) unread(b []byte, line int) {
	s.l.r = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(b), s.l.r), 256<<10)
	s.l.line = line - 1
}

func (s *csvScanner) scan() error {
	for {
		b, err := s.l.next()
		s.line = s.l.line
		if errors.Is(err, errTooLong) {
			s.raw = append(s.long[:0], b...)
			return &fault{what: fmt.Sprintf("the line is longer than %d bytes", s.l.max)}
		}
		if err != nil {
			s.raw = nil
			return err
		}
		line := trim(b)
		if len(line) == 0 {
			continue
		}
		s.raw = line
		if !s.quotes || bytes.IndexByte(line, '"') < 0 {
			s.split(line)
			return nil
		}
		return s.quoted(b)
	}
}

// split takes apart a record without quotes.
func (s *csvScanner) split(line []byte) {
	s.fields, s.starts = s.fields[:0], s.starts[:0]
	at := 0
	for {
		i := bytes.IndexByte(line[at:], s.comma)
		s.starts = append(s.starts, at)
		if i < 0 {
			s.fields = append(s.fields, line[at:])
			return
		}
		s.fields = append(s.fields, line[at:at+i])
		at += i + 1
	}
}

// quoted takes apart a record with quotes, which may go on over several lines. A quote that
// is never closed costs the line it stands in, not the rest of the file.
func (s *csvScanner) quoted(first []byte) error {
	s.long = append(s.long[:0], first...)
	for {
		f, more := s.fieldsOf(trim(s.long))
		if !more {
			s.raw = trim(s.long)
			if f != nil {
				return f
			}
			return nil
		}
		b, err := s.l.next()
		if err != nil && err != io.EOF && !errors.Is(err, errTooLong) {
			return err
		}
		if err == nil && len(s.long)+len(b) <= s.l.max {
			s.long = append(s.long, b...)
			continue
		}
		if errors.Is(err, errTooLong) {
			s.raw = trim(s.long)
			return &fault{at: s.open, what: fmt.Sprintf("a quote is not closed before a line of more than %d bytes", s.l.max)}
		}
		end := bytes.IndexByte(s.long, '\n') + 1
		if end == 0 {
			end = len(s.long)
		}
		rest := append(append([]byte(nil), s.long[end:]...), b...)
		s.raw = trim(s.long[:end:end])
		if len(rest) > 0 {
			s.unread(rest, s.line+1)
		}
		return &fault{at: min(s.open, len(s.raw)), what: "a quote is never closed", remedy: "close it, or double quotes that are part of a value"}
	}
}

// fieldsOf takes apart a record, or reports that it ends inside a quoted field.
func (s *csvScanner) fieldsOf(rec []byte) (f *fault, more bool) {
	s.fields, s.starts, s.buf = s.fields[:0], s.starts[:0], s.buf[:0]
	if cap(s.buf) < len(rec) {
		s.buf = make([]byte, 0, 2*len(rec)) // fields keep slices of it: it must not move
	}
	for at := 0; ; {
		s.starts = append(s.starts, at)
		if at < len(rec) && rec[at] == '"' {
			s.open = at
			begin := len(s.buf)
			at++
			for {
				i := bytes.IndexByte(rec[at:], '"')
				if i < 0 {
					return nil, true
				}
				s.buf = append(s.buf, rec[at:at+i]...)
				at += i + 1
				if at < len(rec) && rec[at] == '"' {
					s.buf = append(s.buf, '"')
					at++
					continue
				}
				break
			}
			s.fields = append(s.fields, s.buf[begin:len(s.buf):len(s.buf)])
			if at == len(rec) {
				return nil, false
			}
			if rec[at] != s.comma {
				return &fault{at: at, what: "text after a closing quote", remedy: "double quotes that are part of a value"}, false
			}
			at++
			continue
		}
		i := bytes.IndexByte(rec[at:], s.comma)
		if i < 0 {
			s.fields = append(s.fields, rec[at:])
			return nil, false
		}
		s.fields = append(s.fields, rec[at:at+i])
		at += i + 1
	}
}

func (s *csvScanner) observe(in *inference) {
	if s.misfit() {
		return
	}
	in.rows++
	for i, f := range s.fields {
		in.text(i, f)
	}
}

func (s *csvScanner) fill(cells []cell) *fault {
	if s.misfit() {
		return s.ragged()
	}
	for i := range cells {
		c := &cells[i]
		c.null = true
		at := s.of[i]
		if at < 0 || at >= len(s.fields) || len(s.fields[at]) == 0 {
			continue
		}
		c.null = false
		if what := s.cols[i].parse(s.fields[at], c); what != "" {
			remedy := ""
			if notFinite(s.fields[at]) {
				remedy = "leave the field empty where there is no value"
			}
			return &fault{at: s.starts[at], what: fmt.Sprintf("column %q: %s", s.cols[i].name, what), remedy: remedy}
		}
	}
	return nil
}

func (s *csvScanner) misfit() bool {
	return len(s.fields) > len(s.names) || len(s.fields) < len(s.names) && !s.short
}

func (s *csvScanner) ragged() *fault {
	at := len(s.raw)
	if len(s.fields) > len(s.names) {
		at = s.starts[len(s.names)]
	}
	of := "the header"
	if !s.header {
		of = "the first line"
	}
	return &fault{at: at, what: fmt.Sprintf("%d fields where %s has %d", len(s.fields), of, len(s.names)), remedy: "quote fields that contain the separator"}
}
