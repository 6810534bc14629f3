package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/demo"
	"github.com/tidemill/tidemill/internal/node"
)

func newDemo(a *app) *cobra.Command {
	var (
		exit       bool
		rows, rate int
		logLevel   string
	)
	var names []string
	long := &strings.Builder{}
	fmt.Fprint(long, `Replay bundled events through a whole node in this process: every event is predicted first, by the
version that serves at that moment, then put into the stream and trained on; candidates pass the
gate or do not. Nothing is kept.

`)
	for _, w := range demo.Workloads() {
		names = append(names, w.Name)
		fmt.Fprintf(long, "  %-10s %s\n", w.Name, w.What)
	}
	fmt.Fprint(long, "\nWhen the stream ends, the node stays up to be looked at until Ctrl-C.")
	cmd := &cobra.Command{
		Use:   "demo [" + strings.Join(names, "|") + "]",
		Short: "See it work: replay bundled events, train, gate and serve, in one process",
		Long:  long.String(),
		Example: `  tidemill demo
  tidemill demo power --rows 5000 --exit --json`,
		Args: args(0, 1, "NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			w, err := demo.Find(strings.Join(given, ""))
			if err != nil {
				return err
			}
			if rows < 0 || rate < 0 {
				return tidemill.Invalid("--rows and --rate are not negative", "leave them out for the whole stream at its own pace")
			}
			log := slog.New(slog.DiscardHandler)
			if logLevel != "" {
				if log, err = newLogger(a.err, logLevel, "text"); err != nil {
					return err
				}
			}
			return a.demo(cmd.Context(), demo.Config{Workload: w, Rows: rows, Rate: rate, Logger: log}, exit)
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&exit, "exit", false, "end with the stream")
	fl.IntVar(&rows, "rows", 0, "replay only so many events (default all)")
	fl.IntVar(&rate, "rate", 0, "events per second (default the workload's)")
	fl.StringVar(&logLevel, "log-level", "", "show the node's log: debug, info, warn or error (default: none)")
	_ = cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgs = names
	return cmd
}

// demo runs a demo in a directory of its own, which it removes.
func (a *app) demo(ctx context.Context, cfg demo.Config, exit bool) (err error) {
	dir, err := os.MkdirTemp("", "tidemill-demo-")
	if err != nil {
		return fmt.Errorf("no temporary directory can be made; free space or set TMPDIR: %w", pathless(err))
	}
	defer func() {
		if rerr := os.RemoveAll(dir); rerr != nil && err == nil {
			err = fmt.Errorf("the temporary directory is left behind: %w", pathless(rerr))
		}
	}()
	cfg.DataDir = dir
	out := a.out
	if a.json {
		out = a.err
	}
	s := newScreen(out, cfg)
	cfg.Progress, cfg.Decided = s.progress, s.decided
	shown := false
	cfg.Ended = func(ctx context.Context, n *node.Node, r *demo.Result) error {
		s.end()
		shown = true
		if err := a.result(r, func(w io.Writer) { summary(w, r) }); err != nil {
			return err
		}
		if exit {
			return nil
		}
		next(out, r)
		<-ctx.Done()
		return nil
	}
	_, err = demo.Run(ctx, cfg)
	s.end()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		if !shown {
			a.say("stopped before the end of the stream")
			if exit || a.json {
				return ctx.Err() // whoever waits for the result has none
			}
		}
		return nil
	}
	return err
}

func pathless(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// summary tells how the demo went.
func summary(w io.Writer, r *demo.Result) {
	fmt.Fprintf(w, "\n%s: %s events in %.1f s\n", r.Demo, count(r.Examples), r.Seconds)
	table(w, "  WHAT ACCURACY LOGLOSS", [][]string{
		{"  predicted before training on it", number(r.Accuracy), number(r.LogLoss)},
		{"  answered by what served at the time", number(r.ServedAccuracy), number(r.ServedLogLoss)},
		{"  repeating the last label", number(r.NoChangeAccuracy), ""},
		{"  knowing only how often each label is", "", number(r.PriorLogLoss)},
	})
	fmt.Fprintf(w, "  %d versions, of which %d passed the gate; version %d serves\n", len(r.Versions), r.Published, r.Champion)
	fmt.Fprintf(w, "  %s requests answered, %d failed", count(r.Requests-r.RequestsFailed), r.RequestsFailed)
	if r.FirstError != "" {
		fmt.Fprintf(w, " (%s)", r.FirstError)
	}
	fmt.Fprintln(w)
	fresh := "  from an event to a version that knows it: "
	if r.FreshnessP50 != nil {
		fresh += fmt.Sprintf("half of all events within %.1f s", *r.FreshnessP50)
	} else {
		fresh += "less than half of all events made it into a version that served"
	}
	if r.FreshnessP90 != nil {
		fresh += fmt.Sprintf(", nine in ten within %.1f s", *r.FreshnessP90)
	}
	fmt.Fprintln(w, fresh)
}

// next says what can be tried while the node is up.
func next(w io.Writer, r *demo.Result) {
	fmt.Fprintf(w, `
The node is up until Ctrl-C. Try, in another terminal:
  tidemill explain %[1]s --server %[2]s
  tidemill versions %[1]s --server %[2]s
  tidemill job %[1]s --server %[2]s
  curl http://%[3]s/v2/models/%[1]s
  curl http://%[3]s/metrics
  grpcurl -plaintext -d '{"name": "%[1]s"}' %[4]s inference.GRPCInferenceService/ModelMetadata
`, r.Demo, r.RPC, r.HTTP, r.GRPC)
}
