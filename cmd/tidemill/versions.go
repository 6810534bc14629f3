package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/trainer"
)

// parseModel reads MODEL or MODEL@V; version is "" for the champion.
func parseModel(s string) (model, version string, err error) {
	model, version, has := strings.Cut(s, "@")
	if err := snapshot.CheckName("model", model); err != nil {
		return "", "", err
	}
	if !has {
		return model, "", nil
	}
	version = strings.TrimPrefix(version, "v")
	if version == "champion" {
		return model, "", nil
	}
	if n, err := strconv.ParseInt(version, 10, 64); err != nil || n < 1 {
		return "", "", tidemill.Invalid("%q names no version", "write MODEL@N with N from 1 on", s)
	}
	return model, version, nil
}

func newVersions(a *app) *cobra.Command {
	var (
		p        peer
		evidence bool
	)
	cmd := &cobra.Command{
		Use:   "versions MODEL",
		Short: "List a model's versions with the decision on each",
		Example: `  tidemill versions clicks
  tidemill versions clicks --json --evidence | jq 'select(.serves)'`,
		Args: args(1, 1, "MODEL"),
		RunE: func(cmd *cobra.Command, given []string) error {
			model, version, err := parseModel(given[0])
			if err != nil {
				return err
			}
			if version != "" {
				return tidemill.Invalid("versions takes a model without a version", "for one version: tidemill explain "+given[0])
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			defer c.close()
			var all []trainer.VersionStatus
			err = c.do(cmd.Context(), "", trainer.VerbVersions, map[string]string{"model": model, "evidence": strconv.FormatBool(evidence)}, &all)
			if err != nil {
				return err
			}
			if a.json {
				for _, v := range all {
					if err := a.line(v); err != nil {
						return err
					}
				}
				return nil
			}
			listVersions(a.out, all)
			return nil
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&evidence, "evidence", false, "with --json: the checks behind each decision")
	cmd.ValidArgsFunction = p.completeModel
	return cmd
}

func listVersions(w io.Writer, all []trainer.VersionStatus) {
	var rows [][]string
	for _, v := range all {
		serves := ""
		if v.Serves {
			serves = "←"
		}
		rows = append(rows, []string{version(v.Number) + serves, v.Decision, version(v.Parent), count(v.Examples), stamp(v.Created), v.Reason})
	}
	table(w, "VERSION DECISION PARENT EXAMPLES CREATED WHY", rows)
}

// stamp writes a moment for people.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// completeModel completes the first argument with the models that are being trained.
func (p *peer) completeModel(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return p.names(cmd.Context(), len(given)), cobra.ShellCompDirectiveNoFileComp
}

func newExplain(a *app) *cobra.Command {
	var p peer
	cmd := &cobra.Command{
		Use:   "explain MODEL[@V]",
		Short: "Why a version is live, or is not: its data, its lineage, its evidence",
		Long: `Tell the story of a version: which decision was taken on it, by whom and on what evidence; which
part of the stream it has seen; which version it follows. Without @V it is the one that serves.`,
		Example: `  tidemill explain clicks
  tidemill explain clicks@12 --json`,
		Args: args(1, 1, "MODEL[@V]"),
		RunE: func(cmd *cobra.Command, given []string) error {
			model, version, err := parseModel(given[0])
			if err != nil {
				return err
			}
			c, err := p.connect()
			if err != nil {
				return err
			}
			defer c.close()
			var e trainer.Explanation
			if err := c.do(cmd.Context(), "", trainer.VerbExplain, map[string]string{"model": model, "version": version}, &e); err != nil {
				return err
			}
			return a.result(e, func(w io.Writer) { tell(w, e) })
		},
	}
	p.flags(cmd)
	cmd.ValidArgsFunction = p.completeModel
	return cmd
}

// tell writes a version's story.
func tell(w io.Writer, e trainer.Explanation) {
	fmt.Fprintf(w, "%s, version %d: ", e.Model, e.Number)
	switch {
	case e.Serves:
		fmt.Fprint(w, "it serves.\n")
	case e.Decision == tidemill.Published:
		fmt.Fprint(w, "it was published, and another version serves now.\n")
	default:
		fmt.Fprintf(w, "it does not serve; it is %s.\n", e.Decision)
	}
	fmt.Fprintf(w, "\nWhy\n  %s", e.Decision)
	if e.By != "" {
		fmt.Fprintf(w, " by %s", e.By)
	}
	if n := len(e.Decisions); n > 0 {
		fmt.Fprintf(w, " on %s", stamp(e.Decisions[n-1].At))
	}
	fmt.Fprintf(w, ": %s\n", e.Reason)
	if c := e.Champion; c != nil {
		fmt.Fprintf(w, "  made live by %s (%s) on %s, champion record %d", c.By, c.Kind, stamp(c.At), c.Seq)
		if c.Why != "" && c.Why != e.Reason {
			fmt.Fprintf(w, ": %s", c.Why)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprint(w, "\nFrom what\n")
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "  %-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("examples", "%s, up to offsets %v", count(e.Examples), []int64(e.Cut))
	if e.Watermark > 0 {
		row("watermark", "every event up to %s", stamp(time.UnixMilli(e.Watermark)))
	}
	if e.Parent > 0 {
		row("parent", "version %d served when it was made", e.Parent)
	} else {
		row("parent", "none served when it was made")
	}
	row("snapshot", "%d of job %s, lineage %s, made %s", e.Snapshot, e.Job, e.Lineage, stamp(e.Created))
	row("spec", "%s", e.SpecHash)
	row("digest", "%s", e.Digest)
	if e.Profile != "" {
		row("numerics", "%s", e.Profile)
	}
	if len(e.Evidence) > 0 {
		fmt.Fprint(w, "\nEvidence\n")
		var rows [][]string
		for _, c := range e.Evidence {
			rows = append(rows, []string{"  " + c.Name, c.Status, c.Detail})
		}
		table(w, "  CHECK STATUS FINDING", rows)
	}
	if n := len(e.Decisions); n > 1 {
		fmt.Fprint(w, "\nEarlier decisions\n")
		for _, d := range e.Decisions[:n-1] {
			fmt.Fprintf(w, "  %s  %s by %s: %s\n", stamp(d.At), d.Decision, d.By, d.Reason)
		}
	}
}
