package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tidemill/tidemill"
)

// Manifest is the record that commits a snapshot: everything that a restore needs beside the
// blobs it names. As a record of a job's chain it is create-only, so writing it is the commit.
//
// With Fence set it commits nothing: it only takes the number, so that a predecessor that
// wakes up later cannot. Then Format, Job, Number, Generation and Created are the rest of it.
type Manifest struct {
	Format     int    `json:"format"`
	Fence      *Fence `json:"fence,omitempty"`
	Job        string `json:"job"`
	Model      string `json:"model,omitempty"`
	Lineage    string `json:"lineage,omitempty"`
	Number     int64  `json:"number"` // in the chain, from 1
	Generation uint64 `json:"generation"`
	// Parent is the number of the snapshot that this one continues; 0 for the first.
	Parent int64 `json:"parent,omitempty"`

	// Ancestor is what the lineage began from, in all its manifests; nil: from nothing.
	Ancestor *Ancestor `json:"ancestor,omitempty"`

	StreamTopic    string `json:"stream_topic,omitempty"`
	StreamIdentity string `json:"stream_identity,omitempty"`
	// Origins says which log each of the job's partitions reads, as Assignment.Origins does.
	Origins  []tidemill.Origin `json:"origins,omitempty"`
	Cut      tidemill.Cut      `json:"cut,omitempty"`
	Round    int64             `json:"round,omitempty"`    // last round that is in
	Examples int64             `json:"examples,omitempty"` // trained by the job so far
	// Watermark: every event up to this time is in (Unix milliseconds; 0 when unknown).
	WatermarkMS int64 `json:"watermark_ms,omitempty"`
	// Schedule holds the rounds since the parent.
	Schedule Schedule `json:"schedule,omitempty"`
	// BadRows lists the rows put aside and not known to be in the dead-letter topic when this
	// snapshot began, by partition and offset: each is in at least one manifest.
	BadRows []BadRow `json:"bad_rows,omitempty"`
	// BadCounts counts the rows put aside so far, by cause.
	BadCounts map[string]int64 `json:"bad_counts,omitempty"`

	SpecHash string        `json:"spec_hash,omitempty"`
	Spec     tidemill.Spec `json:"spec,omitzero"`
	Profile  string        `json:"profile,omitempty"`
	// Schema is the topic's Arrow schema, an IPC stream without batches.
	Schema []byte `json:"schema,omitempty"`
	// Metrics are for people; one that is not finite is left out of the record.
	Metrics map[string]float64 `json:"metrics,omitempty"`

	Layout  Layout    `json:"layout,omitzero"`
	Parts   []Part    `json:"parts,omitempty"`
	Digest  Digest    `json:"digest,omitzero"` // sum over Parts
	Created time.Time `json:"created"`
}

// Fence says who took a number of the chain without committing a snapshot.
type Fence struct {
	Generation uint64 `json:"generation"` // that begins with it
	Holder     string `json:"holder"`
}

// Ancestor is the snapshot, of another lineage, that a lineage began from.
type Ancestor struct {
	Job       string `json:"job"`
	Lineage   string `json:"lineage"`
	Snapshot  int64  `json:"snapshot"`
	Savepoint string `json:"savepoint,omitempty"` // the name it was kept under, if that is how it was named
	SpecHash  string `json:"spec_hash"`
	Digest    Digest `json:"digest"`
	Examples  int64  `json:"examples"`
	// Retired are features of earlier specs whose rows may still be in the tables: rows are
	// keyed by hashes, which do not tell whose they are. A later spec may use such a name again
	// only with the same meaning.
	Retired []RetiredFeature `json:"retired,omitempty"`
	// Lines are the lineages over the same stream that this one goes back to, oldest first, the
	// ancestor's own last.
	Lines []Line `json:"lines,omitempty"`
}

// Line is a lineage that another one goes back to.
type Line struct {
	Job     string       `json:"job"`
	Lineage string       `json:"lineage"`
	Cut     tidemill.Cut `json:"cut"` // where it was left, by its job's partitions
}

// RetiredFeature is a feature that a spec no longer has.
type RetiredFeature struct {
	Name  string   `json:"name"`
	Means []string `json:"means"` // as feature.Sense says it
}

// BadRow is a row that was put aside instead of trained.
type BadRow struct {
	Partition int    `json:"partition"` // of the job
	Offset    int64  `json:"offset"`
	Cause     string `json:"cause,omitempty"` // tidemill.BadValue and so on; absent in older records
	Reason    string `json:"reason"`
}

// Bad returns how many rows were put aside so far.
func (m *Manifest) Bad() int64 {
	if m.BadCounts == nil { // written before they were counted by cause
		return int64(m.Metrics["bad_rows"])
	}
	var n int64
	for _, k := range m.BadCounts {
		n += k
	}
	return n
}

// maxListed bounds the bad rows that a manifest lists.
const maxListed = 1 << 20

// Validate reports the first contradiction in m; it wraps tidemill.ErrInvalid.
func (m *Manifest) Validate() error {
	if m.Format < 1 || m.Format > Format {
		return tidemill.Invalid("manifest has format %d, and this program reads formats up to %d", "use the program that wrote it, or a newer one", m.Format, Format)
	}
	if err := CheckName("job", m.Job); err != nil {
		return err
	}
	if m.Number < 1 || m.Number > maxNumber {
		return tidemill.Invalid("manifest number %d", "numbers are 1 to 999999999", m.Number)
	}
	if m.Fence != nil {
		if len(m.Parts) > 0 {
			return tidemill.Invalid("manifest %d is a fence with parts", "a fence commits nothing", m.Number)
		}
		return nil
	}
	if m.Parent < 0 || m.Parent >= m.Number {
		return tidemill.Invalid("manifest %d has parent %d", "a parent comes earlier", m.Number, m.Parent)
	}
	if m.Examples < 0 || m.Round < 0 {
		return tidemill.Invalid("manifest %d has %d examples and round %d", "neither is negative", m.Number, m.Examples, m.Round)
	}
	for p, offset := range m.Cut {
		if offset < 0 {
			return tidemill.Invalid("manifest %d cuts partition %d at %d", "offsets are not negative", m.Number, p, offset)
		}
	}
	if err := m.Layout.Validate(); err != nil {
		return err
	}
	if err := m.Schedule.Validate(); err != nil {
		return err
	}
	if len(m.BadRows) > maxListed {
		return tidemill.Invalid("manifest %d lists %d bad rows", "snapshot more often", m.Number, len(m.BadRows))
	}
	if _, err := checkParts(m.Parts, func(int) bool { return false }); err != nil {
		return tidemill.Invalid("manifest %d: %v", "give each shard in one part", m.Number, err)
	}
	if n, v := countShards(m.Parts, shardsOf(m.Spec)), shardsOf(m.Spec); n != v {
		return tidemill.Invalid("manifest %d holds %d shards of %d", "wait for the parts of all shards", m.Number, n, v)
	}
	for i, p := range m.Parts {
		var sum Digest
		for _, d := range p.Digests {
			sum.Add(d)
		}
		if m.Format > 1 && (len(p.Digests) != len(p.Shards) || sum != p.Digest) {
			return tidemill.Invalid("part %d of manifest %d has %d digests for %d shards, or they do not sum up to its own", "give each shard's digest", i, m.Number, len(p.Digests), len(p.Shards))
		}
	}
	if sum := SumParts(m.Parts); sum != m.Digest {
		return tidemill.Invalid("manifest %d has digest %s, and its parts sum to %s", "use SumParts", m.Number, m.Digest, sum)
	}
	return nil
}

// shardsOf returns V of a spec.
func shardsOf(s tidemill.Spec) int {
	if s.Shards == 0 {
		return tidemill.DefaultShards
	}
	return s.Shards
}

// countShards returns how many shards in [0, v) parts hold, given that none is held twice; it
// is above v when one lies outside.
func countShards(parts []Part, v int) int {
	n := 0
	for _, p := range parts {
		for _, s := range p.Shards {
			n++
			if s < 0 || s >= v {
				n += v
			}
		}
	}
	return n
}

// ShardDigest returns the digest of one shard's state, where parts tell: those of manifests of
// format 1 do not.
func ShardDigest(parts []Part, shard int) (Digest, bool) {
	for _, p := range parts {
		if i, ok := slices.BinarySearch(p.Shards, shard); ok && len(p.Digests) == len(p.Shards) {
			return p.Digests[i], true
		}
	}
	return Digest{}, false
}

// SumParts returns the digest of the state that parts hold together.
func SumParts(parts []Part) Digest {
	var d Digest
	for _, p := range parts {
		d.Add(p.Digest)
	}
	return d
}

// Encode returns m as a record, with Format set and its checksum in it. Equal manifests give
// equal bytes. It refuses what Validate refuses, and does not change m.
func (m *Manifest) Encode() ([]byte, error) {
	out := *m
	out.Format = m.Layout.format()
	out.Created = m.Created.Round(0).UTC()
	if err := out.Validate(); err != nil {
		return nil, err
	}
	out.Metrics = finite(m.Metrics)
	return Seal(&out)
}

// finite returns m without the values that JSON cannot write.
func finite(m map[string]float64) map[string]float64 {
	if m == nil {
		return nil
	}
	out := make(map[string]float64, len(m))
	for name, v := range m {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out[name] = v
		}
	}
	return out
}

// DecodeManifest reads what Encode wrote. Any difference wraps tidemill.ErrCorrupt; another
// format tidemill.ErrInvalid.
func DecodeManifest(data []byte) (*Manifest, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := Unseal(data, &head); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if head.Format < 1 || head.Format > Format {
		return nil, (&Manifest{Format: head.Format}).Validate()
	}
	m := new(Manifest)
	if err := Unseal(data, m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("manifest is %w: %v", tidemill.ErrCorrupt, err)
	}
	return m, nil
}

// Commit appends m to a job's chain as record m.Number. See Chain.Append for its errors.
func Commit(ctx context.Context, c *Chain, m *Manifest) error {
	data, err := m.Encode()
	if err != nil {
		return err
	}
	return c.Append(ctx, m.Number, data)
}

// ReadManifest returns manifest n of a job's chain, verified.
func ReadManifest(ctx context.Context, c *Chain, n int64) (*Manifest, error) {
	data, err := c.Read(ctx, n)
	if err != nil {
		return nil, err
	}
	return decodeRecord(c, n, data)
}

func decodeRecord(c *Chain, n int64, data []byte) (*Manifest, error) {
	m, err := DecodeManifest(data)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", c.Name(n), err)
	}
	if m.Number != n {
		return nil, corrupt(c.Name(n), "it says that it is number %d", m.Number)
	}
	return m, nil
}

// Latest returns the number of a job's last record (0: there is none) and the last manifest
// that is no fence: the state to go back to (nil: none yet).
func Latest(ctx context.Context, c *Chain) (last int64, m *Manifest, err error) {
	last, data, err := c.Last(ctx)
	if err != nil || last == 0 {
		return 0, nil, err
	}
	m, err = decodeRecord(c, last, data)
	for n := last; err == nil && m.Fence != nil; m, err = ReadManifest(ctx, c, n) {
		if n--; n == 0 {
			return last, nil, nil
		}
	}
	if errors.Is(err, tidemill.ErrNotFound) {
		// Only fences are left: a collector has taken those before them. A record that is
		// missing behind others is a gap, which List finds.
		if _, err = c.List(ctx, 0); err == nil {
			return last, nil, nil
		}
	}
	if err != nil {
		return 0, nil, err
	}
	return last, m, nil
}
