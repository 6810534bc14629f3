package main

import (
	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/scorer"
)

// scorerCommand is what a node starts this program with to have it score in a process of its own.
const scorerCommand = "scorer"

func newScorer() *cobra.Command {
	var lanes int
	var memory int64
	cmd := &cobra.Command{
		Use:    scorerCommand,
		Short:  "Compute predictions for the node that started this process",
		Hidden: true,
		Args:   args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if lanes < 1 || lanes > 1024 {
				return tidemill.Invalid("--lanes %d", "a node starts this command by itself", lanes)
			}
			conns, err := scorer.Lanes(lanes)
			if err != nil {
				return tidemill.Invalid("%v", "a node starts this command by itself", err)
			}
			if err := scorer.Limit(memory); err != nil {
				return err
			}
			return scorer.Serve(conns, compileHere)
		},
	}
	cmd.Flags().IntVar(&lanes, "lanes", 0, "connections to the node")
	cmd.Flags().Int64Var(&memory, "memory", 0, "most bytes of memory")
	return cmd
}

// compileHere makes a model with the engine that its spec asks for.
func compileHere(s *tidemill.Spec, shape engine.Shape, o engine.Options) (engine.Model, error) {
	d, err := model.Driver(s)
	if err != nil {
		return nil, err
	}
	return d.Compile(s, shape, o)
}
