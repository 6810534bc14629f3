package serving

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"go.uber.org/goleak"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/predict/predicttest"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot"
	pb "github.com/tidemill/tidemill/serving/servingpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a running server with its store, and clients of both protocols.
type world struct {
	t      testing.TB
	store  *blob.Bucket
	server *Server
	client pb.GRPCInferenceServiceClient
	conn   *grpc.ClientConn
	http   *httptest.Server
	live   chan int64 // versions as they become live
	seq    map[string]int64
}

// start runs a server over cfg, whose Store is filled in if nil.
func start(t testing.TB, cfg Config) *world {
	t.Helper()
	w := &world{t: t, store: cfg.Store, live: make(chan int64, 1000), seq: map[string]int64{}}
	if w.store == nil {
		w.store = memblob.OpenBucket(nil)
		t.Cleanup(func() { w.store.Close() })
	}
	cfg.Store = w.store
	if cfg.Poll == 0 {
		cfg.Poll = time.Hour // tests hint
	}
	if cfg.OnLive == nil {
		cfg.OnLive = func(_ string, version int64, _ tidemill.Cut, _ time.Time) { w.live <- version }
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.server = s
	g := rpc.NewServer(rpc.ServerConfig{Authorize: func(context.Context, string) error { return nil }})
	s.Register(g)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- rpc.Serve(ctx, g, lis, 5*time.Second) }()
	w.conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	w.client = pb.NewGRPCInferenceServiceClient(w.conn)
	w.http = httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		w.http.Close()
		w.conn.Close()
		http.DefaultClient.CloseIdleConnections()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// write stores a version.
func (w *world) write(f *snapshot.VersionFiles) {
	w.t.Helper()
	if err := snapshot.WriteVersion(context.Background(), w.store, f); err != nil {
		w.t.Fatal(err)
	}
}

// crown appends a champion record; version 0 is a fence.
func (w *world) crown(model string, version int64) {
	w.t.Helper()
	c, err := snapshot.Champions(w.store, model)
	if err != nil {
		w.t.Fatal(err)
	}
	w.seq[model]++
	rec := tidemill.Champion{Model: model, Seq: w.seq[model], Version: version, Kind: "gate", By: "gate", Why: "test"}
	if version == 0 {
		rec.Kind = snapshot.ChampionFence
	}
	if err := snapshot.AppendChampion(context.Background(), c, rec); err != nil {
		w.t.Fatal(err)
	}
	w.server.Hint(model)
}

// publish writes version n of a model and waits until it is live.
func (w *world) publish(model string, n int64) {
	w.t.Helper()
	w.write(predicttest.Files(w.t, model, n))
	w.crown(model, n)
	w.await(n)
}

// await waits until version n is live.
func (w *world) await(n int64) {
	w.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case v := <-w.live:
			if v == n {
				return
			}
		case <-timeout:
			w.t.Fatalf("version %d did not become live", n)
		}
	}
}

// offline predicts rows with version n of model as loaded from its files.
func offline(t testing.TB, model string, n int64, rows arrow.RecordBatch) []float32 {
	t.Helper()
	m, err := predict.Load(predicttest.Files(t, model, n))
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.NewScorer().Predict(nil, rows)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// typed makes a request with typed contents of rows.
func typed(model string, rows arrow.RecordBatch) *pb.ModelInferRequest {
	n := rows.NumRows()
	r := &pb.ModelInferRequest{ModelName: model, Id: "r1"}
	add := func(name, datatype string, c *pb.InferTensorContents) {
		r.Inputs = append(r.Inputs, &pb.ModelInferRequest_InferInputTensor{Name: name, Datatype: datatype, Shape: []int64{n}, Contents: c})
	}
	add("price", "FP64", &pb.InferTensorContents{Fp64Contents: slices.Clone(rows.Column(0).(*array.Float64).Float64Values())})
	add("count", "INT64", &pb.InferTensorContents{Int64Contents: slices.Clone(rows.Column(1).(*array.Int64).Int64Values())})
	city, flag := &pb.InferTensorContents{}, &pb.InferTensorContents{}
	for i := range int(n) {
		city.BytesContents = append(city.BytesContents, []byte(rows.Column(2).(*array.String).Value(i)))
		flag.BoolContents = append(flag.BoolContents, rows.Column(3).(*array.Boolean).Value(i))
	}
	add("city", "BYTES", city)
	add("flag", "BOOL", flag)
	return r
}

// raw makes the same request with raw contents.
func raw(model string, rows arrow.RecordBatch) *pb.ModelInferRequest {
	r := typed(model, rows)
	for _, in := range r.Inputs {
		r.RawInputContents = append(r.RawInputContents, rawOf(in.Contents))
		in.Contents = nil
	}
	return r
}
