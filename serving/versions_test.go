package serving

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemill/tidemill/internal/predict/predicttest"
	pb "github.com/tidemill/tidemill/serving/servingpb"
)

// ask returns which version answers a request for version.
func (w *world) ask(version string) (string, error) {
	rows := predicttest.Rows(1, 1)
	defer rows.Release()
	r := typed("m", rows)
	r.ModelVersion = version
	resp, err := w.client.ModelInfer(context.Background(), r)
	return resp.GetModelVersion(), err
}

// value reads a counter or gauge.
func value(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

func (w *world) answers(version, want string) {
	w.t.Helper()
	if got, err := w.ask(version); got != want || err != nil {
		w.t.Fatalf("version %q is answered by %q, %v; want %q", version, got, err, want)
	}
}

func TestPreviousVersionsStay(t *testing.T) {
	registry := prometheus.NewRegistry()
	retired := make(chan int64, 10)
	cfg := Config{Models: []string{"m"}, Metrics: registry}
	cfg.OnRetired = func(_ string, version int64) { retired <- version }
	w := start(t, cfg)
	for v := int64(1); v <= 4; v++ {
		w.publish("m", v)
	}
	w.answers("", "4")
	w.answers("champion", "4")
	w.answers("3", "3")
	w.answers("2", "2")
	if _, err := w.ask("1"); status.Code(err) != codes.NotFound {
		t.Fatalf("version 1 was not let go: %v", err)
	}
	if v := <-retired; v != 1 {
		t.Fatalf("version %d retired, want 1", v)
	}
	m := w.server.metrics
	if got := value(t, m.version.WithLabelValues("m", "champion")); got != 4 {
		t.Errorf("champion gauge %v", got)
	}
	if got := value(t, m.loads.WithLabelValues("m", "loaded")); got != 4 {
		t.Errorf("%v loads", got)
	}
	if got := value(t, m.requests.WithLabelValues("m", "grpc", "NotFound")); got != 1 {
		t.Errorf("%v requests not found", got)
	}
	families, err := registry.Gather()
	if err != nil || len(families) < 6 {
		t.Errorf("%d metric families, %v", len(families), err)
	}

	// A rollback to a kept version is a flip without a load, and the only way back.
	w.crown("m", 2)
	w.await(2)
	w.answers("", "2")
	w.answers("4", "4")
	w.answers("3", "3")
	if got := value(t, m.loads.WithLabelValues("m", "loaded")); got != 4 {
		t.Errorf("%v loads after a rollback to a version in memory", got)
	}
	// To one that left memory it is a load.
	w.crown("m", 1)
	w.await(1)
	w.answers("", "1")
	if w.server.Live("m") != 1 || w.server.Live("other") != 0 {
		t.Error("Live")
	}
}

func TestPinnedVersionOutlivesItsRetirement(t *testing.T) {
	retired := make(chan int64, 10)
	cfg := Config{Models: []string{"m"}}
	cfg.OnRetired = func(_ string, version int64) { retired <- version }
	w := start(t, cfg)
	w.publish("m", 1)
	v, err := w.server.model("m").acquire("")
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(2); n <= 5; n++ {
		w.publish("m", n)
	}
	if got := <-retired; got != 2 {
		t.Fatalf("version %d retired first, want 2: a reader holds 1", got)
	}
	if v.number != 1 || !v.pin() {
		t.Fatal("the pinned version is gone")
	}
	v.release()
	v.release()
	if got := <-retired; got != 1 {
		t.Fatalf("version %d retired, want 1", got)
	}
	if v.pin() {
		t.Fatal("a retired version was pinned again")
	}
}

// A version that cannot be served leaves the one that is, and the next good one takes over.
func TestBadVersionsAreNotServed(t *testing.T) {
	w := start(t, Config{Models: []string{"m"}, Poll: 10 * time.Millisecond})
	w.publish("m", 1)
	ctx := context.Background()
	failed := func() float64 { return value(t, w.server.metrics.loads.WithLabelValues("m", "failed")) }
	awaitFailure := func(before float64) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for failed() == before {
			if time.Now().After(deadline) {
				t.Fatal("the bad version was not tried")
			}
			w.server.Hint("m")
		}
		w.answers("", "1")
		if !w.server.Ready() {
			t.Fatal("a bad version made the server unready")
		}
	}
	// 2 was never written.
	before := failed()
	w.crown("m", 2)
	awaitFailure(before)
	// 3 answers its probes differently, 4 is not finite.
	parity := predicttest.Files(t, "m", 3)
	parity.Probes.Expected[0] += 0.01
	w.write(parity)
	before = failed()
	w.crown("m", 3)
	awaitFailure(before)
	nan := predicttest.Files(t, "m", 4)
	nan.Tables[0].Weights[0] /= 0
	w.write(nan)
	before = failed()
	w.crown("m", 4)
	awaitFailure(before)
	// 5 loses a blob between publish and load.
	w.write(predicttest.Files(t, "m", 5))
	it := w.store.List(nil)
	for {
		o, err := it.Next(ctx)
		if err != nil {
			break
		}
		if strings.Contains(o.Key, "version/000000005/") && strings.HasSuffix(o.Key, "tensors.arrow") {
			if err := w.store.Delete(ctx, o.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	before = failed()
	w.crown("m", 5)
	awaitFailure(before)
	w.publish("m", 6)
	w.answers("", "6")
}

func TestFencesAndOtherModels(t *testing.T) {
	w := start(t, Config{}) // every model of the store
	if _, err := w.ask(""); status.Code(err) != codes.NotFound {
		t.Fatal(err)
	}
	w.crown("m", 0) // a fence: the model is known and has nothing to serve
	deadline := time.Now().Add(20 * time.Second)
	for _, err := w.ask(""); status.Code(err) != codes.Unavailable; _, err = w.ask("") {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		w.server.Hint("m")
	}
	w.publish("m", 1)
	w.crown("m", 0)
	w.publish("n", 5)
	w.answers("", "1")
	if w.server.Live("n") != 5 {
		t.Fatal("the second model is not live")
	}
	w.publish("m", 2)
	w.answers("", "2")
	if r, err := w.client.ServerReady(context.Background(), &pb.ServerReadyRequest{}); err != nil || !r.GetReady() {
		t.Fatal("not ready", err)
	}
}

// A replica that starts late serves the last champion at once, not those before it.
func TestLateReplica(t *testing.T) {
	first := start(t, Config{Models: []string{"m"}})
	for v := int64(1); v <= 5; v++ {
		first.publish("m", v)
	}
	second := start(t, Config{Store: first.store, Models: []string{"m"}})
	if v := <-second.live; v != 5 {
		t.Fatalf("version %d came first", v)
	}
	second.answers("", "5")
	if len(second.live) > 0 {
		t.Fatal("older versions were served too")
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no store")
	}
	w := start(t, Config{})
	if _, err := New(Config{Store: w.store, Models: []string{"../x"}}); err == nil {
		t.Error("a model's name with a slash")
	}
	registry := prometheus.NewRegistry()
	if _, err := New(Config{Store: w.store, Metrics: registry}); err != nil {
		t.Error(err)
	}
	if _, err := New(Config{Store: w.store, Metrics: registry}); err == nil {
		t.Error("metrics registered twice")
	}
	s, err := New(Config{Store: w.store})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Run(ctx); err == nil {
		t.Error("Run twice")
	}
}
