package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/graphfile"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

func newSubmit(a *app) *cobra.Command {
	var (
		p               peer
		watch, untilEnd bool
		from            string
		yes             bool
	)
	cmd := &cobra.Command{
		Use:   "submit JOB.yaml",
		Short: "Train a model: check a job's spec whole, then start it",
		Long: `Check a job's spec, all of it, against its topic; then start the job. What is wrong is reported
at once, with line, column and the nearest valid name, and nothing is started.

The job is named as its model. With --from it starts from what was trained before, also where the
spec has changed: features added or removed, another optimizer, another stream. FROM is a savepoint
of the job's name (LABEL) or of another job (JOB/LABEL), a snapshot (JOB/NUMBER) or a version
(MODEL@V). What cannot carry over is refused, with the reason. What is dropped is listed first,
and needs --yes when it was trained. On the same stream training goes on where the snapshot ends;
on another one stream.from must say where to begin.`,
		Example: `  tidemill submit job.yaml --watch
  tidemill submit job.yaml --until-end && tidemill job clicks wait
  tidemill submit wider.yaml --from clicks/before-holidays --yes`,
		Args: args(1, 1, "JOB.yaml"),
		RunE: func(cmd *cobra.Command, given []string) error {
			data, err := readInput(a.in, given[0])
			if err != nil {
				return err
			}
			// What can be checked here is, with the file's name as it was typed.
			doc, err := spec.Parse(data, given[0])
			if err != nil {
				return err
			}
			graph, err := readGraph(doc, given[0])
			if err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			defer c.close()
			args := map[string]string{
				"yaml": string(data), "file": filepath.Base(given[0]), "until_end": strconv.FormatBool(untilEnd),
				"from": from, "yes": strconv.FormatBool(yes),
			}
			if graph != nil {
				do := func(ctx context.Context, verb string, args map[string]string, v any) error {
					return c.do(ctx, "", verb, args, v)
				}
				if args["graph"], err = trainer.UploadGraph(cmd.Context(), do, graph, doc.Spec.Architecture.File); err != nil {
					return err
				}
			}
			var st trainer.SubmitStatus
			if err := c.do(cmd.Context(), "", trainer.VerbSubmit, args, &st); err != nil {
				return err
			}
			if !a.json {
				for _, i := range st.Carried {
					a.say("%s", i)
				}
			}
			if watch {
				a.say("job %s is submitted", st.Job)
				return a.watch(cmd.Context(), c, st.Job)
			}
			return a.result(st, func(w io.Writer) {
				if f := st.From; f != nil {
					fmt.Fprintf(w, "it starts from snapshot %d of job %s, with %s examples\n", f.Snapshot, f.Job, count(f.Examples))
				}
				fmt.Fprintf(w, "job %s is submitted; follow it with: tidemill job %s watch\n", st.Job, st.Job)
			})
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "follow the job until it ends")
	cmd.Flags().StringVar(&from, "from", "", "start from a savepoint (LABEL, JOB/LABEL), a snapshot (JOB/NUMBER) or a version (MODEL@V)")
	cmd.Flags().BoolVar(&yes, "yes", false, "with --from: agree to the loss of what is dropped")
	cmd.Flags().BoolVar(&untilEnd, "until-end", false, "finish at the end of the stream as it is now")
	cmd.ValidArgsFunction = cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt)
	return cmd
}

// readGraph reads and checks the graph file that a spec names, relative to the spec's own folder;
// nil where it names none.
func readGraph(doc *spec.Document, specFile string) ([]byte, error) {
	name := doc.Spec.Architecture.File
	if doc.Spec.Architecture.Kind != tidemill.Graph {
		return nil, nil
	}
	if specFile != "-" && !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(specFile), name)
	}
	bad := func(what, remedy string) error {
		return &tidemill.InputError{Place: doc.Place("architecture.file"), What: what, Remedy: remedy}
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, bad(fmt.Sprintf("graph file %s: %v", name, pathless(err)), "give its path relative to the spec, or make it with tidemill.keras.export")
	case info.IsDir():
		return nil, bad(fmt.Sprintf("%s is a folder, such as a SavedModel is", name), "make a graph file with tidemill.keras.export")
	case info.Size() > graphfile.MaxBytes:
		return nil, bad(fmt.Sprintf("%s has %d bytes", name, info.Size()), fmt.Sprintf("a graph file has at most %d", graphfile.MaxBytes))
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, inputFile(name, err)
	}
	_, err = graphfile.Decode(data, name)
	return data, err
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
