package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/trial"
)

const trialVerb = "graph-trial"

// newTrial is the process that a trainer tries a graph in; nobody types it.
func newTrial(a *app) *cobra.Command {
	return &cobra.Command{
		Use: trialVerb, Short: "Try a graph (started by a trainer)", Hidden: true, Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error { return trial.Child(a.in, a.out) },
	}
}

// tryGraph tries a job's graph in a process of this program.
func tryGraph(ctx context.Context, s *tidemill.Spec, schema, graph []byte) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return trial.Run(ctx, program, []string{trialVerb}, s, schema, graph)
}
