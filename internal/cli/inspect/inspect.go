package inspect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
)

// Offline is the state of a job that nobody can be asked about and whose snapshots do not
// tell.
const Offline = "offline"

// Report is what a store holds.
type Report struct {
	// Digest, Examples and State are those of the only job, where there is one only.
	Digest   string   `json:"digest,omitempty"`
	Examples int64    `json:"examples,omitempty"`
	State    string   `json:"state,omitempty"`
	Jobs     []Job    `json:"jobs"`
	Models   []Model  `json:"models"`
	Verified bool     `json:"verified"`         // every blob was read and compared
	Damage   []string `json:"damage,omitempty"` // what is damaged, one sentence each
	// Advice says how to go on where a job's newest snapshot is damaged, one sentence each.
	Advice []string `json:"advice,omitempty"`
}

// Job is the chain of snapshots of one job. Its own fields are those of the newest one.
type Job struct {
	Job   string `json:"job"`
	Model string `json:"model"`
	Topic string `json:"topic"`
	// State is finished for a bounded job whose last snapshot reaches its end, else Offline;
	// a caller who can ask a node knows better.
	State       string       `json:"state"`
	Digest      string       `json:"digest"`
	Examples    int64        `json:"examples"`
	Snapshot    int64        `json:"snapshot"`
	Generation  uint64       `json:"generation"`
	Cut         tidemill.Cut `json:"cut"`
	Lineage     string       `json:"lineage"`
	SpecHash    string       `json:"spec_hash"`
	WatermarkMS int64        `json:"watermark_ms,omitempty"`
	Snapshots   []Snapshot   `json:"snapshots"`
	// Intact is the newest snapshot that was verified and found whole; 0: none, or not verified.
	Intact int64 `json:"intact,omitempty"`
}

// Snapshot is one record of a job's chain.
type Snapshot struct {
	Number     int64        `json:"snapshot"`
	Fence      bool         `json:"fence,omitempty"` // it only took the number
	Parent     int64        `json:"parent,omitempty"`
	Generation uint64       `json:"generation"`
	Cut        tidemill.Cut `json:"cut,omitempty"`
	Examples   int64        `json:"examples,omitempty"`
	Digest     string       `json:"digest,omitempty"`
	Bytes      int64        `json:"bytes,omitempty"`     // that a restore reads
	Collected  bool         `json:"collected,omitempty"` // its record is kept, its blobs are not
	Created    time.Time    `json:"created"`
	Problem    string       `json:"problem,omitempty"`
}

// Model is a model's versions and what served.
type Model struct {
	Model     string              `json:"model"`
	Champion  int64               `json:"champion"` // 0: nothing serves yet
	Versions  []Version           `json:"versions"`
	Champions []tidemill.Champion `json:"champions"`
}

// Version is a version with the last decision on it.
type Version struct {
	tidemill.Version
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	By       string `json:"by,omitempty"`
	Retired  bool   `json:"retired,omitempty"` // its record is kept, its files are not
	Problem  string `json:"problem,omitempty"`
}

// Options of Look.
type Options struct {
	Verify bool
	// Progress, when given, is called before each snapshot and version that is verified.
	Progress func(what string)
}

// Open opens the store at path, a store's directory or a data directory, for reading only.
// Anything else wraps tidemill.ErrInvalid. The caller closes the bucket.
func Open(path string) (*blob.Bucket, error) {
	bad := func(what, remedy string) error {
		return &tidemill.InputError{Place: tidemill.Place{File: path}, What: what, Remedy: remedy}
	}
	const remedy = "name a node's data directory, or its folder store"
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, bad("there is no such directory", remedy)
	case errors.Is(err, os.ErrPermission):
		return nil, bad("the directory may not be read by this user", "become one who may")
	case err != nil:
		return nil, bad("the directory cannot be read", remedy)
	case !st.IsDir():
		return nil, bad("this is a file", remedy)
	}
	dir := path
	if !isStore(dir) {
		if dir = filepath.Join(path, "store"); !isStore(dir) {
			return nil, bad("there is no store in this directory", remedy)
		}
	}
	return fileblob.Open(dir, fileblob.Options{ReadOnly: true})
}

func isStore(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "FORMAT"))
	return err == nil
}

// Look reports what b holds. The error is of reading the store at all, or ctx's.
func Look(ctx context.Context, b *blob.Bucket, opts Options) (*Report, error) {
	r := &Report{Jobs: []Job{}, Models: []Model{}, Verified: opts.Verify}
	l := &look{b: b, opts: opts, r: r}
	jobs, err := folders(ctx, b, "jobs/")
	if err != nil {
		return nil, err
	}
	for _, name := range jobs {
		if err := l.job(ctx, name); err != nil {
			return nil, err
		}
	}
	models, err := folders(ctx, b, "models/")
	if err != nil {
		return nil, err
	}
	for _, name := range models {
		if err := l.model(ctx, name); err != nil {
			return nil, err
		}
	}
	if len(r.Jobs) == 1 {
		r.Digest, r.Examples, r.State = r.Jobs[0].Digest, r.Jobs[0].Examples, r.Jobs[0].State
	}
	return r, nil
}

// folders lists the names directly below prefix.
func folders(ctx context.Context, b *blob.Bucket, prefix string) ([]string, error) {
	var out []string
	it := b.List(&blob.ListOptions{Prefix: prefix, Delimiter: "/"})
	for {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if o.IsDir {
			out = append(out, strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), "/"))
		}
	}
}

// look is a Look under way.
type look struct {
	b    *blob.Bucket
	opts Options
	r    *Report
}

// damaged lists err and returns it as text, or returns err when it is none of the store's.
func (l *look) damaged(ctx context.Context, what string, err error) (string, error) {
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	l.r.Damage = append(l.r.Damage, what+": "+err.Error())
	return err.Error(), nil
}

func (l *look) verifying(what string) {
	if l.opts.Progress != nil {
		l.opts.Progress(what)
	}
}

func (l *look) job(ctx context.Context, name string) error {
	j := Job{Job: name, State: Offline, Snapshots: []Snapshot{}}
	chain, err := snapshot.Snapshots(l.b, name)
	var numbers []int64
	if err == nil {
		numbers, err = chain.List(ctx, 0)
	}
	if _, terr := snapshot.Taken(ctx, l.b, name); terr != nil {
		err = errors.Join(err, terr)
	}
	if err != nil {
		if _, err := l.damaged(ctx, "job "+name, err); err != nil {
			return err
		}
	}
	broken := false // the newest snapshot
	for _, n := range numbers {
		s, m, err := l.snapshot(ctx, chain, n)
		if err != nil {
			return err
		}
		j.Snapshots = append(j.Snapshots, s)
		if s.Problem != "" {
			broken = true
		}
		if m == nil {
			continue
		}
		if l.opts.Verify && s.Problem == "" && !s.Collected {
			j.Intact, broken = n, false
		}
		j.Model, j.Topic, j.Digest, j.Examples = m.Model, m.StreamTopic, m.Digest.String(), m.Examples
		j.Snapshot, j.Generation, j.Cut, j.Lineage = m.Number, m.Generation, m.Cut, m.Lineage
		j.SpecHash, j.WatermarkMS = m.SpecHash, m.WatermarkMS
		if end := m.Spec.Train.End; len(end) > 0 && reaches(m.Cut, end) {
			j.State = tidemill.JobFinished
		}
	}
	if l.opts.Verify && broken {
		if j.Intact > 0 {
			l.r.Advice = append(l.r.Advice, fmt.Sprintf("the newest intact snapshot of job %s is %d: go on from it with \"tidemill submit JOB.yaml --from %s/%d\"", name, j.Intact, name, j.Intact))
		} else {
			l.r.Advice = append(l.r.Advice, fmt.Sprintf("job %s has no intact snapshot: submit it again, and it trains from the beginning of the stream", name))
		}
	}
	l.r.Jobs = append(l.r.Jobs, j)
	return nil
}

// reaches reports whether cut holds everything below end.
func reaches(cut, end tidemill.Cut) bool {
	for p, o := range end {
		if o > 0 && !cut.Covers(p, o-1) {
			return false
		}
	}
	return true
}

// snapshot reads one record of a chain; m is nil for a fence and for a damaged record.
func (l *look) snapshot(ctx context.Context, chain *snapshot.Chain, n int64) (Snapshot, *snapshot.Manifest, error) {
	s := Snapshot{Number: n}
	m, err := snapshot.ReadManifest(ctx, chain, n)
	if errors.Is(err, tidemill.ErrNotFound) { // removed since it was listed
		s.Problem = "removed meanwhile"
		return s, nil, nil
	}
	if err != nil {
		s.Problem, err = l.damaged(ctx, chain.Name(n), err)
		return s, nil, err
	}
	s.Generation, s.Created = m.Generation, m.Created
	if m.Fence != nil {
		s.Fence = true
		return s, nil, nil
	}
	s.Parent, s.Cut, s.Examples, s.Digest = m.Parent, m.Cut, m.Examples, m.Digest.String()
	for _, p := range m.Parts {
		for _, b := range p.Blobs {
			s.Bytes += b.Bytes
		}
	}
	// Collected ones are not whole, and one can be collected while it is verified.
	if s.Collected = l.collected(ctx, m.Job, n); s.Collected || !l.opts.Verify {
		return s, m, nil
	}
	l.verifying(chain.Name(n))
	if err := snapshot.Verify(ctx, l.b, m); err != nil {
		if s.Collected = l.collected(ctx, m.Job, n); s.Collected {
			return s, m, nil
		}
		s.Problem, err = l.damaged(ctx, chain.Name(n), err)
		return s, m, err
	}
	return s, m, nil
}

// collected reports whether a snapshot was collected. A record of collections that cannot be
// read is listed as damage with the job.
func (l *look) collected(ctx context.Context, job string, n int64) bool {
	return errors.Is(snapshot.CheckKept(ctx, l.b, job, n), tidemill.ErrNotFound)
}

func (l *look) model(ctx context.Context, name string) error {
	m := Model{Model: name, Versions: []Version{}, Champions: []tidemill.Champion{}}
	if err := l.champions(ctx, &m); err != nil {
		return err
	}
	numbers, err := snapshot.ListVersions(ctx, l.b, name)
	if err != nil {
		if _, err := l.damaged(ctx, "model "+name, err); err != nil {
			return err
		}
	}
	for _, n := range numbers {
		v, err := l.version(ctx, name, n)
		if err != nil {
			return err
		}
		m.Versions = append(m.Versions, v)
	}
	l.r.Models = append(l.r.Models, m)
	return nil
}

func (l *look) champions(ctx context.Context, m *Model) error {
	chain, err := snapshot.Champions(l.b, m.Model)
	var numbers []int64
	if err == nil {
		numbers, err = chain.List(ctx, 0)
	}
	if err != nil {
		_, err := l.damaged(ctx, "champions of "+m.Model, err)
		return err
	}
	for _, n := range numbers {
		c, err := snapshot.ReadChampion(ctx, chain, n)
		if errors.Is(err, tidemill.ErrNotFound) {
			continue
		}
		if err != nil {
			if _, err := l.damaged(ctx, chain.Name(n), err); err != nil {
				return err
			}
			continue
		}
		m.Champions = append(m.Champions, c)
		if c.Kind != snapshot.ChampionFence {
			m.Champion = c.Version
		}
	}
	return nil
}

func (l *look) version(ctx context.Context, model string, n int64) (Version, error) {
	what := fmt.Sprintf("model %s, version %d", model, n)
	v := Version{Version: tidemill.Version{Model: model, Number: n}, Decision: tidemill.Held, Reason: "under test"}
	rec, err := snapshot.ReadVersionRecord(ctx, l.b, model, n)
	if err != nil {
		v.Problem, err = l.damaged(ctx, what, err)
		return v, err
	}
	v.Version = rec
	switch d, err := snapshot.ReadDecision(ctx, l.b, model, n); {
	case err == nil:
		v.Decision, v.Reason, v.By = d.Decision, d.Reason, d.By
	case !errors.Is(err, tidemill.ErrNotFound):
		if v.Problem, err = l.damaged(ctx, what, err); err != nil {
			return v, err
		}
	}
	if l.opts.Verify {
		l.verifying(what)
		if _, err := snapshot.ReadVersion(ctx, l.b, model, n); errors.Is(err, tidemill.ErrNotFound) {
			v.Retired = true
		} else if err != nil {
			if v.Problem, err = l.damaged(ctx, what, err); err != nil {
				return v, err
			}
		}
	}
	return v, nil
}
