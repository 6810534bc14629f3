package serving

import (
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tidemill/tidemill"
)

// maxDepth is how deep JSON may be nested.
const maxDepth = 100

// reader reads JSON text without building a tree: objects by callback, arrays of numbers
// straight into typed slices. It refuses duplicate keys, invalid UTF-8, lone surrogates and
// what is nested deeper than maxDepth. Errors wrap tidemill.ErrInvalid and name the byte.
type reader struct {
	data  []byte
	pos   int
	depth int
}

func (r *reader) fail(what string) error {
	return &tidemill.InputError{Place: tidemill.Place{Offset: -1}, What: "JSON: " + what + " at byte " + strconv.Itoa(r.pos)}
}

// next skips white space and returns the next byte without taking it; 0 at the end.
func (r *reader) next() byte {
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; c {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return c
		}
	}
	return 0
}

// end refuses anything but white space.
func (r *reader) end() error {
	if r.next(); r.pos < len(r.data) {
		return r.fail("more text after the value")
	}
	return nil
}

func (r *reader) enter() error {
	if r.depth++; r.depth > maxDepth {
		return r.fail("nested deeper than " + strconv.Itoa(maxDepth) + " levels")
	}
	r.pos++
	return nil
}

// object calls field for each key; field takes the value.
func (r *reader) object(field func(key string) error) error {
	if r.next() != '{' {
		return r.fail("an object is expected")
	}
	if err := r.enter(); err != nil {
		return err
	}
	var few [8]string
	keys := few[:0]
	var many map[string]bool
	for first := true; ; first = false {
		c := r.next()
		if c == '}' && first {
			break
		}
		if !first {
			if c == '}' {
				break
			}
			if c != ',' {
				return r.fail("a comma or } is expected")
			}
			r.pos++
		}
		if r.next() != '"' {
			return r.fail("a key is expected")
		}
		key, err := r.string()
		if err != nil {
			return err
		}
		twice := many[key]
		for _, k := range keys {
			twice = twice || k == key
		}
		if twice {
			return r.fail("key " + quote(key) + " is given twice")
		}
		if len(keys) < len(few) {
			keys = append(keys, key)
		} else {
			if many == nil {
				many = map[string]bool{}
			}
			many[key] = true
		}
		if r.next() != ':' {
			return r.fail("a colon is expected")
		}
		r.pos++
		if err := field(key); err != nil {
			return err
		}
	}
	r.pos++
	r.depth--
	return nil
}

// array calls element for each element; element takes it.
func (r *reader) array(element func(i int) error) error {
	if r.next() != '[' {
		return r.fail("an array is expected")
	}
	if err := r.enter(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		c := r.next()
		if c == ']' {
			break
		}
		if i > 0 {
			if c != ',' {
				return r.fail("a comma or ] is expected")
			}
			r.pos++
			if r.next() == ']' {
				return r.fail("a value is expected")
			}
		}
		if err := element(i); err != nil {
			return err
		}
	}
	r.pos++
	r.depth--
	return nil
}

// string reads a string.
func (r *reader) string() (string, error) {
	b, err := r.text(nil)
	return string(b), err
}

// text appends the contents of a string to dst.
func (r *reader) text(dst []byte) ([]byte, error) {
	if r.next() != '"' {
		return dst, r.fail("a string is expected")
	}
	r.pos++
	for {
		start := r.pos
		for r.pos < len(r.data) && r.data[r.pos] != '"' && r.data[r.pos] != '\\' && r.data[r.pos] >= ' ' && r.data[r.pos] < utf8.RuneSelf {
			r.pos++
		}
		dst = append(dst, r.data[start:r.pos]...)
		if r.pos == len(r.data) {
			return dst, r.fail("the text ends within a string")
		}
		switch c := r.data[r.pos]; {
		case c == '"':
			r.pos++
			return dst, nil
		case c == '\\':
			var err error
			if dst, err = r.escape(dst); err != nil {
				return dst, err
			}
		case c < ' ':
			return dst, r.fail("a control character in a string")
		default:
			x, size := utf8.DecodeRune(r.data[r.pos:])
			if x == utf8.RuneError && size == 1 {
				return dst, r.fail("invalid UTF-8")
			}
			dst = append(dst, r.data[r.pos:r.pos+size]...)
			r.pos += size
		}
	}
}

func (r *reader) escape(dst []byte) ([]byte, error) {
	if r.pos+1 >= len(r.data) {
		return dst, r.fail("the text ends within a string")
	}
	c := r.data[r.pos+1]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		x := r.hex(r.pos + 2)
		if x < 0 {
			return dst, r.fail("four hexadecimal digits are expected")
		}
		size := 6
		if utf16.IsSurrogate(x) {
			low := rune(-1)
			if p := r.pos + 6; p+1 < len(r.data) && r.data[p] == '\\' && r.data[p+1] == 'u' {
				low = r.hex(p + 2)
			}
			if x = utf16.DecodeRune(x, low); x == utf8.RuneError {
				return dst, r.fail("half a surrogate pair")
			}
			size = 12
		}
		r.pos += size
		return utf8.AppendRune(dst, x), nil
	default:
		return dst, r.fail("an unknown escape")
	}
	r.pos += 2
	return append(dst, c), nil
}

// hex reads four digits at p, or returns -1.
func (r *reader) hex(p int) rune {
	if p+4 > len(r.data) {
		return -1
	}
	var x rune
	for _, c := range r.data[p : p+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		x = x<<4 | rune(c)
	}
	return x
}

// number returns the text of a number, and whether it has neither fraction nor exponent.
func (r *reader) number() (text []byte, whole bool, err error) {
	r.next()
	start := r.pos
	at := func() byte {
		if r.pos < len(r.data) {
			return r.data[r.pos]
		}
		return 0
	}
	digits := func() bool {
		from := r.pos
		for c := at(); c >= '0' && c <= '9'; c = at() {
			r.pos++
		}
		return r.pos > from
	}
	whole = true
	if at() == '-' {
		r.pos++
	}
	if at() == '0' {
		r.pos++
	} else if !digits() {
		return nil, false, r.fail("a number is expected")
	}
	if at() == '.' {
		whole = false
		if r.pos++; !digits() {
			return nil, false, r.fail("a digit is expected")
		}
	}
	if c := at(); c == 'e' || c == 'E' {
		whole = false
		r.pos++
		if c := at(); c == '+' || c == '-' {
			r.pos++
		}
		if !digits() {
			return nil, false, r.fail("a digit is expected")
		}
	}
	return r.data[start:r.pos], whole, nil
}

// word takes true, false or null if it is next.
func (r *reader) word(w string) bool {
	r.next()
	if len(r.data)-r.pos < len(w) || string(r.data[r.pos:r.pos+len(w)]) != w {
		return false
	}
	r.pos += len(w)
	return true
}

func (r *reader) bool() (bool, error) {
	switch {
	case r.word("true"):
		return true, nil
	case r.word("false"):
		return false, nil
	}
	return false, r.fail("true or false is expected")
}

// int reads a whole number of 64 bits; 3.0 and 1e3 are whole too.
func (r *reader) int() (int64, error) {
	text, whole, err := r.number()
	if err != nil {
		return 0, err
	}
	if whole {
		if x, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			return x, nil
		}
		return 0, r.fail("the whole number " + shorten(string(text)) + " is out of range")
	}
	x, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.Abs(x) > 1<<53 || x != math.Trunc(x) {
		return 0, r.fail("a whole number is expected, not " + shorten(string(text)))
	}
	return int64(x), nil
}

// skip takes any value and returns its text.
func (r *reader) skip() ([]byte, error) {
	c := r.next()
	start := r.pos
	var err error
	switch {
	case c == '{':
		err = r.object(func(string) error { _, err := r.skip(); return err })
	case c == '[':
		err = r.array(func(int) error { _, err := r.skip(); return err })
	case c == '"':
		_, err = r.text(nil)
	case c == '-' || c >= '0' && c <= '9':
		_, _, err = r.number()
	case r.word("true"), r.word("false"), r.word("null"):
	case r.pos == len(r.data):
		err = r.fail("the text ends early")
	default:
		err = r.fail("a value is expected")
	}
	return r.data[start:r.pos], err
}
