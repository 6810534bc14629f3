package file

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/tidemill/tidemill"
)

// inflate returns r, decompressed if it begins as gzip does.
func inflate(name string, r io.Reader) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(head) < 2 || head[0] != 0x1f || head[1] != 0x8b {
		return br, nil
	}
	z, err := gzip.NewReader(br)
	if err != nil {
		return nil, gzipError(name, err)
	}
	return &gunzip{z: z, name: name}, nil
}

// gunzip words the errors of a damaged file.
type gunzip struct {
	z    *gzip.Reader
	name string
}

func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != nil && err != io.EOF {
		err = gzipError(g.name, err)
	}
	return n, err
}

func gzipError(name string, err error) error {
	return &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("the gzip data is damaged or cut short: %v", err), Remedy: "copy the file again"}
}

func emptyError(name string) error {
	return &tidemill.InputError{Place: tidemill.Place{File: name}, What: "the file is empty"}
}

// seekable returns r as something to seek in: itself when it can be, else its bytes.
func seekable(name string, r io.Reader, limit int64) (io.ReaderAt, int64, error) {
	if f, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	}); ok {
		size, err := f.Seek(0, io.SeekEnd)
		if err == nil {
			head := make([]byte, 2)
			if n, _ := f.ReadAt(head, 0); n < 2 || head[0] != 0x1f || head[1] != 0x8b {
				if size == 0 {
					return nil, 0, emptyError(name)
				}
				return f, size, nil
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return nil, 0, fmt.Errorf("read %s: %w", name, err)
			}
		}
	}
	in, err := inflate(name, r)
	if err != nil {
		return nil, 0, err
	}
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, 0, &tidemill.InputError{Place: tidemill.Place{File: name}, What: fmt.Sprintf("the file has more than %d bytes and cannot be sought in", limit), Remedy: "give it uncompressed, as a file"}
	}
	if len(b) == 0 {
		return nil, 0, emptyError(name)
	}
	return bytes.NewReader(b), int64(len(b)), nil
}

// lines reads a text line by line.
type lines struct {
	r    *bufio.Reader
	long []byte // a line longer than r's buffer
	line int    // number of the last line read, from 1
	max  int
}

var errTooLong = errors.New("line too long")

func newLines(r io.Reader, limit int) *lines {
	l := &lines{r: bufio.NewReaderSize(r, 256<<10), max: limit}
	if bom, _ := l.r.Peek(3); bytes.Equal(bom, []byte("\xEF\xBB\xBF")) {
		l.r.Discard(3) //nolint:errcheck // the bytes were peeked
	}
	return l
}

// next returns the next line with its line end, valid until the next call; io.EOF when there
// is none. A line of more than max bytes is skipped with errTooLong and its beginning.
func (l *lines) next() ([]byte, error) {
	b, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = append(l.long[:0], b...)
		for errors.Is(err, bufio.ErrBufferFull) {
			b, err = l.r.ReadSlice('\n')
			if len(l.long) <= l.max {
				l.long = append(l.long, b...)
			}
		}
		b = l.long
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(b) == 0 {
		return nil, io.EOF
	}
	l.line++
	if len(b) > l.max {
		return b[:min(len(b), 200)], errTooLong
	}
	return b, nil
}

// trim drops a line end.
func trim(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	if n := len(b); n > 0 && b[n-1] == '\r' {
		b = b[:n-1]
	}
	return b
}
