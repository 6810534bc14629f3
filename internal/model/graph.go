package model

import (
	"context"

	"github.com/apache/arrow-go/v18/arrow"
	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/ps/optim"
)

// CompileIn is CompileFor for a spec whose graph file, if it has one, is in a store.
func CompileIn(ctx context.Context, b *blob.Bucket, spec *tidemill.Spec, schema *arrow.Schema, o engine.Options) (*Model, error) {
	if sum := spec.Architecture.Graph; sum != "" {
		var err error
		if o.Graph, err = snapshot.ReadGraph(ctx, b, sum); err != nil {
			return nil, err
		}
	}
	return CompileFor(spec, schema, o)
}

// Keyed reports whether a step needs the examples' keys.
func (m *Model) Keyed() bool {
	if x, ok := m.Engine.(engine.Exported); ok {
		return x.Keyed()
	}
	return m.Spec.Architecture.Dropout > 0
}

// TensorRule returns the rule of a dense tensor: that of Dense, or of a moving statistic.
func (m *Model) TensorRule(tensor int) optim.Rule {
	if x, ok := m.Engine.(engine.Exported); ok {
		if momentum, moving := x.Momentum(tensor); moving {
			return optim.Moving{Rule: m.Dense.Rule, Momentum: momentum}
		}
	}
	return m.Dense.Rule
}

// Begin writes to dst the values, from a position on, that a dense tensor has before anything is
// trained.
func (m *Model) Begin(tensor, from int, dst []float32) {
	if x, ok := m.Engine.(engine.Exported); ok {
		copy(dst, x.Begin()[tensor][from:])
		return
	}
	l := m.Layout.Tensors[tensor]
	l.Init.Fill(dst, m.Spec.Seed, tidemill.Hash(l.Name), 0, from)
}
