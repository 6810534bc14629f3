package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemill/tidemill"
)

// ahead fetches and decodes ahead of a reader, within Config.PrefetchBytes, on a connection of its
// own. One goroutine does it, and starts over where it was whenever a broker or a leader is lost.
type ahead struct {
	name   string // what is read, for messages
	cfg    *Config
	c      *client
	fetch  *fetcher
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended

	// decode makes batches of records of [from, next), in order. It belongs to the goroutine.
	decode func(ctx context.Context, got fetched, from int64) ([]tidemill.Batch, error)
	// free releases what decode keeps, once the goroutine has ended.
	free func()

	wake chan struct{} // holds one: something was queued, or err was set
	room chan struct{} // holds one: something was taken

	mu    sync.Mutex
	queue []tidemill.Batch // guarded by mu
	sizes []int            // guarded by mu; bytes of each in queue
	bytes int              // guarded by mu; sum of sizes
	nrows int              // guarded by mu; of queue
	end   int64            // guarded by mu; the log's end as heard, in the offsets of the batches
	err   error            // guarded by mu; why there will be no more

	at int64 // Kafka's offset to go on from; the goroutine's
}

// longPoll is how long a broker may keep a request that finds no record.
const longPoll = 500 * time.Millisecond

func (s *Stream) newAhead(topic string, id topicID, p int, holes bool, at, end int64) (*ahead, error) {
	c, err := newClient(&s.cfg, s.secure)
	if err != nil {
		return nil, err
	}
	a := &ahead{
		name: fmt.Sprintf("topic %q partition %d", topic, p), cfg: &s.cfg, c: c, at: at, end: end,
		fetch: newFetcher(c, topic, id, p, holes), done: make(chan struct{}),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	a.fetch.wait = longPoll
	a.fetch.maxBytes = int32(min(s.cfg.PrefetchBytes/2, 4<<20))
	return a, nil
}

// start begins to read; decode and free are set.
func (a *ahead) start() {
	// The reader lives until Close, longer than the call that made it.
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	go a.run(ctx)
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (a *ahead) run(ctx context.Context) {
	defer close(a.done)
	defer a.free()
	const least, most = 20 * time.Millisecond, time.Second
	wait := least
	for {
		err := a.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = least
			continue
		}
		if !passing(err) {
			a.mu.Lock()
			a.err = err
			a.mu.Unlock()
			signal(a.wake)
			return
		}
		a.cfg.Logger.Debug("reader starts over", "of", a.name, "offset", a.at, "err", err)
		if pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, most)
	}
}

// step waits for room and fetches once.
func (a *ahead) step(ctx context.Context) error {
	for {
		a.mu.Lock()
		full := a.bytes >= a.cfg.PrefetchBytes/2
		a.mu.Unlock()
		if !full {
			break
		}
		select {
		case <-a.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	got, err := a.fetch.fetch(ctx, a.at)
	if err != nil || got.next == a.at {
		return err
	}
	batches, err := a.decode(ctx, got, a.at)
	if err != nil {
		return err
	}
	size := 0
	for _, r := range got.records {
		size += len(r.Value) + 64
	}
	a.at = got.next
	if len(batches) == 0 {
		return nil
	}
	a.mu.Lock()
	for _, b := range batches {
		a.queue = append(a.queue, b)
		a.sizes = append(a.sizes, size/len(batches))
		a.bytes += size / len(batches)
		a.nrows += int(b.Rows.NumRows())
		a.end = max(a.end, b.Range.Next)
	}
	a.mu.Unlock()
	signal(a.wake)
	return nil
}

// take removes the queue's first batch.
func (a *ahead) take() (tidemill.Batch, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return tidemill.Batch{}, false
	}
	b := a.queue[0]
	a.queue[0] = tidemill.Batch{}
	a.bytes -= a.sizes[0]
	a.nrows -= int(b.Rows.NumRows())
	a.queue, a.sizes = a.queue[1:], a.sizes[1:]
	signal(a.room)
	return b, true
}

// wait waits until there is something to take, or never will be.
func (a *ahead) wait(ctx context.Context) error {
	a.mu.Lock()
	err, empty := a.err, len(a.queue) == 0
	a.mu.Unlock()
	if !empty {
		return nil
	}
	if err != nil {
		return err
	}
	select {
	case <-a.wake:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// buffered returns the rows that are queued and the log's end as heard.
func (a *ahead) buffered() (rows int, end int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nrows, a.end
}

func (a *ahead) close() {
	a.cancel()
	<-a.done
	a.c.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.queue {
		b.Rows.Release()
	}
	a.queue, a.sizes, a.bytes, a.nrows = nil, nil, 0, 0
	a.err = fmt.Errorf("the reader is closed: %w", tidemill.ErrUnavailable)
}

// release frees batches that will not be queued, and returns err.
func release(batches []tidemill.Batch, err error) ([]tidemill.Batch, error) {
	for _, b := range batches {
		b.Rows.Release()
	}
	return nil, err
}

// hollow reports a record without a value, which deletes in compacted topics and holds no row.
func hollow(r *kgo.Record) bool { return r.Value == nil }
