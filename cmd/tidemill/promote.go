package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

func newPromote(a *app) *cobra.Command {
	return a.byHand(trainer.VerbPromote, &cobra.Command{
		Use:   "promote MODEL@V --why REASON",
		Short: "Make a version serve, by hand",
		Long: `Make a version serve, whatever the gate said of it. Who did it and why is recorded for good.
A version whose files are damaged is refused all the same.`,
		Example: `  tidemill promote clicks@12 --why "holiday traffic, agreed with the team"`,
		Args:    args(1, 1, "MODEL@V"),
	})
}

func newRollback(a *app) *cobra.Command {
	return a.byHand(trainer.VerbRollback, &cobra.Command{
		Use:   "rollback MODEL[@V] --why REASON",
		Short: "Make an earlier version serve again, by hand",
		Long: `Make an earlier version serve again: the one that served before, or the one given. Who did it and
why is recorded for good. Training goes on; the next version that the gate publishes serves.`,
		Example: `  tidemill rollback clicks --why "complaints since noon"`,
		Args:    args(1, 1, "MODEL"),
	})
}

// byHand completes a command that changes what serves.
func (a *app) byHand(verb string, cmd *cobra.Command) *cobra.Command {
	var (
		p   peer
		why string
	)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		model, version, err := parseModel(given[0])
		if err != nil {
			return err
		}
		if verb == trainer.VerbPromote && version == "" {
			return tidemill.Invalid("promote needs a version", fmt.Sprintf("name one of `tidemill versions %s`, as %s@N", model, model))
		}
		if strings.TrimSpace(why) == "" {
			return tidemill.Invalid("--why is missing", "say why; it is kept with the record")
		}
		c, err := p.connect()
		if err != nil {
			return err
		}
		defer c.close()
		var rec tidemill.Champion
		err = c.do(cmd.Context(), "", verb, map[string]string{"model": model, "version": version, "why": why}, &rec)
		if err != nil {
			return err
		}
		return a.result(rec, func(w io.Writer) {
			fmt.Fprintf(w, "version %d of %s serves now: %s by %s, champion record %d\n", rec.Version, rec.Model, rec.Kind, rec.By, rec.Seq)
		})
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&why, "why", "", "the reason, kept with the record (required)")
	cmd.ValidArgsFunction = p.completeModel
	return cmd
}
