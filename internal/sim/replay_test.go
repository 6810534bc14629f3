package sim_test

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/ps"
	"github.com/tidemill/tidemill/trainer"
	"github.com/tidemill/tidemill/worker"
)

// took is one recorded step: the event, and what followed from it in the real run.
type took[C, Ev, Ef any] struct {
	cfg     C
	ev      Ev
	effects []Ef
}

// TestARealRunReplays records every step of the three cores in a real node and takes the same
// steps on new cores. The same effects mean that nothing outside the cores keeps protocol
// state: what the simulator tests is what runs.
func TestARealRunReplays(t *testing.T) {
	var mu sync.Mutex
	var pss []took[int, ps.Event, ps.Effect]
	var trainers []took[trainer.CoreConfig, trainer.Event, trainer.Effect]
	workers := map[string][]took[worker.CoreConfig, worker.Event, worker.Effect]{}
	cfg := node.Config{
		DataDir: t.TempDir(), Gossip: "-", Stream: "-", GRPC: "-", HTTP: "-", RPC: "127.0.0.1:0", Slots: 2,
		Logger: slog.New(slog.DiscardHandler),
		RecordPS: func(_ string, ev *ps.Event, effects []ps.Effect) {
			mu.Lock()
			defer mu.Unlock()
			pss = append(pss, took[int, ps.Event, ps.Effect]{0, *ev, slices.Clone(effects)})
		},
		RecordTrainer: func(_ string, c trainer.CoreConfig, ev *trainer.Event, effects []trainer.Effect) {
			mu.Lock()
			defer mu.Unlock()
			trainers = append(trainers, took[trainer.CoreConfig, trainer.Event, trainer.Effect]{c, *ev, slices.Clone(effects)})
		},
		RecordWorker: func(of string, c worker.CoreConfig, ev *worker.Event, effects []worker.Effect) {
			mu.Lock()
			defer mu.Unlock()
			workers[of] = append(workers[of], took[worker.CoreConfig, worker.Event, worker.Effect]{c, *ev, slices.Clone(effects)})
		},
	}
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	nctx, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- n.Run(nctx) }()
	defer func() { stop(); <-ran }()
	select {
	case <-n.Ready():
	case err := <-ran:
		ran <- nil
		t.Fatal(err)
	}
	schema := arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Int64, Nullable: true}, {Name: "y", Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)
	topic, err := n.Stream().Create(ctx, "t", 2, schema)
	if err != nil {
		t.Fatal(err)
	}
	defer topic.Close()
	for p := range 2 {
		b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
		for i := range 500 + 100*p {
			b.Field(0).(*array.Int64Builder).Append(int64(i % 7))
			b.Field(1).(*array.Int64Builder).Append(int64(i % 2))
		}
		rec := b.NewRecordBatch()
		if _, err := topic.Append(ctx, p, rec, ""); err != nil {
			t.Fatal(err)
		}
		rec.Release()
		b.Release()
	}
	doc, err := spec.Parse([]byte(`
model: replay
stream: {topic: t}
label: {column: y, positive: 1}
features: [{column: x, hash: {}}]
architecture: {kind: logistic}
train: {batch: 7, snapshot: {every: 200 rows}, until_end: true}
gate: {mode: off}
`), "job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, func() bool { tr := n.Trainer(); return tr != nil && tr.Leads() })
	if _, err := n.Trainer().SubmitSpec(ctx, doc); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, func() bool {
		st, err := n.Trainer().Status(ctx, "replay")
		if err == nil && st.State == tidemill.JobFailed {
			t.Fatal(st.Reason)
		}
		return err == nil && st.State == tidemill.JobFinished && st.Examples == 1100
	})
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	ran <- nil
	mu.Lock()
	defer mu.Unlock()

	core := ps.NewCore(0)
	for i, s := range pss {
		same(t, fmt.Sprintf("ps step %d (%+v)", i, s.ev.Kind), s.effects, core.Step(&s.ev))
	}
	lead := trainer.NewCore(trainers[0].cfg)
	for i, s := range trainers {
		same(t, fmt.Sprintf("trainer step %d (%+v)", i, s.ev.Kind), s.effects, lead.Step(&s.ev))
	}
	for of, steps := range workers {
		c := worker.NewCore(steps[0].cfg)
		for i, s := range steps {
			same(t, fmt.Sprintf("worker %s step %d (%+v)", of, i, s.ev.Kind), s.effects, c.Step(&s.ev))
		}
	}
	if len(pss) < 300 || len(trainers) < 20 || len(workers) != 2 {
		t.Errorf("recorded %d ps steps, %d trainer steps, %d partitions", len(pss), len(trainers), len(workers))
	}
}

func same[E any](t *testing.T, where string, want, got []E) {
	t.Helper()
	if len(want) == 0 && len(got) == 0 {
		return
	}
	if a, b := fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got); a != b && !reflect.DeepEqual(want, got) {
		t.Fatalf("%s:\nreal   %s\nreplay %s", where, a, b)
	}
}

// eventually waits for cond, which is asked often.
func eventually(t *testing.T, ctx context.Context, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatal("it did not come to pass")
		case <-tick.C:
		}
	}
}
