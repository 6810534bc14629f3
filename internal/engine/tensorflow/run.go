//go:build tensorflow

package tensorflow

// #include <stdlib.h>
// #include <string.h>
// #include "tensorflow/c/c_api.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	tf "github.com/tensorflow/tensorflow/tensorflow/go"

	"github.com/tidemill/tidemill"
)

// session runs one graph for one goroutine. It calls the C API itself, and not through the
// binding's Session.Run: that one feeds in the order of a map, of which TensorFlow keeps every one
// it has seen, and leaves what it fetched to the garbage collector, which does not see its size.
// The tensors that are fed are kept and filled again.
type session struct {
	graph  *tf.Graph // kept as long as the session
	s      *tf.Session
	c      *C.TF_Session
	status *C.TF_Status
	feeds  []C.TF_Output
	fed    []*C.TF_Tensor // by feed; nil until filled
	dims   [][]C.int64_t  // of fed

	// Of the run under way, reused.
	at      []C.TF_Output
	tensors []*C.TF_Tensor
	wanted  []C.TF_Output
	out     []*C.TF_Tensor
}

// kind is a type of tensor.
type kind = C.TF_DataType

// Kinds that are fed and fetched.
const (
	float32s kind = C.TF_FLOAT
	uint64s  kind = C.TF_UINT64
)

func output(o tf.Output) C.TF_Output {
	return C.TF_Output{oper: (*C.TF_Operation)(handle(o.Op)), index: C.int(o.Index)}
}

// newSession returns a session over g, whose feeds are numbered as in feeds.
func newSession(g *tf.Graph, threads int, feeds []tf.Output) (*session, error) {
	s, err := tf.NewSession(g, &tf.SessionOptions{Config: configure(threads)})
	if err != nil {
		return nil, fmt.Errorf("make a TensorFlow session: %w", err)
	}
	r := &session{
		graph: g, s: s, c: (*C.TF_Session)(handle(s)), status: C.TF_NewStatus(),
		fed: make([]*C.TF_Tensor, len(feeds)), dims: make([][]C.int64_t, len(feeds)),
	}
	for _, f := range feeds {
		r.feeds = append(r.feeds, output(f))
	}
	runtime.SetFinalizer(r, (*session).free)
	return r, nil
}

// free gives back what the garbage collector does not know of; the binding closes the session.
func (r *session) free() {
	for _, t := range r.fed {
		if t != nil {
			C.TF_DeleteTensor(t)
		}
	}
	C.TF_DeleteStatus(r.status)
}

// fill makes data, row-major in shape, what feed i is in the runs that follow.
func fill[T float32 | uint64](r *session, i int, k kind, data []T, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	if n != len(data) {
		panic("tensorflow: a tensor that is fed does not have the values of its shape")
	}
	var size T
	bytes := C.size_t(uintptr(n) * unsafe.Sizeof(size))
	same := r.fed[i] != nil && len(r.dims[i]) == len(shape)
	for d := 0; same && d < len(shape); d++ {
		same = r.dims[i][d] == C.int64_t(shape[d])
	}
	if !same {
		if r.fed[i] != nil {
			C.TF_DeleteTensor(r.fed[i])
			r.fed[i] = nil
		}
		r.dims[i] = r.dims[i][:0]
		for _, d := range shape {
			r.dims[i] = append(r.dims[i], C.int64_t(d))
		}
		var dims *C.int64_t
		if len(shape) > 0 {
			dims = &r.dims[i][0]
		}
		r.fed[i] = C.TF_AllocateTensor(k, dims, C.int(len(shape)), bytes)
	}
	if n > 0 {
		C.memcpy(C.TF_TensorData(r.fed[i]), unsafe.Pointer(&data[0]), bytes)
	}
}

// program is what one run computes: which feeds it needs and what it fetches.
type program struct {
	feeds   []int
	fetches []tf.Output
}

// run runs p and copies what was fetched, float32 values, to dst, slice by slice; each has to have
// as many values as its slice. A nil slice is not copied.
func (r *session) run(p *program, dst [][]float32) error {
	r.at, r.tensors = r.at[:0], r.tensors[:0]
	for _, i := range p.feeds {
		r.at, r.tensors = append(r.at, r.feeds[i]), append(r.tensors, r.fed[i])
	}
	r.wanted, r.out = r.wanted[:0], r.out[:0]
	for _, o := range p.fetches {
		r.wanted, r.out = append(r.wanted, output(o)), append(r.out, nil)
	}
	C.TF_SessionRun(r.c, nil, first(r.at), first(r.tensors), C.int(len(r.at)),
		first(r.wanted), first(r.out), C.int(len(r.wanted)), nil, 0, nil, r.status)
	runtime.KeepAlive(r)
	if C.TF_GetCode(r.status) != C.TF_OK {
		return fmt.Errorf("TensorFlow: %s: %w", C.GoString(C.TF_Message(r.status)), tidemill.ErrInvalid)
	}
	var err error
	for i, t := range r.out {
		if dst[i] != nil && err == nil {
			if C.TF_TensorType(t) != C.TF_FLOAT || C.TF_TensorByteSize(t) != C.size_t(4*len(dst[i])) {
				err = tidemill.Invalid("TensorFlow: %s has %d bytes of type %d, and %d values of type float are expected", "export the graph again",
					p.fetches[i].Op.Name(), int(C.TF_TensorByteSize(t)), int(C.TF_TensorType(t)), len(dst[i]))
			} else if len(dst[i]) > 0 {
				C.memcpy(unsafe.Pointer(&dst[i][0]), C.TF_TensorData(t), C.size_t(4*len(dst[i])))
			}
		}
		C.TF_DeleteTensor(t)
		r.out[i] = nil
	}
	return err
}

func first[T any](s []T) *T {
	if len(s) == 0 {
		return nil
	}
	return &s[0]
}
