package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// jobVerbs are the second argument of job, with what they do.
var jobVerbs = []struct{ name, what string }{
	{"show", "how it stands (default)"},
	{"watch", "follow it until it ends"},
	{"wait", "return once it is in --state (finished), has --examples, or serves version --champion"},
	{"pause", "stop training; the state stays"},
	{"resume", "go on after a pause; rows put aside so far are accepted, --max-bad-rows sets a new budget"},
	{"finish", "a last snapshot, then end"},
	{"savepoint", "take a snapshot now and keep it, as LABEL (default snapshot-N), until it is deleted"},
	{"savepoints", "list what is kept"},
	{"delete-savepoint", "let go what LABEL keeps"},
	{"replay-dead", "train rows of the dead-letter topic, each once: --reason (a cause, or a part of the reason), --limit"},
	{"cancel", "end without a last snapshot"},
}

// until is what job NAME wait waits for.
type until struct {
	state    string
	examples int64
	champion int64
	timeout  time.Duration
}

func newJob(a *app) *cobra.Command {
	var (
		p      peer
		u      until
		why    string
		budget string
		replay replayFlags
	)
	var verbs []string
	long := &strings.Builder{}
	fmt.Fprint(long, "Look at a job or act on it. VERB is one of\n\n")
	for _, v := range jobVerbs {
		verbs = append(verbs, v.name)
		fmt.Fprintf(long, "  %-16s %s\n", v.name, v.what)
	}
	cmd := &cobra.Command{
		Use:   "job NAME [VERB [LABEL]]",
		Short: "Show, watch, pause, resume, finish or cancel a job",
		Long:  strings.TrimRight(long.String(), "\n"),
		Example: `  tidemill job clicks
  tidemill job clicks watch
  tidemill job clicks wait --state finished --timeout 10m
  tidemill job clicks replay-dead --reason label
  tidemill job clicks savepoint before-holidays --why "known good"`,
		Args: args(1, 3, "NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			verb := "show"
			if len(given) > 1 {
				verb = given[1]
			}
			if !slices.Contains(verbs, verb) {
				remedy := "use " + strings.Join(verbs, ", ")
				if near := tidemill.Nearest(verb, verbs); near != "" {
					remedy = fmt.Sprintf("did you mean %q?", near)
				}
				return tidemill.Invalid("unknown verb %q", remedy, verb)
			}
			if err := u.validate(); err != nil {
				return err
			}
			with := map[string]string{}
			if budget != "" {
				if verb != "resume" {
					return tidemill.Invalid("--max-bad-rows with %s", "it belongs to resume", verb)
				}
				if _, err := tidemill.ParseBadBudget(budget); err != nil {
					return err
				}
				with["max_bad_rows"] = budget
			}
			if err := replay.validate(verb); err != nil {
				return err
			}
			label, err := labelOf(verb, given)
			if err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			defer c.close()
			if strings.Contains(verb, "savepoint") {
				return a.savepoint(cmd.Context(), c, given[0], verb, label, why)
			}
			if verb == trainer.VerbReplayDead {
				return a.replayDead(cmd.Context(), c, given[0], replay)
			}
			return a.job(cmd.Context(), c, given[0], verb, with, u)
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&u.state, "state", "", "wait: the state to wait for (default finished, unless another condition is given)")
	cmd.Flags().Int64Var(&u.examples, "examples", 0, "wait: until so many examples are trained")
	cmd.Flags().Int64Var(&u.champion, "champion", 0, "wait: until this version, or a later one, serves")
	cmd.Flags().DurationVar(&u.timeout, "timeout", 0, "wait: fail after so long (default: never)")
	cmd.Flags().StringVar(&why, "why", "", "savepoint: a reason, kept with it")
	cmd.Flags().StringVar(&replay.reason, "reason", "", "replay-dead: only rows put aside for this cause, or whose reason contains this (default: all)")
	cmd.Flags().IntVar(&replay.limit, "limit", 0, "replay-dead: at most so many rows (default: all)")
	cmd.Flags().StringVar(&budget, "max-bad-rows", "", "resume: how many rows may be put aside from now on, such as 1000 or 1% (default: as before)")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(jobStates, cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgsFunction = func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) == 1 {
			return verbs, cobra.ShellCompDirectiveNoFileComp
		}
		return p.names(cmd.Context(), len(given)), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// names lists jobs for completion; nothing when no node answers at once.
func (p *peer) names(ctx context.Context, given int) []string {
	c, err := p.connect()
	if err != nil || given > 0 {
		return nil
	}
	defer c.close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var jobs []trainer.JobStatus
	if err := c.do(ctx, "", trainer.VerbJobs, nil, &jobs); err != nil {
		return nil
	}
	var names []string
	for _, j := range jobs {
		names = append(names, j.Job)
	}
	return names
}

var jobStates = []string{
	tidemill.JobSubmitted, tidemill.JobValidating, tidemill.JobRunning, tidemill.JobPaused,
	tidemill.JobFinished, tidemill.JobFailed, tidemill.JobCancelled,
}

func (u *until) validate() error {
	if u.state != "" && !slices.Contains(jobStates, u.state) {
		remedy := "use " + strings.Join(jobStates, ", ")
		if near := tidemill.Nearest(u.state, jobStates); near != "" {
			remedy = fmt.Sprintf("did you mean %q?", near)
		}
		return tidemill.Invalid("unknown state %q", remedy, u.state)
	}
	if u.examples < 0 || u.champion < 0 || u.timeout < 0 {
		return tidemill.Invalid("--examples, --champion and --timeout are not negative", "leave them out")
	}
	if u.state == "" && u.examples == 0 && u.champion == 0 {
		u.state = tidemill.JobFinished
	}
	return nil
}

// met reports whether st is what was waited for, and never when it cannot become so.
func (u *until) met(st trainer.JobStatus) (ok, never bool) {
	ok = (u.state == "" || st.State == u.state) && st.Examples >= u.examples && st.Champion >= u.champion
	// Decisions on a finished job's last candidates may still come; states and examples not.
	over := ended(st.State) && (u.champion == 0 || st.State != tidemill.JobFinished)
	return ok, over && !ok
}

// ended reports whether a job in this state never changes any more.
func ended(state string) bool {
	return state == tidemill.JobFinished || state == tidemill.JobFailed || state == tidemill.JobCancelled
}

func (a *app) job(ctx context.Context, c *cluster, name, verb string, with map[string]string, u until) error {
	var st trainer.JobStatus
	switch verb {
	case "watch":
		return a.watch(ctx, c, name)
	case "wait":
		return a.wait(ctx, c, name, u)
	case "show":
		verb = trainer.VerbJob
	}
	if err := c.do(ctx, name, verb, with, &st); err != nil {
		return err
	}
	return a.result(st, func(w io.Writer) { showJob(w, st) })
}

// wait asks until the job is what u says.
func (a *app) wait(ctx context.Context, c *cluster, name string, u until) error {
	wctx := ctx
	if u.timeout > 0 {
		// Not a deadline, which would travel with each request: the server could end one before
		// the time is over here, and its answer would be taken for a failure.
		var cancel context.CancelFunc
		wctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer time.AfterFunc(u.timeout, cancel).Stop()
	}
	b := newBar(a.err)
	defer b.done()
	var st trainer.JobStatus
	for {
		if err := c.do(wctx, name, trainer.VerbJob, nil, &st); err != nil && wctx.Err() == nil {
			return err
		}
		if wctx.Err() == nil {
			ok, never := u.met(st)
			if ok {
				b.done()
				return a.result(st, func(w io.Writer) { showJob(w, st) })
			}
			if never {
				why := ""
				if st.Reason != "" {
					why = ": " + st.Reason
				}
				return fmt.Errorf("job %q is %s after %d examples, champion %s, and will not be what was waited for%s", name, st.State, st.Examples, version(st.Champion), why)
			}
			b.show(-1, jobLine(st))
		}
		if !pause(wctx, 100*time.Millisecond) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("job %q is %s after %s, with %d examples, champion %s: %w", name, st.State, u.timeout, st.Examples, version(st.Champion), context.DeadlineExceeded)
		}
	}
}

// watch follows a job until it ends: one line that changes on a terminal, a line per change
// elsewhere. The end of ctx is the end of watching, not an error.
func (a *app) watch(ctx context.Context, c *cluster, name string) error {
	b := newBar(a.out)
	defer b.done()
	last := ""
	for {
		var st trainer.JobStatus
		if err := c.do(ctx, name, trainer.VerbJob, nil, &st); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		line := jobLine(st)
		switch {
		case line == last:
		case a.json:
			if err := a.line(st); err != nil {
				return err
			}
		case b.w != nil:
			b.show(-1, line)
		default:
			fmt.Fprintln(a.out, line)
		}
		last = line
		if ended(st.State) {
			b.done()
			if !a.json {
				showJob(a.out, st)
			}
			if st.State == tidemill.JobFailed {
				return errors.New("the job failed: " + st.Reason)
			}
			return nil
		}
		if !pause(ctx, 500*time.Millisecond) {
			return nil
		}
	}
}

// jobLine is a job in one line.
func jobLine(st trainer.JobStatus) string {
	s := fmt.Sprintf("%s %s  %s examples  snapshot %d  live %s", st.Job, st.State, count(st.Examples), st.Snapshot, version(st.Champion))
	if r := st.Recent; r.Examples > 0 {
		s += fmt.Sprintf("  loss %s  accuracy %s", number(r.Loss), number(r.Accuracy))
	}
	return s
}

func showJob(w io.Writer, st trainer.JobStatus) {
	fmt.Fprintf(w, "job %s is %s", st.Job, st.State)
	if st.Reason != "" {
		fmt.Fprintf(w, ": %s", st.Reason)
	}
	fmt.Fprintln(w)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-11s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("model", "%s, live %s", st.Model, version(st.Champion))
	row("topic", "%s, partitions: %d", st.Topic, len(st.Cut))
	row("examples", "%s, bad rows: %s", count(st.Examples), count(st.BadRows))
	showBad(row, st)
	row("snapshot", "%d of %s examples, generation %d", st.Snapshot, count(st.SnapshotExamples), st.Generation)
	if st.Digest != "" {
		row("digest", "%s", st.Digest)
	}
	if p := st.Progress; p.Examples > 0 {
		row("all so far", "loss %s (knowing only the labels %s), accuracy %s (repeating the last label %s), AUC %s",
			number(p.Loss), number(p.PriorLoss), number(p.Accuracy), number(p.NoChangeAccuracy), number(p.AUC))
	}
	if p := st.Recent; p.Examples > 0 {
		row("recent", "loss %s, accuracy %s, AUC %s over %s examples", number(p.Loss), number(p.Accuracy), number(p.AUC), count(p.Examples))
	}
	if len(st.Partitions) > 0 {
		var on []string
		for i, m := range st.Partitions {
			on = append(on, fmt.Sprintf("%d%s on %s", i, reads(st, i), m))
		}
		row("partitions", "%s", strings.Join(on, ", "))
	}
	if len(st.PSLoads) > 0 {
		showLoad(w, st.PSLoads)
		return
	}
	var on []string
	for _, m := range slices.Sorted(maps.Keys(st.Shards)) {
		on = append(on, fmt.Sprintf("%d on %s", st.Shards[m], m))
	}
	if len(on) > 0 {
		row("shards", "%s", strings.Join(on, ", "))
	}
}
