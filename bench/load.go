package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/rpc"
)

// load asks serving for predictions as a client that knows all replicas does: a request goes to
// one replica, and when that one does not answer within tryFor, or says that it cannot, to the
// next. A prediction changes nothing, so asking again is always right.
type load struct {
	conns   []*grpc.ClientConn
	clients []*infer.Client
	ask     questions

	mu       sync.Mutex
	requests int64
	retried  int64 // not answered by the first replica asked
	failed   int64 // answered by none
	versions map[int64]bool
	problems []string
}

// questions is what clients ask about a model.
type questions struct {
	model   string
	columns []string
	rows    func(r *rand.Rand) arrow.RecordBatch  // the caller releases it
	wrong   func(a infer.Answer, rows int) string // "" when the answer may be right
}

const (
	tryFor    = time.Second           // an answer takes milliseconds
	askEvery  = 20 * time.Millisecond // between two requests
	askedMost = 256                   // requests under way
)

// newLoad prepares clients of the replicas at addrs. The caller closes it.
func newLoad(addrs []string, ask questions) (*load, error) {
	l := &load{ask: ask, versions: map[int64]bool{}}
	for _, a := range addrs {
		conn, err := rpc.Dial(a, rpc.ClientConfig{})
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, conn)
		l.clients = append(l.clients, infer.New(conn))
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// answers waits until every replica has answered once.
func (l *load) answers(ctx context.Context) error {
	rows := l.ask.rows(rand.New(rand.NewPCG(0, 0)))
	defer rows.Release()
	for i := range l.clients {
		for {
			_, err := l.try(ctx, i, rows)
			if err == nil {
				break
			}
			if !pause(ctx, askEvery) {
				return fmt.Errorf("replica %d never answered: %w", i+1, err)
			}
		}
	}
	return nil
}

// run asks at a steady rate until ctx ends and all that was asked is answered.
func (l *load) run(ctx context.Context, r *rand.Rand) {
	var asked sync.WaitGroup
	defer asked.Wait()
	room := make(chan struct{}, askedMost)
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		rows := l.ask.rows(r)
		asked.Go(func() {
			defer func() { <-room }()
			defer rows.Release()
			l.request(context.WithoutCancel(ctx), n, rows)
		})
	}
}

// request carries out request n: every replica is tried twice before it counts as failed.
func (l *load) request(ctx context.Context, n int, rows arrow.RecordBatch) {
	var err error
	for attempt := range 2 * len(l.clients) {
		var a infer.Answer
		if a, err = l.try(ctx, (n+attempt)%len(l.clients), rows); err != nil {
			continue
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.requests++
		if attempt > 0 {
			l.retried++
		}
		l.versions[a.Version] = true
		if what := l.ask.wrong(a, int(rows.NumRows())); what != "" {
			l.problem(what)
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests++
	l.failed++
	l.problem(fmt.Sprintf("request %d was answered by no replica: %v", n, err))
}

// problem keeps a few. mu is held.
func (l *load) problem(s string) {
	if len(l.problems) < 20 {
		l.problems = append(l.problems, s)
	}
}

func (l *load) try(ctx context.Context, replica int, rows arrow.RecordBatch) (infer.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	return l.clients[replica].Predict(ctx, l.ask.model, "", l.ask.columns, rows)
}

// integers is rows of int64 columns, filled in by value.
func integers(columns []string, rows int, value func(column int) int64) arrow.RecordBatch {
	fields := make([]arrow.Field, len(columns))
	for i, c := range columns {
		fields[i] = arrow.Field{Name: c, Type: arrow.PrimitiveTypes.Int64}
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema(fields, nil))
	defer b.Release()
	for range rows {
		for i := range columns {
			b.Field(i).(*array.Int64Builder).Append(value(i))
		}
	}
	return b.NewRecordBatch()
}

// totals returns what was counted so far.
func (l *load) totals() (requests, retried, failed int64, versions []int64, problems []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for v := range l.versions {
		versions = append(versions, v)
	}
	slices.Sort(versions)
	return l.requests, l.retried, l.failed, versions, slices.Clone(l.problems)
}

// unpublished returns those of versions that no champion record names.
func unpublished(versions []int64, champions []tidemill.Champion) []int64 {
	known := map[int64]bool{}
	for _, c := range champions {
		known[c.Version] = true
	}
	var out []int64
	for _, v := range versions {
		if !known[v] {
			out = append(out, v)
		}
	}
	return out
}

// pause waits d; it reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
