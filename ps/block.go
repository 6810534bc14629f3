package ps

import (
	"slices"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

// block is up to tidemill.BlockSize values of a dense tensor.
type block struct {
	snapshot.Block
	shared bool // an image holds the slices: copy them before they change
}

func newBlock(m *model.Model, tensor, index int) *block {
	l, rule := m.Layout.Tensors[tensor], m.TensorRule(tensor)
	n := l.BlockLen(index)
	b := &block{Block: snapshot.Block{Tensor: tensor, Block: index, Weight: make([]float32, n), State: make([]float32, rule.StateLen(n))}}
	m.Begin(tensor, index*tidemill.BlockSize, b.Weight)
	rule.Init(b.State, b.Weight)
	if l.Average {
		b.Average = slices.Clone(b.Weight)
	}
	return b
}

// apply updates the block by the gradient of a batch of k examples after before of the job.
func (b *block) apply(rule optim.Rule, grad []float32, scale float32, decay float64, before, k int64) {
	if b.shared {
		b.Weight, b.State, b.Average = slices.Clone(b.Weight), slices.Clone(b.State), slices.Clone(b.Average)
		b.shared = false
	}
	if b.Average == nil {
		rule.Apply(b.Weight, b.State, grad, scale)
		return
	}
	catchUp(b.Average, b.Weight, decay, before-int64(b.At))
	rule.Apply(b.Weight, b.State, grad, scale)
	catchUp(b.Average, b.Weight, decay, k)
	b.At = uint64(before + k)
}
