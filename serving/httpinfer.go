package serving

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/tidemill/tidemill"
)

// httpRequest is a request with what shapes its answer in JSON.
type httpRequest struct {
	request
	id     string
	binary bool // the answer's tensor is binary
}

// parseInfer reads the body of an infer request: JSON, and after it, where the header
// Inference-Header-Content-Length says how long the JSON is, binary tensors in input order.
func parseInfer(body []byte, header []string) (*httpRequest, error) {
	text, rest := body, []byte(nil)
	switch len(header) {
	case 0:
	case 1:
		n, err := strconv.ParseUint(header[0], 10, 63)
		if err != nil || n > uint64(len(body)) {
			return nil, tidemill.Invalid("header "+headerLength+" is %s", "it is the length of the JSON at the body's start", quote(header[0]))
		}
		if n == 0 {
			return nil, tidemill.Invalid("a body without JSON", "describe the inputs in JSON before the binary data")
		}
		text, rest = body[:n], body[n:]
	default:
		return nil, tidemill.Invalid("header "+headerLength+" is given %d times", "", len(header))
	}
	req := &httpRequest{}
	p := parser{reader: reader{data: text}, req: req}
	if p.next() != '{' {
		return nil, p.fail("the body is an object with inputs")
	}
	if err := p.object(p.top); err != nil {
		return nil, err
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	if !p.inputs {
		return nil, tidemill.Invalid("the request has no inputs", "send {\"inputs\": [{\"name\": …, \"shape\": …, \"datatype\": …, \"data\": …}]}")
	}
	for i, size := range p.sizes {
		if size < 0 {
			continue
		}
		t := &req.inputs[i]
		if size > int64(len(rest)) {
			return nil, tidemill.Invalid("input %s has binary_data_size %d, and %d bytes are left in the body", "", quote(t.name), size, len(rest))
		}
		t.raw, rest = rest[:size:size], rest[size:]
	}
	if len(rest) > 0 {
		return nil, tidemill.Invalid("%d bytes are left in the body after the inputs' binary data", "", len(rest))
	}
	return req, nil
}

// parser reads the JSON of an infer request.
type parser struct {
	reader
	req    *httpRequest
	inputs bool
	sizes  []int64 // of each input's binary data; -1: none
	asked  bool    // binary_data_output
	named  []int   // per requested output: binary_data as 1 or 0, -1 where it is not said
}

func (p *parser) top(key string) (err error) {
	switch key {
	case "id":
		p.req.id, err = p.string()
	case "parameters":
		err = p.object(func(name string) error {
			value, err := p.parameter()
			if err != nil {
				return err
			}
			if name == "binary_data_output" {
				p.asked = value.b
			}
			return p.req.take(name, value)
		})
	case "inputs":
		p.inputs = true
		err = p.array(func(i int) error {
			if i >= maxInputs {
				return p.fail("more than 4096 inputs")
			}
			return p.input()
		})
	case "outputs":
		err = p.array(func(i int) error {
			if i >= maxInputs {
				return p.fail("more than 4096 outputs")
			}
			return p.output()
		})
	default:
		_, err = p.skip()
	}
	p.req.binary = p.asked
	for _, b := range p.named {
		if b >= 0 {
			p.req.binary = b == 1
		}
	}
	return err
}

func (p *parser) input() error {
	t, size := tensor{}, int64(-1)
	err := p.object(func(key string) (err error) {
		switch key {
		case "name":
			t.name, err = p.string()
		case "datatype":
			t.datatype, err = p.string()
		case "shape":
			t.shape = []int64{}
			err = p.array(func(i int) error {
				if i >= 8 {
					return p.fail("more than 8 dimensions")
				}
				d, err := p.int()
				t.shape = append(t.shape, d)
				return err
			})
		case "data":
			t.text, err = p.skip()
		case "parameters":
			err = p.object(func(name string) error {
				value, err := p.parameter()
				if err == nil && name == "binary_data_size" {
					if value.kind != 'i' || value.i < 0 {
						return p.fail("binary_data_size is a number of bytes ≥ 0")
					}
					size = value.i
				}
				return err
			})
		default:
			_, err = p.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case t.text != nil && size >= 0:
		return tidemill.Invalid("input %s has data and binary_data_size", "send one of them", quote(t.name))
	case t.text == nil && size < 0:
		return tidemill.Invalid("input %s has no data", "send data, or binary_data_size with the bytes behind the JSON", quote(t.name))
	}
	p.req.inputs = append(p.req.inputs, t)
	p.sizes = append(p.sizes, size)
	return nil
}

func (p *parser) output() error {
	name, binary := "", -1
	err := p.object(func(key string) (err error) {
		switch key {
		case "name":
			name, err = p.string()
		case "parameters":
			err = p.object(func(key string) error {
				value, err := p.parameter()
				if err == nil && key == "binary_data" {
					if value.kind != 'b' {
						return p.fail("binary_data is true or false")
					}
					binary = 0
					if value.b {
						binary = 1
					}
				}
				return err
			})
		default:
			_, err = p.skip()
		}
		return err
	})
	p.req.outputs = append(p.req.outputs, name)
	p.named = append(p.named, binary)
	return err
}

// parameter reads the value of a parameter. What is neither of the protocol's kinds has none.
func (p *parser) parameter() (parameter, error) {
	switch c := p.next(); {
	case c == 't' || c == 'f':
		b, err := p.bool()
		return parameter{kind: 'b', b: b}, err
	case c == '"':
		_, err := p.string()
		return parameter{kind: 's'}, err
	case c == '-' || c >= '0' && c <= '9':
		text, whole, err := p.number()
		if i, perr := strconv.ParseInt(string(text), 10, 64); err == nil && whole && perr == nil {
			return parameter{kind: 'i', i: i}, nil
		}
		return parameter{kind: 'f'}, err
	}
	_, err := p.skip()
	return parameter{}, err
}

// encodeInfer writes an answer: JSON, and the binary tensor where it was asked for.
func encodeInfer(req *httpRequest, resp *response) (head, tail []byte) {
	b := append([]byte(`{"model_name":`), quoteJSON(resp.model)...)
	b = append(b, `,"model_version":"`...)
	b = strconv.AppendInt(b, resp.version, 10)
	b = append(b, '"')
	if req.id != "" {
		b = append(append(b, `,"id":`...), quoteJSON(req.id)...)
	}
	b = append(b, `,"outputs":[{"name":"`+outputName+`","datatype":"FP32","shape":[`...)
	for i, d := range resp.shape() {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, d, 10)
	}
	b = append(b, ']')
	if req.binary {
		tail = rawFloat32(resp.predictions)
		b = append(b, `,"parameters":{"binary_data_size":`...)
		b = strconv.AppendInt(b, int64(len(tail)), 10)
		return append(b, `}}]}`...), tail
	}
	b = append(b, `,"data":[`...)
	for i, x := range resp.predictions {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendFloat(b, x)
	}
	return append(b, `]}]}`...), nil
}

// appendFloat writes the shortest text that reads back as x, which is finite.
func appendFloat(b []byte, x float32) []byte {
	format := byte('f')
	if a := math.Abs(float64(x)); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, float64(x), format, -1, 32)
}

func quoteJSON(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		panic(err)
	}
	return b
}
