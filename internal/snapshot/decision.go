package snapshot

import (
	"context"
	"fmt"
	"slices"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
)

// WriteDecision appends a decision on a version to those before it and returns its number
// among them: 1, 2, …. A held version can be published later; what was said of it stays.
// tidemill.ErrExists means that somebody else decided at the same time: read, then decide
// again. A value of evidence that is not finite is left out.
func WriteDecision(ctx context.Context, b *blob.Bucket, d tidemill.Decision) (int64, error) {
	c, err := decisions(b, d.Model, d.Version)
	if err != nil {
		return 0, err
	}
	switch d.Decision {
	case tidemill.Published, tidemill.Held, tidemill.Rejected, tidemill.Superseded:
	default:
		return 0, tidemill.Invalid("decision %q", "decide published, held, rejected or superseded", clip(d.Decision))
	}
	d.At = d.At.Round(0).UTC()
	d.Evidence = slices.Clone(d.Evidence)
	for i := range d.Evidence {
		d.Evidence[i].Values = finite(d.Evidence[i].Values)
	}
	record, err := Seal(&d)
	if err != nil {
		return 0, err
	}
	last, _, err := c.Last(ctx)
	if err != nil {
		return 0, err
	}
	return last + 1, c.Append(ctx, last+1, record)
}

// ReadDecision returns the last decision on a version, or tidemill.ErrNotFound when there is
// none yet.
func ReadDecision(ctx context.Context, b *blob.Bucket, model string, version int64) (tidemill.Decision, error) {
	c, err := decisions(b, model, version)
	if err != nil {
		return tidemill.Decision{}, err
	}
	n, data, err := c.Last(ctx)
	if err != nil {
		return tidemill.Decision{}, err
	}
	if n == 0 {
		return tidemill.Decision{}, fmt.Errorf("decision on version %d of model %s: %w", version, model, tidemill.ErrNotFound)
	}
	return decodeDecision(c.Name(n), data, model, version)
}

// ReadDecisions returns all decisions on a version, oldest first.
func ReadDecisions(ctx context.Context, b *blob.Bucket, model string, version int64) ([]tidemill.Decision, error) {
	c, err := decisions(b, model, version)
	if err != nil {
		return nil, err
	}
	all, err := c.List(ctx, 0)
	if err != nil {
		return nil, err
	}
	out := make([]tidemill.Decision, len(all))
	for i, n := range all {
		data, err := c.Read(ctx, n)
		if err != nil {
			return nil, err
		}
		if out[i], err = decodeDecision(c.Name(n), data, model, version); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func decodeDecision(name string, data []byte, model string, version int64) (tidemill.Decision, error) {
	var d tidemill.Decision
	if err := Unseal(data, &d); err != nil {
		return tidemill.Decision{}, fmt.Errorf("blob %s: %w", name, err)
	}
	if d.Model != model || d.Version != version {
		return tidemill.Decision{}, corrupt(name, "it is about version %d of %q", d.Version, clip(d.Model))
	}
	return d, nil
}

// AppendChampion appends rec, whose Seq is the number it takes, to a model's champion chain.
// See Chain.Append for its errors.
func AppendChampion(ctx context.Context, c *Chain, rec tidemill.Champion) error {
	if err := CheckName("model", rec.Model); err != nil {
		return err
	}
	if fence := rec.Kind == ChampionFence; rec.Version < 0 || fence != (rec.Version == 0) {
		return tidemill.Invalid("champion record of kind %q names version %d", "a fence names none, anything else one", clip(rec.Kind), rec.Version)
	}
	rec.At = rec.At.Round(0).UTC()
	record, err := Seal(&rec)
	if err != nil {
		return err
	}
	return c.Append(ctx, rec.Seq, record)
}

// ChampionFence is the kind of a champion record that only takes a number.
const ChampionFence = "fence"

// ReadChampion returns record n of a model's champion chain, fences included.
func ReadChampion(ctx context.Context, c *Chain, n int64) (tidemill.Champion, error) {
	data, err := c.Read(ctx, n)
	if err != nil {
		return tidemill.Champion{}, err
	}
	return decodeChampion(c, n, data)
}

func decodeChampion(c *Chain, n int64, data []byte) (tidemill.Champion, error) {
	var rec tidemill.Champion
	if err := Unseal(data, &rec); err != nil {
		return tidemill.Champion{}, fmt.Errorf("blob %s: %w", c.Name(n), err)
	}
	if rec.Seq != n {
		return tidemill.Champion{}, corrupt(c.Name(n), "it says that it is number %d", rec.Seq)
	}
	return rec, nil
}

// LastChampion returns the number of a model's last champion record (0: there is none) and
// the last record that is no fence: what serves (nil: nothing yet).
func LastChampion(ctx context.Context, c *Chain) (last int64, serves *tidemill.Champion, err error) {
	last, data, err := c.Last(ctx)
	if err != nil || last == 0 {
		return 0, nil, err
	}
	rec, err := decodeChampion(c, last, data)
	for n := last; err == nil && rec.Kind == ChampionFence; rec, err = ReadChampion(ctx, c, n) {
		if n--; n == 0 {
			return last, nil, nil
		}
	}
	if err != nil {
		return 0, nil, err
	}
	return last, &rec, nil
}
