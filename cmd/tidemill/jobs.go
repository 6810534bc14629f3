package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill/trainer"
)

func newJobs(a *app) *cobra.Command {
	var p peer
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List all jobs",
		Example: `  tidemill jobs
  tidemill jobs --json | jq -r .job`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.connect()
			if err != nil {
				return err
			}
			defer c.close()
			var jobs []trainer.JobStatus
			if err := c.do(cmd.Context(), "", trainer.VerbJobs, nil, &jobs); err != nil {
				return err
			}
			if a.json {
				for _, j := range jobs {
					if err := a.line(j); err != nil {
						return err
					}
				}
				return nil
			}
			listJobs(a.out, jobs)
			return nil
		},
	}
	p.flags(cmd)
	return cmd
}

func listJobs(w io.Writer, jobs []trainer.JobStatus) {
	if len(jobs) == 0 {
		fmt.Fprintln(w, "no jobs yet; begin one with: tidemill submit JOB.yaml")
		return
	}
	var rows [][]string
	for _, j := range jobs {
		rows = append(rows, []string{
			j.Job, j.State, j.Topic, count(j.Examples), version(j.Champion), measure(j.Recent.Examples, j.Recent.Loss), measure(j.Recent.Examples, j.Recent.Accuracy), j.Reason,
		})
	}
	table(w, "JOB STATE TOPIC EXAMPLES LIVE LOSS ACCURACY REASON", rows)
}

// version writes a version's number, 0 being none.
func version(n int64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("v%d", n)
}

// measure writes a number that n examples were measured for.
func measure(n int64, x float64) string {
	if n == 0 {
		return "–"
	}
	return number(x)
}
