package sim

import (
	"context"
	"fmt"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/serving"
)

// servingNode follows the champion chain: what serving.Server's follow does.
type servingNode struct {
	w      *World
	n      *node
	core   serving.Core
	serves int64 // version; 0: none yet
	busy   bool
}

func newServingNode(w *World, n *node) *servingNode { return &servingNode{w: w, n: n} }

// poll looks for a newer champion record and serves its version.
func (s *servingNode) poll() {
	if s.busy {
		return
	}
	s.busy = true
	var rec *tidemill.Champion
	s.w.do(s.n, func(ctx context.Context, b *blob.Bucket) error {
		chain, err := snapshot.Champions(b, modelName)
		if err == nil {
			_, rec, err = snapshot.LastChampion(ctx, chain)
		}
		return err
	}, func(err error) {
		version, ok := s.core.Next(rec)
		if err != nil || !ok {
			s.busy = false
			return
		}
		s.w.do(s.n, func(ctx context.Context, b *blob.Bucket) error {
			_, err := snapshot.ReadVersion(ctx, b, modelName, version)
			return err
		}, func(err error) {
			s.busy = false
			if err == nil {
				s.core.Live(rec)
				s.serves = version
				s.w.say("%s serves version %d", s.n.name, s.serves)
				s.w.checks.served(s.w, s.n, s.serves)
			}
		})
	})
}

// predict answers with the version that serves.
func (s *servingNode) predict(answer func(any, error)) {
	if s.serves == 0 {
		answer(nil, fmt.Errorf("no published version yet: %w", tidemill.ErrNotReady))
		return
	}
	answer(s.serves, nil)
}
