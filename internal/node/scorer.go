package node

import (
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/scorer"
)

// isolators are what computes for engines that may end their process; nil ones compute in this one.
type isolators struct{ serving, trainer engine.Isolator }

// isolate makes them, where the node is configured to have them. Serving has a process per version,
// so that a swap is one of processes; the candidates of a job, of which there are many, share one.
func (n *Node) isolate(down *closers) {
	if len(n.cfg.Scorer) > 0 {
		n.isolators = isolators{serving: n.isolator(RoleServing, down), trainer: n.isolator(RoleTrainer, down)}
	}
}

func (n *Node) isolator(role string, down *closers) engine.Isolator {
	h := scorer.NewHost(scorer.Config{
		Command: n.cfg.Scorer, Memory: n.cfg.ScorerMemory, Shared: role == RoleTrainer, Logger: n.log,
		Restarted: func(model string) { n.metrics.scorerRestarts.WithLabelValues(model, role).Inc() },
	})
	down.add(h.Close)
	return h
}
