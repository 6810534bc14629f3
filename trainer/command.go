package trainer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/carry"
	"github.com/tidemill/tidemill/internal/deadletter"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/spec"
)

// Verbs of Command, with the arguments they take.
const (
	VerbSubmit    = "submit"    // yaml, file, until_end, from, yes, graph
	VerbNeeds     = "needs"     // yaml, file: which files a spec needs beside itself
	VerbUpload    = "upload"    // graph, then part, parts, data, file: a graph file, in parts
	VerbJobs      = "jobs"      //
	VerbJob       = "job"       //
	VerbMembers   = "members"   //
	VerbPause     = "pause"     //
	VerbResume    = "resume"    // max_bad_rows ("": as it is)
	VerbCancel    = "cancel"    //
	VerbFinish    = "finish"    // a last snapshot, then finished
	VerbSavepoint = "savepoint" // label, why: a snapshot now, kept by name
	VerbVersions  = "versions"  // model, evidence
	VerbExplain   = "explain"   // model, version ("" or "champion": what serves)
	VerbPromote   = "promote"   // model, version, why
	VerbRollback  = "rollback"  // model, version ("": the one before), why

	VerbReplayDead      = "replay-dead"      // reason, limit ("": all)
	VerbSavepoints      = "savepoints"       // those of a job
	VerbDeleteSavepoint = "delete-savepoint" // label
)

// Command carries out a verb on a job (or on args["model"]) in the name of args["by"], and
// returns its answer as JSON.
func (t *Trainer) Command(ctx context.Context, job, verb string, args map[string]string) ([]byte, error) {
	v, err := t.command(ctx, job, verb, args)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (t *Trainer) command(ctx context.Context, job, verb string, args map[string]string) (any, error) {
	switch verb {
	case VerbSubmit:
		doc, err := spec.Parse([]byte(args["yaml"]), args["file"])
		if err != nil {
			return nil, err
		}
		if args["until_end"] == "true" {
			doc.Spec.Train.UntilEnd = true
		}
		named(doc.Spec, args)
		return t.SubmitFrom(ctx, doc, From{Name: args["from"], Yes: args["yes"] == "true"})
	case VerbNeeds:
		doc, err := spec.Parse([]byte(args["yaml"]), args["file"])
		if err != nil {
			return nil, err
		}
		return needs{Graph: doc.Spec.Architecture.File}, nil
	case VerbUpload:
		return t.upload(ctx, args)
	case VerbJobs:
		names, err := t.Jobs(ctx)
		if err != nil {
			return nil, err
		}
		list := []JobStatus{}
		for _, n := range names {
			st, err := t.Status(ctx, n)
			st.ShardLoads = nil // a list of jobs is read as a whole
			if err != nil {
				return nil, err
			}
			list = append(list, st)
		}
		return list, nil
	case VerbJob:
		return t.Status(ctx, job)
	case VerbMembers:
		return t.Members(ctx)
	case VerbPause, VerbResume, VerbCancel, VerbFinish:
		return t.control(ctx, job, verb, args)
	case VerbSavepoint:
		return t.savepoint(ctx, job, args["label"], args["by"], args["why"])
	case VerbReplayDead:
		return t.ReplayDead(ctx, job, args["reason"], args["limit"])
	case VerbSavepoints:
		return t.Savepoints(ctx, job)
	case VerbDeleteSavepoint:
		return t.deleteSavepoint(ctx, job, args["label"])
	case VerbVersions:
		return t.Versions(ctx, args["model"], args["evidence"] == "true")
	case VerbExplain:
		return t.explain(ctx, args["model"], args["version"])
	case VerbPromote, VerbRollback:
		return t.byHand(ctx, verb, args)
	}
	return nil, tidemill.Invalid("unknown command %q", "", verb)
}

// SubmitSpec checks a spec against its topic and creates the job, named as its model. The
// error names every problem with its place.
func (t *Trainer) SubmitSpec(ctx context.Context, doc *spec.Document) (JobStatus, error) {
	st, err := t.SubmitFrom(ctx, doc, From{})
	return st.JobStatus, err
}

// SubmitFrom is SubmitSpec for a job that starts from what another one trained. What cannot be
// carried over, or would be lost without an agreement, is listed in an error that wraps
// tidemill.ErrInvalid; then nothing is changed.
func (t *Trainer) SubmitFrom(ctx context.Context, doc *spec.Document, from From) (SubmitStatus, error) {
	var out SubmitStatus
	t.submits.Lock()
	defer t.submits.Unlock()
	s := doc.Spec
	topic, err := source.OpenSpec(ctx, t.cfg.Source, &s.Stream)
	if err != nil {
		return out, notOpened(doc, err)
	}
	defer topic.Close()
	info, err := topic.Info(ctx)
	if err != nil {
		return out, err
	}
	if err := doc.Check(info.Schema); err != nil {
		return out, err
	}
	if err := t.fitGraph(ctx, doc, info.Schema); err != nil {
		return out, err
	}
	if _, err := model.Driver(s); err != nil {
		return out, noEngine(doc, err)
	}
	if err := t.tryGraph(ctx, doc, info.Schema); err != nil {
		return out, err
	}
	if _, err := model.CompileIn(ctx, t.cfg.Bucket, s, info.Schema, engine.Options{}); err != nil {
		return out, err
	}
	if err := deadletter.CheckColumns(info.Schema); err != nil {
		return out, &tidemill.InputError{Place: doc.Place("stream.topic"), What: err.Error()}
	}
	if len(s.Model) > deadletter.MaxJobLength {
		return out, &tidemill.InputError{Place: doc.Place("model"), What: fmt.Sprintf("the name has %d bytes", len(s.Model)),
			Remedy: fmt.Sprintf("use up to %d, so that its dead-letter topic can be named", deadletter.MaxJobLength)}
	}
	offsets := len(s.Stream.Offsets) > 0
	if s.Stream.Offsets, err = startOf(ctx, doc, topic, info); err != nil {
		return out, err
	}
	var (
		m     *snapshot.Manifest
		label string
		plan  *carry.Plan
	)
	if from.Name != "" {
		if m, label, err = t.origin(ctx, from.Name, s.Model); err != nil {
			return out, err
		}
		if plan, err = t.planFrom(ctx, doc, info, m, offsets); err != nil {
			return out, err
		}
		out.Carried = plan.Items
		if err := agree(plan, from.Yes); err != nil {
			return out, err
		}
		s.Stream.Offsets = plan.Begin()
	}
	if s.Train.UntilEnd && s.Train.End == nil {
		s.Train.End = info.Next.Clone()
	}
	schema, err := model.EncodeSchema(info.Schema)
	if err != nil {
		return out, err
	}
	var lineage [8]byte
	_, _ = rand.Read(lineage[:])
	a := tidemill.Assignment{
		Job: s.Model, Spec: *s, Schema: schema, Cut: tidemill.Cut(s.Stream.Offsets).Clone(),
		Identity: info.Identity, Lineage: hex.EncodeToString(lineage[:]),
	}
	if err := t.free(ctx, a.Job); err != nil {
		return out, err
	}
	// From now on no row that the job has not trained is dropped.
	if err := topic.Retain(ctx, a.Job, a.Cut); err != nil {
		return out, err
	}
	if plan != nil && plan.SameStream() {
		if err := t.inherit(ctx, &a, m, info.Next); err != nil {
			return out, err
		}
	}
	if plan != nil {
		first, err := t.seed(ctx, &a, m, label, plan)
		if err != nil {
			return out, err
		}
		out.From = first.Ancestor
	}
	if err := t.Submit(ctx, a); err != nil {
		return out, err
	}
	out.JobStatus = JobStatus{
		Job: a.Job, Model: s.Model, Topic: s.Stream.Topic, State: tidemill.JobSubmitted,
		Snapshot: a.Snapshot, Cut: a.Cut, Examples: a.Examples, SnapshotExamples: a.Examples,
	}
	return out, nil
}

// free reports whether a job of this name can be created: there is none, or it is over.
func (t *Trainer) free(ctx context.Context, job string) error {
	a, err := t.record(ctx, job)
	if errors.Is(err, tidemill.ErrNotFound) {
		return nil
	}
	if err == nil && (!isTerminal(a.State) || t.Busy(job)) {
		err = taken(job, a.State)
	}
	return err
}

func taken(job, state string) error {
	return fmt.Errorf("job %q is %s; cancel it or choose another model name: %w", job, state, tidemill.ErrExists)
}

// notOpened says where in the spec it stands that a topic cannot be opened.
func notOpened(doc *spec.Document, err error) error {
	place, remedy := doc.Place("stream.topic"), ""
	if errors.Is(err, tidemill.ErrNotFound) {
		remedy = "produce rows into the topic first"
	} else if doc.Spec.Stream.Kafka != nil {
		place = doc.Place("stream.kafka")
	}
	return &tidemill.InputError{Place: place, What: err.Error(), Remedy: remedy}
}

// startOf resolves stream.from and stream.offsets to one offset per partition.
func startOf(ctx context.Context, doc *spec.Document, topic source.Topic, info source.Info) ([]int64, error) {
	s := &doc.Spec.Stream
	if len(s.Offsets) > 0 {
		if len(s.Offsets) != info.Partitions {
			return nil, &tidemill.InputError{
				Place: doc.Place("stream.offsets"), What: fmt.Sprintf("%d offsets for %d partitions", len(s.Offsets), info.Partitions),
				Remedy: "give one offset per partition",
			}
		}
		for p, o := range s.Offsets {
			if o < info.First[p] || o > info.Next[p] {
				return nil, &tidemill.InputError{
					Place: doc.Place("stream.offsets"), What: fmt.Sprintf("offset %d of partition %d lies outside what the topic holds, %d to %d", o, p, info.First[p], info.Next[p]),
				}
			}
		}
		return s.Offsets, nil
	}
	switch s.From {
	case "", "earliest":
		return info.First.Clone(), nil
	case "latest":
		return info.Next.Clone(), nil
	}
	at, err := time.Parse(time.RFC3339, s.From)
	if err != nil {
		return nil, &tidemill.InputError{Place: doc.Place("stream.from"), What: fmt.Sprintf("%q is no time", s.From), Remedy: "write earliest, latest or a time such as 2026-01-31T12:00:00Z"}
	}
	out := make([]int64, info.Partitions)
	for p := range out {
		if out[p], err = topic.OffsetAt(ctx, p, at); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// control acts on a running job and waits until its record says so.
func (t *Trainer) control(ctx context.Context, job, verb string, args map[string]string) (JobStatus, error) {
	by := args["by"]
	var budget tidemill.BadBudget
	if s := args["max_bad_rows"]; s != "" {
		var err error
		if budget, err = tidemill.ParseBadBudget(s); err != nil {
			return JobStatus{}, err
		}
	}
	a, err := t.record(ctx, job)
	if err != nil {
		return JobStatus{}, err
	}
	if isTerminal(a.State) {
		return JobStatus{}, tidemill.Invalid("job %q is %s", "nothing runs that could be changed", job, a.State)
	}
	r, err := t.run(job)
	if err != nil {
		return JobStatus{}, err
	}
	want := ""
	switch verb {
	case VerbPause:
		want = tidemill.JobPaused
		r.post(Event{Kind: Pause, Reason: "paused by " + by})
	case VerbResume:
		want = tidemill.JobRunning
		r.post(Event{Kind: Resume, MaxBadRows: budget})
	case VerbCancel:
		want = tidemill.JobCancelled
		r.post(Event{Kind: Stop, Final: want, Reason: "cancelled by " + by})
	case VerbFinish:
		want = tidemill.JobFinished
		r.post(Event{Kind: Stop, Final: want})
	}
	for {
		st, err := t.Status(ctx, job)
		if err != nil {
			return st, err
		}
		done := st.State == want
		if verb == VerbResume && (a.State == tidemill.JobPaused || !budget.IsZero()) {
			// It may be paused again by now.
			now, err := t.record(ctx, job)
			if err != nil {
				return st, err
			}
			if done = now.Pardon.Resumed > a.Pardon.Resumed; done {
				// The status read before may be of the moment before.
				if st, err = t.Status(ctx, job); err != nil {
					return st, err
				}
			}
		}
		if done || isTerminal(st.State) {
			return st, nil
		}
		sleep(ctx, 50*time.Millisecond)
		if ctx.Err() != nil {
			return st, fmt.Errorf("job %q is still %s: %w", job, st.State, tidemill.ErrUnavailable)
		}
	}
}

// Explanation says why a version is, or is not, live.
type Explanation struct {
	VersionStatus
	Decisions []tidemill.Decision `json:"decisions"`
	Champion  *tidemill.Champion  `json:"champion,omitempty"` // the record that made it serve
}

func (t *Trainer) explain(ctx context.Context, name, version string) (Explanation, error) {
	all, err := t.Versions(ctx, name, true)
	if err != nil {
		return Explanation{}, err
	}
	want, err := parseVersion(version)
	if err != nil {
		return Explanation{}, err
	}
	for _, v := range all {
		if v.Number != want && !(want == 0 && v.Serves) {
			continue
		}
		e := Explanation{VersionStatus: v}
		if e.Decisions, e.Champion, err = t.history(ctx, name, v.Number); err != nil {
			return e, err
		}
		return e, nil
	}
	if want == 0 {
		return Explanation{}, fmt.Errorf("model %q has no published version yet: %w", name, tidemill.ErrNotFound)
	}
	return Explanation{}, fmt.Errorf("model %q has no version %d; it has 1 to %d: %w", name, want, all[len(all)-1].Number, tidemill.ErrNotFound)
}

func parseVersion(s string) (int64, error) {
	if s == "" || s == "champion" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, tidemill.Invalid("version %q", "give a number from 1 on, or champion", s)
	}
	return n, nil
}

// byHand promotes a version, or goes back to an earlier champion.
func (t *Trainer) byHand(ctx context.Context, verb string, args map[string]string) (tidemill.Champion, error) {
	name := args["model"]
	version, err := parseVersion(args["version"])
	if err != nil {
		return tidemill.Champion{}, err
	}
	if version == 0 {
		if verb == VerbPromote {
			return tidemill.Champion{}, tidemill.Invalid("promote needs a version", "name one of `tidemill versions %s`", name)
		}
		if version, err = t.predecessor(ctx, name); err != nil {
			return tidemill.Champion{}, err
		}
	}
	r, err := t.run(name)
	if errors.Is(err, tidemill.ErrNotFound) {
		return t.byHandAlone(ctx, verb, name, version, args)
	}
	if err != nil {
		return tidemill.Champion{}, err
	}
	type answer struct {
		rec tidemill.Champion
		err error
	}
	done := make(chan answer, 1)
	v, err := r.validator(ctx)
	if err != nil {
		return tidemill.Champion{}, err
	}
	v.do(func(vctx context.Context) error {
		rec, err := v.byHand(vctx, verb, version, args["by"], args["why"])
		done <- answer{rec, err}
		if errors.Is(err, tidemill.ErrFenced) {
			return err // somebody else publishes: look again at what serves
		}
		return nil
	})
	select {
	case a := <-done:
		return a.rec, a.err
	case <-ctx.Done():
		return tidemill.Champion{}, fmt.Errorf("%s of %s: %w: %w", verb, name, tidemill.ErrUnavailable, ctx.Err())
	case <-r.done:
		return tidemill.Champion{}, fmt.Errorf("%s of %s: the job has just ended, try again: %w", verb, name, tidemill.ErrNotReady)
	}
}

// byHandAlone publishes a version of a job that is over, whose validator has gone.
func (t *Trainer) byHandAlone(ctx context.Context, verb, name string, version int64, args map[string]string) (tidemill.Champion, error) {
	t.alone.Lock()
	defer t.alone.Unlock()
	a, err := t.record(ctx, name)
	if err != nil {
		return tidemill.Champion{}, err
	}
	r := newRun(t, a, 0)
	schema, err := model.DecodeSchema(a.Schema)
	if err != nil {
		return tidemill.Champion{}, err
	}
	if r.model, err = model.CompileIn(ctx, t.cfg.Bucket, &r.spec, schema, engine.Options{}); err != nil {
		return tidemill.Champion{}, err
	}
	if r.keep, err = newKeeper(r); err != nil {
		return tidemill.Champion{}, err
	}
	v, err := newValidator(r)
	if err != nil {
		return tidemill.Champion{}, err
	}
	defer v.close()
	if err := v.recover(ctx); err != nil {
		return tidemill.Champion{}, err
	}
	return v.byHand(ctx, verb, version, args["by"], args["why"])
}
