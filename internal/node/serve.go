package node

import (
	"context"

	"github.com/tidemill/tidemill/serving"
)

// runServing runs the serving role until ctx ends. It then stops being ready, and goes on
// answering for the configured grace, so that whoever spreads requests has seen it before the
// listeners close.
func (n *Node) runServing(ctx context.Context, s *serving.Server) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(run) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	ready := s.Ready()
	s.Leave()
	if ready && n.cfg.ServeGrace > 0 {
		n.log.Info("serving is no longer ready, and answers for a while", "grace", n.cfg.ServeGrace)
		pause(run, n.cfg.ServeGrace)
	}
	stop()
	return <-done
}
