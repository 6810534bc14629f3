package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidemill/tidemill"
)

// app is one invocation: its streams and what all commands share.
type app struct {
	in      io.Reader
	out     io.Writer // results
	err     io.Writer // text for people beside results, progress, logs
	json    bool
	running bool // the command line was understood
}

// newRoot builds the command tree.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "tidemill",
		Short: "Train models on event streams, serve only the versions that proved themselves",
		Long: `Tidemill trains models on event streams and serves only the versions that proved themselves.

Every command takes --json: results are then JSON on the standard output, one object or one
per line, and text for people goes to the standard error. Exit codes: 0 done, 1 failed,
2 wrong input.`,
		Example: `  tidemill demo                               see it work
  tidemill start                              a node that does everything
  tidemill produce clicks clicks.csv          rows into the stream
  tidemill submit job.yaml --watch            train a model from them`,
		Version:       buildVersion().Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.running = true
		},
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON on stdout, text for people on stderr")
	root.SetVersionTemplate("tidemill {{.Version}}\n")
	root.SuggestionsMinimumDistance = 2
	groups := []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Begin", []*cobra.Command{newDemo(a), newStart(a)}},
		{"Data and jobs", []*cobra.Command{newProduce(a), newTopic(a), newSubmit(a), newJobs(a), newJob(a)}},
		{"Models", []*cobra.Command{newVersions(a), newExplain(a), newPredict(a), newPromote(a), newRollback(a), newRebuild(a)}},
		{"Look after it", []*cobra.Command{newInspect(a), newDoctor(a), newCerts(a), newBench(a), newVersion(a)}},
	}
	for i, g := range groups {
		id := fmt.Sprint(i)
		root.AddGroup(&cobra.Group{ID: id, Title: g.title + ":"})
		for _, c := range g.commands {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	root.AddCommand(newTrial(a))
	root.AddCommand(newScorer())
	return root
}

// args checks positional arguments: between least and most (negative: any number) of them,
// named as in the usage line.
func args(least, most int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) < least {
			missing := names[min(len(given), len(names)-1):least]
			verb := "is"
			if len(missing) > 1 {
				verb = "are"
			}
			return tidemill.Invalid("%s %s missing", fmt.Sprintf("usage: %s", cmd.UseLine()), strings.Join(missing, " and "), verb)
		}
		if most >= 0 && len(given) > most {
			return tidemill.Invalid("%q is one argument too many", fmt.Sprintf("usage: %s", cmd.UseLine()), given[most])
		}
		return nil
	}
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// result prints what a command found: v as one line of JSON, or what text writes.
func (a *app) result(v any, text func(w io.Writer)) error {
	if !a.json {
		text(a.out)
		return nil
	}
	return a.line(v)
}

// line prints v as one line of JSON.
func (a *app) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(b, '\n'))
	return err
}

// say prints text for people that is not the result.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.err, format+"\n", args...)
}

// operator names who gives commands.
func operator() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if u := os.Getenv("USER"); u != "" {
		return u
	}
	return "unknown"
}
