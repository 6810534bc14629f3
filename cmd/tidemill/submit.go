package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

func newSubmit(a *app) *cobra.Command {
	var (
		p               peer
		watch, untilEnd bool
	)
	cmd := &cobra.Command{
		Use:   "submit JOB.yaml",
		Short: "Train a model: check a job's spec whole, then start it",
		Long: `Check a job's spec, all of it, against its topic; then start the job. What is wrong is reported
at once, with line, column and the nearest valid name, and nothing is started.

The job is named as its model.`,
		Example: `  tidemill submit job.yaml --watch
  tidemill submit job.yaml --until-end && tidemill job clicks wait`,
		Args: args(1, 1, "JOB.yaml"),
		RunE: func(cmd *cobra.Command, given []string) error {
			data, err := readInput(a.in, given[0])
			if err != nil {
				return err
			}
			// What can be checked here is, with the file's name as it was typed.
			if _, err := spec.Parse(data, given[0]); err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			defer c.close()
			var st trainer.JobStatus
			err = c.do(cmd.Context(), "", trainer.VerbSubmit, map[string]string{
				"yaml": string(data), "file": filepath.Base(given[0]), "until_end": strconv.FormatBool(untilEnd),
			}, &st)
			if err != nil {
				return err
			}
			if watch {
				a.say("job %s is submitted", st.Job)
				return a.watch(cmd.Context(), c, st.Job)
			}
			return a.result(st, func(w io.Writer) {
				fmt.Fprintf(w, "job %s is submitted; follow it with: tidemill job %s watch\n", st.Job, st.Job)
			})
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "follow the job until it ends")
	cmd.Flags().BoolVar(&untilEnd, "until-end", false, "finish at the end of the stream as it is now")
	cmd.ValidArgsFunction = cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt)
	return cmd
}

// readInput reads a file whole, or the standard input for "-".
func readInput(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, inputFile(name, err)
	}
	return data, nil
}
