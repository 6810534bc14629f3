package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemill/tidemill"
)

// fetcher reads one partition by offset. It belongs to one goroutine. Requests are its own, not
// a consumer's, so that it knows exactly how far it has come, over markers and aborted
// transactions too, and that nothing was skipped.
type fetcher struct {
	c        *client
	topic    string
	id       topicID
	p        int
	holes    bool // rows may be missing from the middle of the log
	leader   leader
	known    bool // leader is
	maxBytes int32
	wait     time.Duration
	unpack   kgo.Decompressor
}

func newFetcher(c *client, topic string, id topicID, p int, holes bool) *fetcher {
	return &fetcher{c: c, topic: topic, id: id, p: p, holes: holes, maxBytes: 1 << 20, unpack: kgo.DefaultDecompressor()}
}

// fetched is what one request brought: the committed records of [offset, next).
type fetched struct {
	records []*kgo.Record
	next    int64
	end     int64 // of what is committed
}

// fetch reads from offset on, waiting up to f.wait for the first record. It returns nothing, with
// next == offset, at the log's end. tidemill.ErrUnavailable may pass; other errors do not.
func (f *fetcher) fetch(ctx context.Context, offset int64) (fetched, error) {
	if !f.known {
		m, err := f.c.one(ctx, f.topic)
		switch {
		case errors.Is(err, tidemill.ErrNotFound), err == nil && m.id != f.id:
			return fetched{}, gone(f.topic)
		case err != nil:
			return fetched{}, err
		case f.p >= len(m.leaders) || m.leaders[f.p].node < 0:
			return fetched{}, fmt.Errorf("topic %q partition %d has no leader: %w", f.topic, f.p, tidemill.ErrUnavailable)
		}
		f.leader, f.known = m.leaders[f.p], true
	}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.IsolationLevel = -1, int32(f.wait.Milliseconds()), 1, 1
	req.SessionEpoch = -1
	req.MaxBytes = math.MaxInt32 // there is one partition, which has a bound of its own
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = f.topic, f.id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.CurrentLeaderEpoch, rp.PartitionMaxBytes = int32(f.p), offset, f.leader.epoch, f.maxBytes
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)

	rctx, cancel := context.WithTimeout(ctx, f.wait+f.c.cfg.AttemptTimeout)
	defer cancel()
	kresp, err := f.c.Broker(int(f.leader.node)).Request(rctx, req)
	if err != nil {
		f.known = false
		if ctx.Err() != nil {
			return fetched{}, ctx.Err()
		}
		return fetched{}, fmt.Errorf("read topic %q partition %d: %w: %w", f.topic, f.p, tidemill.ErrUnavailable, err)
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		f.known = false
		return fetched{}, wrap(err, "read topic %q partition %d", f.topic, f.p)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		f.known = false
		return fetched{}, fmt.Errorf("read topic %q partition %d: the broker answered about %d topics: %w", f.topic, f.p, len(resp.Topics), tidemill.ErrUnavailable)
	}
	part := &resp.Topics[0].Partitions[0]
	switch err := kerr.ErrorForCode(part.ErrorCode); {
	case err == nil:
	case errors.Is(err, kerr.OffsetOutOfRange):
		return fetched{}, f.outOfRange(ctx, offset)
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
		// A broker that has just become its leader, or just started, may not know of it yet.
		f.known = false
		if m, merr := f.c.one(ctx, f.topic); errors.Is(merr, tidemill.ErrNotFound) || merr == nil && m.id != f.id {
			return fetched{}, gone(f.topic)
		}
		return fetched{}, fmt.Errorf("read topic %q partition %d: %w: %w", f.topic, f.p, tidemill.ErrUnavailable, err)
	default:
		f.known = false
		return fetched{}, wrap(err, "read topic %q partition %d", f.topic, f.p)
	}
	if !f.holes {
		if from, to, ok := hole(part.RecordBatches, offset); ok {
			return fetched{}, f.compacted(from, to)
		}
	}
	opts := kgo.ProcessFetchPartitionOpts{Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: f.topic, Partition: int32(f.p)}
	fp, next := kgo.ProcessFetchPartition(opts, part, f.unpack, nil)
	if fp.Err != nil && next == offset {
		return fetched{}, fmt.Errorf("topic %q partition %d offset %d: %w: %w", f.topic, f.p, offset, tidemill.ErrCorrupt, fp.Err)
	}
	return fetched{records: fp.Records, next: next, end: part.LastStableOffset}, nil
}

func gone(topic string) error {
	return fmt.Errorf("topic %q was deleted: %w", topic, tidemill.ErrNotFound)
}

// outOfRange says why the log does not hold offset.
func (f *fetcher) outOfRange(ctx context.Context, offset int64) error {
	start, err := f.c.list(ctx, f.topic, []int{f.p}, earliest, true)
	if err != nil {
		return err
	}
	if offset < start[0] {
		return expired(f.topic, f.p, offset, start[0])
	}
	end, err := f.c.list(ctx, f.topic, []int{f.p}, latest, false)
	if err != nil {
		return err
	}
	if offset > end[0] {
		return truncated(f.topic, f.p, offset, end[0])
	}
	f.known = false
	return fmt.Errorf("topic %q partition %d: offset %d is not at hand: %w", f.topic, f.p, offset, tidemill.ErrUnavailable)
}

func (f *fetcher) compacted(from, to int64) error {
	return tidemill.Invalid("topic %q partition %d: rows of offsets [%d,%d) were compacted away",
		"set the topic's cleanup.policy to delete and produce them again; or write compacted: true under stream.kafka to train on what is left, which a replay may find to be less",
		f.topic, f.p, from, to)
}

// Where things are in a record batch of version 2.
const (
	batchMagic   = 16
	batchDelta   = 23
	batchRecords = 57
	batchHeader  = 61
)

// hole finds offsets from offset on that record batches ought to cover and do not. Brokers give
// every offset to a record or a marker, so a missing one was taken out later.
func hole(in []byte, offset int64) (from, to int64, found bool) {
	at := offset
	for len(in) >= batchHeader {
		base := int64(binary.BigEndian.Uint64(in))
		size := int(int32(binary.BigEndian.Uint32(in[8:]))) + 12
		if size < batchHeader || size > len(in) || in[batchMagic] != 2 {
			return 0, 0, false // cut short, which is another fetch's; or a format without counts
		}
		delta := int64(int32(binary.BigEndian.Uint32(in[batchDelta:])))
		records := int64(int32(binary.BigEndian.Uint32(in[batchRecords:])))
		if base > at {
			return at, base, true
		}
		if base+delta >= at && records != delta+1 {
			return max(at, base), base + delta + 1, true
		}
		at = max(at, base+delta+1)
		in = in[size:]
	}
	return 0, 0, false
}
