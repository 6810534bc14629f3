package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	pullExpiry    = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	pullBatch     = 1024
)

// pull makes a consumer that begins at r.nextSeq and reads from it until something breaks.
//
// The requests are its own, not the client library's iterator: that one allocates for the
// most messages that fit a byte limit, and asks for more than is taken.
func (r *reader) pull(ctx context.Context) error {
	s, nc := r.p.t.s, r.p.t.s.nc
	actx, cancel := context.WithTimeout(ctx, s.cfg.AttemptTimeout)
	defer cancel()
	cons, err := r.p.st.CreateConsumer(actx, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.nextSeq,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: pullExpiry + 10*time.Second,
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return r.p.t.gone()
	}
	if err != nil {
		return wrap(err, "read %v", r.p)
	}
	name := cons.CachedInfo().Name
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return wrap(err, "read %v", r.p)
	}
	defer r.leave(ctx, sub, name)

	// A lost connection drops the request and perhaps the consumer; do not wait for the
	// heartbeat to be missed.
	status := nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-status:
		case <-ctx.Done():
		}
		sub.Unsubscribe() //nolint:errcheck // it wakes the loop below; that is all
	}()
	defer func() {
		nc.RemoveStatusListener(status)
		<-watched
	}()

	budget := s.cfg.PrefetchBytes / 2
	ask, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		MaxBytes  int           `json:"max_bytes"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{pullBatch, budget, pullExpiry, pullHeartbeat})
	if err != nil {
		return fmt.Errorf("encode a pull request: %w", err)
	}
	next := fmt.Sprintf("%sCONSUMER.MSG.NEXT.%s.%s", jetstream.DefaultAPIPrefix, streamName(r.p.t.name, r.p.p), name)
	for {
		if err := r.waitForRoom(ctx, budget); err != nil {
			return err
		}
		if err := nc.PublishRequest(next, sub.Subject, ask); err != nil {
			return wrap(err, "read %v", r.p)
		}
		if err := r.drain(ctx, sub); err != nil {
			return err
		}
	}
}

// drain takes the messages of one request until it is used up.
func (r *reader) drain(ctx context.Context, sub *nats.Subscription) error {
	for got := 0; got < pullBatch; {
		m, err := sub.NextMsg(2*pullHeartbeat + time.Second)
		if err != nil {
			return wrap(err, "read %v", r.p)
		}
		if len(m.Data) == 0 && m.Header != nil {
			switch code := m.Header.Get("Status"); code {
			case "100": // idle heartbeat
				continue
			case "404", "408":
				return nil // the request expired
			case "409":
				if strings.Contains(m.Header.Get("Description"), "MaxBytes") {
					return nil // the next message did not fit into what was left of it
				}
				return fmt.Errorf("read %v: the server ended the consumer: %s", r.p, m.Header.Get("Description"))
			case "503":
				return fmt.Errorf("read %v: %w", r.p, nats.ErrNoResponders)
			default:
				return fmt.Errorf("read %v: status %s %s", r.p, code, m.Header.Get("Description"))
			}
		}
		meta, err := m.Metadata()
		if err != nil {
			return wrap(err, "read %v", r.p)
		}
		if err := r.accept(ctx, meta.Sequence.Stream, meta.Timestamp, m.Data); err != nil {
			return err
		}
		got++
	}
	return nil
}

// waitForRoom waits until the queue holds less than budget.
func (r *reader) waitForRoom(ctx context.Context, budget int) error {
	for {
		r.mu.Lock()
		full := r.bytes >= budget
		r.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-r.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave ends the subscription and, where that takes no waiting, the consumer; the server
// drops it otherwise when it has been idle.
func (r *reader) leave(ctx context.Context, sub *nats.Subscription, consumer string) {
	sub.Unsubscribe() //nolint:errcheck // done already when the connection went
	s := r.p.t.s
	if !s.nc.IsConnected() {
		return
	}
	// The caller's context has usually ended: that is why the reader leaves.
	actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.js.DeleteConsumer(actx, streamName(r.p.t.name, r.p.p), consumer); err != nil {
		s.cfg.Logger.Debug("consumer left to expire", "partition", r.p.String(), "err", err)
	}
}
