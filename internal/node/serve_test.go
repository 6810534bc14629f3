package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/predict/predicttest"
	"github.com/tidemill/tidemill/internal/snapshot"
	pb "github.com/tidemill/tidemill/serving/servingpb"
)

const oneRow = `{"inputs":[{"name":"price","shape":[1],"datatype":"FP64","data":[1.5]},{"name":"count","shape":[1],"datatype":"INT64","data":[3]},` +
	`{"name":"city","shape":[1],"datatype":"BYTES","data":["x"]},{"name":"flag","shape":[1],"datatype":"BOOL","data":[true]}]}`

// TestServingLeavesInOrder: a node that is told to end is no longer ready, over every protocol, while
// it still answers; clients that look before they ask lose nothing, and what is under way is finished.
func TestServingLeavesInOrder(t *testing.T) {
	cfg := localConfig(t, RoleStream, RoleServing)
	cfg.ServeGrace, cfg.Models = 3*time.Second, []string{"m"}
	n, stop := start(t, cfg)
	ctx := context.Background()
	if err := snapshot.WriteVersion(ctx, n.Bucket(), predicttest.Files(t, "m", 1)); err != nil {
		t.Fatal(err)
	}
	chain, err := snapshot.Champions(n.Bucket(), "m")
	if err != nil {
		t.Fatal(err)
	}
	if err := snapshot.AppendChampion(ctx, chain, tidemill.Champion{Model: "m", Seq: 1, Version: 1, Kind: "gate", By: "gate", Why: "test"}); err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{}}
	defer web.CloseIdleConnections()
	base := "http://" + n.Info().HTTP + "/v2/"
	status := func(resp *http.Response, err error) (int, error) {
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}
	conn, err := grpc.NewClient(n.Info().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	infer, health := pb.NewGRPCInferenceServiceClient(conn), healthpb.NewHealthClient(conn)
	one := &pb.ModelInferRequest{ModelName: "m", Inputs: []*pb.ModelInferRequest_InferInputTensor{
		{Name: "price", Datatype: "FP64", Shape: []int64{1}, Contents: &pb.InferTensorContents{Fp64Contents: []float64{1.5}}},
		{Name: "count", Datatype: "INT64", Shape: []int64{1}, Contents: &pb.InferTensorContents{Int64Contents: []int64{3}}},
		{Name: "city", Datatype: "BYTES", Shape: []int64{1}, Contents: &pb.InferTensorContents{BytesContents: [][]byte{[]byte("x")}}},
		{Name: "flag", Datatype: "BOOL", Shape: []int64{1}, Contents: &pb.InferTensorContents{BoolContents: []bool{true}}},
	}}
	// Each kind of client: is it ready, and does it answer?
	kinds := []struct {
		name   string
		ready  func() bool
		answer func() error
	}{
		{"http", func() bool {
			code, err := status(web.Get(base + "health/ready")) //nolint:bodyclose // status closes it
			return err == nil && code == http.StatusOK
		}, func() error {
			code, err := status(web.Post(base+"models/m/infer", "application/json", strings.NewReader(oneRow))) //nolint:bodyclose // status closes it
			if err == nil && code != http.StatusOK {
				err = fmt.Errorf("status %d", code)
			}
			return err
		}},
		{"grpc", func() bool {
			r, err := infer.ServerReady(ctx, &pb.ServerReadyRequest{})
			return err == nil && r.Ready
		}, func() error { _, err := infer.ModelInfer(ctx, one); return err }},
		{"health", func() bool {
			r, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
			return err == nil && r.Status == healthpb.HealthCheckResponse_SERVING
		}, func() error { _, err := infer.ModelInfer(ctx, one); return err }},
	}
	for _, k := range kinds {
		until(t, k.name+" is ready", k.ready)
	}

	var clients sync.WaitGroup
	var answered atomic.Int64
	for _, k := range kinds {
		clients.Add(1)
		go func() {
			defer clients.Done()
			for {
				// Ready at this moment or later, so it answers for the grace from now at least.
				asked := time.Now()
				if !k.ready() {
					return
				}
				if err := k.answer(); err == nil {
					answered.Add(1)
				} else if time.Since(asked) < cfg.ServeGrace {
					t.Errorf("%s: a request failed: %v", k.name, err)
				}
			}
		}()
	}
	// A request that has begun long before, and ends after the node was told to.
	body, half := io.Pipe()
	slow := make(chan error, 1)
	go func() {
		code, err := status(web.Post(base+"models/m/infer", "application/json", body)) //nolint:bodyclose // status closes it
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("status %d", code)
		}
		slow <- err
	}()
	if _, err := half.Write([]byte(oneRow[:20])); err != nil {
		t.Fatal(err)
	}
	until(t, "requests are answered", func() bool { return answered.Load() >= 30 || t.Failed() })
	told := time.Now()
	ended := make(chan struct{})
	go func() { defer close(ended); stop() }()
	clients.Wait() // all have seen that it is not ready
	if err := kinds[0].answer(); err != nil && time.Since(told) < cfg.ServeGrace {
		t.Errorf("it does not answer in its grace: %v", err)
	}
	if _, err := half.Write([]byte(oneRow[20:])); err != nil && time.Since(told) < cfg.ServeGrace {
		t.Error(err)
	}
	half.Close()
	if err := <-slow; err != nil && time.Since(told) < cfg.ServeGrace {
		t.Errorf("the request that was under way: %v", err)
	}
	<-ended
	if took := time.Since(told); took < cfg.ServeGrace {
		t.Errorf("it went after %v, before its grace was over", took)
	}
	if err := kinds[0].answer(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("it answers after its end: %v", err)
	}
	t.Logf("%d requests answered", answered.Load())
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v until %s", patience, what)
		}
	}
}
