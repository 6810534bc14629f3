package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
)

// Retain implements source.Topic. Rows below the lowest cut of all holders are dropped only
// under pressure: when a partition is above 80 % of what it may keep, and only while there
// is a holder. A cut below what is still held is tidemill.ErrNotFound.
func (t *topic) Retain(ctx context.Context, holder string, cut tidemill.Cut) error {
	if err := source.CheckName("holder", holder); err != nil {
		return err
	}
	if err := t.s.check(); err != nil {
		return err
	}
	kv, err := t.s.bucket(ctx)
	if err != nil {
		return err
	}
	key := holderKey(t.name, t.identity, holder)
	if cut == nil {
		if err := kv.Delete(ctx, key); err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return wrap(err, "release holder %q of topic %q", holder, t.name)
		}
		return nil
	}
	if err := source.CheckCut(t.name, cut, len(t.partitions())); err != nil {
		return err
	}
	b, err := json.Marshal(cut)
	if err != nil {
		return fmt.Errorf("encode the cut of holder %q: %w", holder, err)
	}
	if err := t.checkFloor(ctx, cut); err != nil {
		return err
	}
	if _, err := kv.Put(ctx, key, b); err != nil {
		return wrap(err, "hold topic %q for %q", t.name, holder)
	}
	// A purge raises the floor first and looks for holders again afterwards; a holder is
	// written first and looks at the floor afterwards. One of the two sees the other.
	if err := t.checkFloor(ctx, cut); err != nil {
		if derr := kv.Delete(ctx, key); derr != nil {
			return errors.Join(err, wrap(derr, "release holder %q of topic %q", holder, t.name))
		}
		return err
	}
	for _, p := range t.partitions() {
		if err := p.relieve(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkFloor returns tidemill.ErrNotFound when rows from cut on are no longer all held.
func (t *topic) checkFloor(ctx context.Context, cut tidemill.Cut) error {
	r, _, err := t.record(ctx)
	if err != nil {
		return err
	}
	parts := t.partitions()
	for p, floor := range r.Floor {
		from := int64(0)
		if p < len(cut) {
			from = cut[p]
		}
		if from >= floor || p >= len(parts) {
			continue
		}
		b, err := parts[p].bounds(ctx)
		if err != nil {
			return err
		}
		if from < b.firstOffset {
			return source.Dropped(t.name, p, from, b.firstOffset)
		}
	}
	return nil
}

// relieve purges when the partition is above 80 % of a bound that will not rise.
func (p *partition) relieve(ctx context.Context) error {
	if p.t.s.cfg.MaxPartitionBytes == 0 {
		return nil // it grows first; makeRoom purges when it cannot
	}
	info, err := p.st.Info(ctx)
	if err != nil {
		return wrap(err, "measure %v", p)
	}
	if limit := info.Config.MaxBytes; limit <= 0 || info.State.Bytes <= uint64(limit)/5*4 {
		return nil
	}
	_, err = p.purge(ctx)
	return err
}

// makeRoom grows a full partition, or else drops what no holder needs. It reports whether
// an append is worth another try.
func (p *partition) makeRoom(ctx context.Context, cause error) (bool, error) {
	if apiCode(cause) == codeStoreFailed { // the partition's own bound, or the disk
		grown, err := p.grow(ctx)
		if grown || err != nil {
			return grown, err
		}
	}
	return p.purge(ctx)
}

// grow reserves more of the server's store, by doubling and then by steps.
func (p *partition) grow(ctx context.Context) (bool, error) {
	if p.t.s.cfg.MaxPartitionBytes != 0 {
		return false, nil
	}
	info, err := p.st.Info(ctx)
	if err != nil {
		return false, wrap(err, "measure %v", p)
	}
	cfg := info.Config
	if cfg.MaxBytes <= 0 || uint64(cfg.MaxBytes) > info.State.Bytes+maxMessageBytes {
		return cfg.MaxBytes > 0, nil // another producer has grown it
	}
	for step := min(max(cfg.MaxBytes, minReserve), maxStep); step >= minReserve; step /= 4 {
		next := cfg
		next.MaxBytes += step
		_, err := p.t.s.js.UpdateStream(ctx, next)
		if err == nil {
			return true, nil
		}
		if !isFull(err) {
			return false, wrap(err, "grow %v", p)
		}
	}
	return false, nil
}

// full is the error for an append that found no room.
func (p *partition) full(ctx context.Context, size int, cause error) error {
	limit := "the server's store limit"
	if info, err := p.st.Info(ctx); err == nil && info.Config.MaxBytes > 0 {
		limit = fmt.Sprintf("its limit of %d bytes (it holds %d)", info.Config.MaxBytes, info.State.Bytes)
		if p.t.s.cfg.MaxPartitionBytes == 0 {
			limit += ", and the server's store has no more to give"
		}
	}
	return fmt.Errorf("append %d bytes to %v: it has reached %s; what was there before is intact: %w: %w", size, p, limit, tidemill.ErrFull, cause)
}

// floor returns the lowest offset of this partition that some holder needs; ok is false
// without holders.
func (p *partition) floor(ctx context.Context) (floor int64, ok bool, err error) {
	all, err := p.t.s.entries(ctx, holderKeys(p.t.name, p.t.identity))
	if err != nil {
		return 0, false, err
	}
	floor = -1
	for key, value := range all {
		var cut tidemill.Cut
		if err := json.Unmarshal(value, &cut); err != nil {
			return 0, false, fmt.Errorf("the cut of holder %q cannot be read: %w", unescape(key[strings.LastIndexByte(key, '.')+1:]), tidemill.ErrCorrupt)
		}
		from := int64(0) // a holder from before the topic grew needs all of this partition
		if p.p < len(cut) {
			from = cut[p.p]
		}
		if floor < 0 || from < floor {
			floor = from
		}
	}
	return floor, len(all) > 0, nil
}

// purge drops the messages that lie wholly below every holder's cut, never the last one. It
// reports whether there were any.
func (p *partition) purge(ctx context.Context) (bool, error) {
	floor, ok, err := p.floor(ctx)
	if err != nil || !ok {
		return false, err
	}
	b, err := p.bounds(ctx)
	if err != nil || b.empty() {
		return false, err
	}
	if floor = min(floor, b.next-1); floor <= b.firstOffset {
		return false, nil
	}
	keep, err := p.find(ctx, b, floor)
	if err != nil || keep <= b.firstSeq {
		return false, err
	}
	if err := p.raiseFloor(ctx, floor); err != nil {
		return false, err
	}
	if now, ok, err := p.floor(ctx); err != nil || !ok || now < floor {
		return false, err // a holder came meanwhile; the next pressure tries again
	}
	if err := p.keepKeys(ctx, keep); err != nil {
		return false, err
	}
	if err := p.st.Purge(ctx, jetstream.WithPurgeSequence(keep)); err != nil {
		return false, wrap(err, "purge %v", p)
	}
	p.t.s.cfg.Logger.Info("dropped rows that no holder needs", "topic", p.t.name, "partition", p.p, "below", floor)
	return true, nil
}

// raiseFloor announces a purge in the topic's record.
func (p *partition) raiseFloor(ctx context.Context, floor int64) error {
	for {
		r, rev, err := p.t.record(ctx)
		if err != nil {
			return err
		}
		if len(r.Floor) < r.Partitions {
			r.Floor = append(slices.Clone(r.Floor), make(tidemill.Cut, r.Partitions-len(r.Floor))...)
		}
		if r.Floor[p.p] >= floor {
			return nil
		}
		r.Floor[p.p] = floor
		if _, err = p.t.s.store(ctx, p.t.name, r, rev); !errors.Is(err, tidemill.ErrConflict) {
			return err
		}
	}
}

// keepKeys saves the last keys whose messages lie before sequence keep.
func (p *partition) keepKeys(ctx context.Context, keep uint64) error {
	info, err := p.st.Info(ctx, jetstream.WithSubjectFilter(p.subjects()))
	if err != nil {
		return wrap(err, "list the key prefixes of %v", p)
	}
	for subj := range info.State.Subjects {
		token := subj[strings.LastIndexByte(subj, '.')+1:]
		if token == noPrefix {
			continue
		}
		m, err := p.last(ctx, token)
		if err != nil {
			return err
		}
		if m.seq < keep {
			if err := p.keepKey(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}
