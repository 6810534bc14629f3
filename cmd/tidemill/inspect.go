package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/cli/inspect"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/trainer"
)

func newInspect(a *app) *cobra.Command {
	var verify bool
	cmd := &cobra.Command{
		Use:   "inspect PATH",
		Short: "Look into a store or data directory, in use or not, or a graph file, and verify it",
		Long: `List the jobs, snapshots, models and versions that a store on this machine holds, without changing
anything. PATH is a node's data directory, or a store's. With --verify every byte is read and
compared with its checksum. Damage is listed, and the exit code is then 1.

A job's state is asked of the node that uses the data directory; without one it is finished
when the last snapshot reaches the end it was given, else "offline".

Where PATH is a graph file, as tidemill.keras.export writes them, all of it is checked, and what it
takes and learns is listed.`,
		Example: `  tidemill inspect ~/.config/tidemill --verify
  tidemill inspect ratings.graph
  tidemill inspect node1 --json | jq -r .digest`,
		Args: args(1, 1, "PATH"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if info, err := os.Stat(given[0]); err == nil && info.Mode().IsRegular() {
				return a.inspectGraph(given[0])
			}
			b, err := inspect.Open(given[0])
			if err != nil {
				return err
			}
			defer b.Close()
			bar := newBar(a.err)
			r, err := inspect.Look(cmd.Context(), b, inspect.Options{
				Verify: verify, Progress: func(what string) { bar.show(-1, "verifying "+what) },
			})
			bar.done()
			if err != nil {
				return err
			}
			askStates(cmd.Context(), given[0], r)
			if err := a.result(r, func(w io.Writer) { showStore(w, r) }); err != nil {
				return err
			}
			if n := len(r.Damage); n > 0 {
				for _, d := range r.Damage {
					a.say("damaged: %s", d)
				}
				for _, d := range r.Advice {
					a.say("%s", d)
				}
				return fmt.Errorf("%d damaged: %w: %w", n, errReported, tidemill.ErrCorrupt)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&verify, "verify", false, "read everything and compare checksums")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

// askStates asks the node that uses dir, if there is one, for the states of its jobs.
func askStates(ctx context.Context, dir string, r *inspect.Report) {
	if info, err := node.ReadInfo(dir); err != nil || info.RPC == "" || len(r.Jobs) == 0 {
		return
	}
	p := peer{dataDir: dir}
	c, err := p.connect()
	if err != nil {
		return
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var jobs []trainer.JobStatus
	if err := c.do(ctx, "", trainer.VerbJobs, nil, &jobs); err != nil {
		return // nobody there, or a cluster that wants certificates
	}
	for i := range r.Jobs {
		for _, j := range jobs {
			if j.Job == r.Jobs[i].Job {
				r.Jobs[i].State = j.State
			}
		}
	}
	if len(r.Jobs) == 1 {
		r.State = r.Jobs[0].State
	}
}

func showStore(w io.Writer, r *inspect.Report) {
	if len(r.Jobs)+len(r.Models) == 0 {
		fmt.Fprintln(w, "the store is empty")
	}
	for _, j := range r.Jobs {
		fmt.Fprintf(w, "job %s (%s): %s examples, digest %s\n", j.Job, j.State, count(j.Examples), j.Digest)
		fmt.Fprintf(w, "  model %s, topic %s, lineage %s, spec %s\n", j.Model, j.Topic, j.Lineage, j.SpecHash)
		var rows [][]string
		for _, s := range j.Snapshots {
			switch {
			case s.Fence:
				rows = append(rows, []string{fmt.Sprint("  ", s.Number), fmt.Sprint(s.Generation), "–", "–", "–", stamp(s.Created), "fence"})
			default:
				rows = append(rows, []string{
					fmt.Sprint("  ", s.Number), fmt.Sprint(s.Generation), count(s.Examples), fmt.Sprint([]int64(s.Cut)), size(s.Bytes), stamp(s.Created), orElse(s.Problem, s.Digest),
				})
			}
		}
		table(w, "  SNAPSHOT GENERATION EXAMPLES CUT SIZE CREATED DIGEST", rows)
	}
	for _, m := range r.Models {
		fmt.Fprintf(w, "model %s, live %s\n", m.Model, version(m.Champion))
		var rows [][]string
		for _, v := range m.Versions {
			rows = append(rows, []string{"  " + version(v.Number), v.Decision, count(v.Examples), stamp(v.Created), orElse(v.Problem, v.Reason)})
		}
		table(w, "  VERSION DECISION EXAMPLES CREATED WHY", rows)
		rows = nil
		for _, c := range m.Champions {
			rows = append(rows, []string{fmt.Sprint("  ", c.Seq), version(c.Version), c.Kind, c.By, stamp(c.At), c.Why})
		}
		table(w, "  RECORD VERSION KIND BY AT WHY", rows)
	}
	if r.Verified && len(r.Damage) == 0 {
		fmt.Fprintln(w, "every checksum is right")
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
