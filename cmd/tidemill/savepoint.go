package main

import (
	"context"
	"fmt"
	"io"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/trainer"
)

// labelOf returns the third argument of job, which savepoint may have and delete-savepoint must
// have; other verbs take none.
func labelOf(verb string, given []string) (string, error) {
	if len(given) < 3 {
		if verb == trainer.VerbDeleteSavepoint {
			return "", tidemill.Invalid("delete-savepoint needs a label", "see tidemill job %s savepoints", given[0])
		}
		return "", nil
	}
	if verb != trainer.VerbSavepoint && verb != trainer.VerbDeleteSavepoint {
		return "", tidemill.Invalid("%q is one argument too many", "only savepoint and delete-savepoint take a label", given[2])
	}
	return given[2], snapshot.CheckSavepoint(given[2])
}

// savepoint carries out the verbs about savepoints.
func (a *app) savepoint(ctx context.Context, c *cluster, job, verb, label, why string) error {
	args := map[string]string{"label": label, "why": why}
	switch verb {
	case trainer.VerbSavepoints:
		var all []snapshot.Savepoint
		if err := c.do(ctx, job, verb, nil, &all); err != nil {
			return err
		}
		if a.json {
			for _, s := range all {
				if err := a.line(s); err != nil {
					return err
				}
			}
			return nil
		}
		listSavepoints(a.out, job, all)
		return nil
	case trainer.VerbDeleteSavepoint:
		var s snapshot.Savepoint
		if err := c.do(ctx, job, verb, args, &s); err != nil {
			return err
		}
		return a.result(s, func(w io.Writer) {
			fmt.Fprintf(w, "savepoint %s of job %s is deleted; snapshot %d may be collected\n", s.Name, s.Job, s.Snapshot)
		})
	}
	var st trainer.SavepointStatus
	if err := c.do(ctx, job, verb, args, &st); err != nil {
		return err
	}
	return a.result(st, func(w io.Writer) {
		s := st.Savepoint
		fmt.Fprintf(w, "savepoint %s keeps snapshot %d of job %s: %s examples, digest %s\n", s.Name, s.Snapshot, s.Job, count(s.Examples), s.Digest)
		fmt.Fprintf(w, "start from it with: tidemill submit --from %s/%s JOB.yaml\n", s.Job, s.Name)
	})
}

func listSavepoints(w io.Writer, job string, all []snapshot.Savepoint) {
	if len(all) == 0 {
		fmt.Fprintf(w, "job %s has no savepoint\n", job)
		return
	}
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Snapshot), count(s.Examples), stamp(s.Created), s.By, s.Digest.String(), s.Why})
	}
	table(w, "LABEL SNAPSHOT EXAMPLES CREATED BY DIGEST WHY", rows)
}
