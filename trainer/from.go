package trainer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/carry"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source"
	"github.com/tidemill/tidemill/internal/spec"
)

// SubmitStatus answers VerbSubmit: how the job stands, and what became of the snapshot that it
// starts from.
type SubmitStatus struct {
	JobStatus
	From    *snapshot.Ancestor `json:"from,omitempty"`
	Carried []carry.Item       `json:"carried,omitempty"` // what is dropped comes first
}

// From says what a new job starts from.
type From struct {
	// Name is a savepoint of the job's own name (LABEL) or of another job (JOB/LABEL), a
	// snapshot (JOB/NUMBER), or a version (MODEL@V); "" starts from nothing.
	Name string
	// Yes agrees to the loss of something trained.
	Yes bool
}

// origin resolves a From: the manifest, and the savepoint's name if it is one.
func (t *Trainer) origin(ctx context.Context, name, own string) (m *snapshot.Manifest, label string, err error) {
	if mod, version, ok := strings.Cut(name, "@"); ok {
		n, err := parseVersion(strings.TrimPrefix(version, "v"))
		if err != nil {
			return nil, "", err
		}
		if n == 0 {
			e, err := t.explain(ctx, mod, "")
			if err != nil {
				return nil, "", err
			}
			n = e.Number
		}
		v, err := snapshot.ReadVersionRecord(ctx, t.cfg.Bucket, mod, n)
		if err != nil {
			return nil, "", err
		}
		m, err := t.manifestOf(ctx, v.Job, v.Snapshot)
		if err == nil && (m.Lineage != v.Lineage || m.Digest.String() != v.Digest) {
			err = fmt.Errorf("snapshot %d of job %s is not the one that version %d was made of: %w", v.Snapshot, v.Job, n, tidemill.ErrNotFound)
		}
		return m, "", err
	}
	job, label, ok := strings.Cut(name, "/")
	if !ok {
		job, label = own, name
	}
	if n, err := strconv.ParseInt(label, 10, 64); err == nil && ok {
		m, err := t.manifestOf(ctx, job, n)
		return m, "", err
	}
	s, err := snapshot.ReadSavepoint(ctx, t.cfg.Bucket, job, label)
	if err != nil {
		return nil, "", err
	}
	m, err = t.manifestOf(ctx, job, s.Snapshot)
	if err == nil && m.Lineage != s.Lineage {
		err = fmt.Errorf("snapshot %d of job %s is not the one that savepoint %s keeps: %w", s.Snapshot, job, label, tidemill.ErrCorrupt)
	}
	return m, label, err
}

// manifestOf reads a snapshot's manifest.
func (t *Trainer) manifestOf(ctx context.Context, job string, number int64) (*snapshot.Manifest, error) {
	chain, err := snapshot.Snapshots(t.cfg.Bucket, job)
	if err != nil {
		return nil, err
	}
	m, err := snapshot.ReadManifest(ctx, chain, number)
	if errors.Is(err, tidemill.ErrNotFound) {
		return nil, fmt.Errorf("snapshot %d of job %s is not, or no longer, there; a savepoint would have kept it: %w", number, job, tidemill.ErrNotFound)
	}
	if err == nil && m.Fence != nil {
		return nil, tidemill.Invalid("record %d of job %s is a fence and holds no state", "name the snapshot before it", number, job)
	}
	return m, err
}

// planFrom decides what becomes of m in a job of spec doc, which says by offsets where to begin
// or does not, on a topic.
func (t *Trainer) planFrom(ctx context.Context, doc *spec.Document, info source.Info, m *snapshot.Manifest, offsets bool) (*carry.Plan, error) {
	from, err := carry.Compile(ctx, t.cfg.Bucket, m)
	if err != nil {
		return nil, fmt.Errorf("the snapshot's own spec: %w", err)
	}
	to, err := model.CompileIn(ctx, t.cfg.Bucket, doc.Spec, info.Schema, engine.Options{})
	if err != nil {
		return nil, err
	}
	source := carry.Source{Model: from, Topic: m.StreamTopic, Identity: m.StreamIdentity, Cut: m.Cut.OfTopic(m.StreamTopic, m.StreamTopic, m.Origins)}
	if m.Ancestor != nil {
		source.Retired = m.Ancestor.Retired
	}
	p := carry.New(source, carry.Target{
		Model: to, Topic: doc.Spec.Stream.Topic, Identity: info.Identity, First: info.First, Next: info.Next,
		Begin: tidemill.Cut(doc.Spec.Stream.Offsets), Says: offsets || doc.Says("stream.from"), Offsets: offsets,
	})
	return p, p.Err()
}

// inherit lets a's job read what m's did beside its topic, from where m left it, and keeps the
// numbers of the job's partitions, since what a snapshot holds is by them. What was put aside is
// no longer held against the job. next bounds the topic; a.Cut is by its partitions.
func (t *Trainer) inherit(ctx context.Context, a *tidemill.Assignment, m *snapshot.Manifest, next tidemill.Cut) error {
	a.Pardon = tidemill.Pardon{Bad: m.Bad(), Read: m.Examples + m.Bad()}
	begin := a.Cut
	read := make([]bool, len(begin))
	var origins []tidemill.Origin
	var end tidemill.Cut
	plain := true // partition i of the topic is partition i of the job
	for p, at := range m.Cut {
		o := tidemill.Origin{Topic: m.StreamTopic, Partition: p}
		if p < len(m.Origins) && m.Origins[p].Topic != "" {
			o = m.Origins[p]
		}
		o.Round, o.End = 0, 0
		if o.Topic == m.StreamTopic {
			o.First, read[o.Partition] = begin[o.Partition], true
			plain = plain && o.Partition == p
			end = append(end, next[o.Partition])
		} else {
			log, err := openLog(ctx, t.cfg.Source, &a.Spec.Stream, o)
			if err != nil {
				return fmt.Errorf("what the snapshot's job reads beside its topic: %w", err)
			}
			log.close()
			if log.info.Identity != o.Identity || at < log.info.First[o.Partition] || at > log.info.Next[o.Partition] {
				return tidemill.Invalid("topic %q, which the snapshot's job reads too, no longer holds what follows the snapshot", "start from a later snapshot", o.Topic)
			}
			o.First, plain = at, false
			end = append(end, log.info.Next[o.Partition])
			if m.Job != a.Job {
				o.End = end[p] // what its own job replays from now on is not this one's
			}
		}
		origins = append(origins, o)
	}
	for p, was := range read {
		if !was {
			plain = plain && p == len(origins)
			origins = append(origins, tidemill.Origin{Topic: m.StreamTopic, Partition: p, First: begin[p]})
			end = append(end, next[p])
		}
	}
	if plain {
		return nil
	}
	a.Origins, a.Cut = origins, nil
	for _, o := range origins {
		a.Cut = append(a.Cut, o.First)
	}
	if a.Spec.Train.End != nil {
		a.Spec.Train.End = end
	}
	return nil
}

// agree returns an error that lists what would be lost, unless somebody agreed to it.
func agree(p *carry.Plan, yes bool) error {
	losses := p.Losses()
	if len(losses) == 0 || yes {
		return nil
	}
	var lines []string
	for _, i := range losses {
		lines = append(lines, i.String())
	}
	return tidemill.Invalid("this would lose what was trained:\n%s", "agree with --yes", strings.Join(lines, "\n"))
}

// seed makes the first snapshot of a new lineage of a's job: m, as the plan changes it. a is
// then told to begin there. The job must not be running.
func (t *Trainer) seed(ctx context.Context, a *tidemill.Assignment, m *snapshot.Manifest, label string, p *carry.Plan) (*snapshot.Manifest, error) {
	b := t.cfg.Bucket
	if label == "" {
		// Nothing else keeps a collector from what is read here.
		var nonce [4]byte
		_, _ = rand.Read(nonce[:])
		s, err := snapshot.NewSavepoint(ctx, b, m, "start-"+hex.EncodeToString(nonce[:]), t.cfg.Member.ID, "job "+a.Job+" starts from it", time.Now())
		if err != nil {
			return nil, err
		}
		defer func() {
			if err := snapshot.DeleteSavepoint(context.WithoutCancel(ctx), b, s.Job, s.Name); err != nil {
				t.log.Warn("a savepoint of our own is left", "job", s.Job, "savepoint", s.Name, "err", err)
			}
		}()
	}
	chain, err := snapshot.Snapshots(b, a.Job)
	if err != nil {
		return nil, err
	}
	for {
		last, generation, err := top(ctx, chain)
		if err != nil {
			return nil, err
		}
		parts, err := p.Write(ctx, b, m, snapshot.PartName{Job: a.Job, Number: last + 1, Generation: generation, Member: "from-" + a.Lineage})
		if err != nil {
			return nil, err
		}
		first := p.Manifest(m, parts)
		first.Job, first.Lineage, first.Number, first.Generation, first.Schema, first.Created = a.Job, a.Lineage, last+1, generation, a.Schema, time.Now().UTC()
		first.Ancestor.Savepoint = label
		first.Cut, first.Origins = a.Cut.Clone(), a.Origins
		if p.SameStream() {
			if m.Ancestor != nil {
				first.Ancestor.Lines = slices.Clone(m.Ancestor.Lines)
			}
			first.Ancestor.Lines = append(first.Ancestor.Lines, snapshot.Line{Job: m.Job, Lineage: m.Lineage, Cut: m.Cut.Clone()})
			first.BadCounts = m.BadCounts
		}
		err = snapshot.Commit(ctx, chain, first)
		if errors.Is(err, tidemill.ErrExists) {
			continue // somebody took the number meanwhile
		}
		if err != nil {
			return nil, err
		}
		a.Snapshot, a.Cut, a.Round, a.Examples = first.Number, first.Cut.Clone(), first.Round, first.Examples
		return first, nil
	}
}

// top returns the number of a chain's last record and the largest generation it can know of:
// damaged records at its end count as if each had raised it by one, as fence records do.
func top(ctx context.Context, chain *snapshot.Chain) (last int64, generation uint64, err error) {
	last, _, err = chain.Last(ctx)
	if err != nil || last == 0 {
		return 0, 0, err
	}
	for n := last; n > 0; n-- {
		m, err := snapshot.ReadManifest(ctx, chain, n)
		if errors.Is(err, tidemill.ErrCorrupt) {
			generation++
			continue
		}
		if errors.Is(err, tidemill.ErrNotFound) && n < last { // all that is left is damaged
			break
		}
		if err != nil {
			return 0, 0, err
		}
		generation += m.Generation
		if m.Fence != nil {
			generation += max(m.Generation, m.Fence.Generation) - m.Generation
		}
		break
	}
	return last, generation, nil
}

// own returns the last snapshot of the run's lineage that it knows of, nil if there is none. It
// is asked for when the chain's last one is another lineage's: that of a job before this one, or
// of a start that lost a race with this one.
func (r *run) own(ctx context.Context) (*snapshot.Manifest, error) {
	n := max(r.from, r.parent)
	if n == 0 {
		return nil, nil
	}
	var m *snapshot.Manifest
	err := again(ctx, r.log, "read the job's last snapshot", func() (err error) {
		m, err = snapshot.ReadManifest(ctx, r.chain, n)
		if errors.Is(err, tidemill.ErrNotFound) {
			err = fmt.Errorf("snapshot %d of job %s is gone: %w", n, r.job, tidemill.ErrCorrupt)
		}
		return err
	})
	if err == nil && (m.Fence != nil || m.Lineage != r.line) {
		err = fmt.Errorf("snapshot %d of job %s is of another lineage: %w", n, r.job, tidemill.ErrCorrupt)
	}
	return m, err
}
