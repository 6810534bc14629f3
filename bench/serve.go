package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"golang.org/x/sync/errgroup"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/rpc"
)

// ServeConfig says what Serve measures. Dir is required.
type ServeConfig struct {
	Dir     string
	Seed    uint64
	Model   string        // one of ClicksModels; default logistic
	Rows    int64         // that the model is trained on; default 100,000
	Batches []int         // rows of a request; default 1, 16, 256
	Clients int           // that ask at the same time, each waiting for its answer; default twice the cores
	Least   time.Duration // of each measurement; default 2 s
	Runs    int           // default 3
	Events  func(Event)
}

// protocols are the ways to ask for predictions.
var protocols = []string{"grpc", "http"}

// ask sends request number i and returns the version that answered, 0 where the protocol was not asked.
type ask func(ctx context.Context, i int) (version int64, err error)

// Serve measures requests a second and their latency, by protocol and by rows of a request, of a
// model over clicks. Clients and server share the machine.
func Serve(ctx context.Context, cfg ServeConfig) (*report.Report, error) {
	or(&cfg.Rows, 100_000)
	or(&cfg.Clients, 2*runtime.GOMAXPROCS(0))
	or(&cfg.Least, 2*time.Second)
	cfg.Runs = orRuns(cfg.Runs)
	if len(cfg.Batches) == 0 {
		cfg.Batches = []int{1, 16, 256}
	}
	for _, b := range cfg.Batches {
		if b < 1 || b > 1024 {
			return nil, tidemill.Invalid("requests of %d rows", "give 1 to 1024", b)
		}
	}
	dir, err := os.MkdirTemp(cfg.Dir, "serve-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	clicks := &workload.Clicks{Seed: cfg.Seed}
	r := report.New("serve", fmt.Sprintf("Predictions by a model over 39 columns trained on %d rows; %d clients that each wait for their answer, in the server's process.", cfg.Rows, cfg.Clients))
	began := time.Now()
	err = withServed(ctx, dir, clicks, ClicksJobConfig{Model: cfg.Model}, func(s *tidemill.Spec) {
		s.Train.Snapshot = tidemill.Interval{Rows: cfg.Rows}
		s.Train.Linger = 50 * time.Millisecond
	}, func(ctx context.Context, s *servedNode) error {
		if err := s.fill(ctx, clicks, 0, cfg.Rows+512, appendRows); err != nil {
			return err
		}
		if err := s.until(ctx, 1); err != nil {
			return err
		}
		for range cfg.Runs {
			for _, protocol := range protocols {
				for _, batch := range cfg.Batches {
					ask, done, err := cfg.asker(s, protocol, clicks, batch)
					if err != nil {
						return err
					}
					name := fmt.Sprintf("protocol=%s/rows=%d", protocol, batch)
					n, m, err := cfg.load(ctx, ask, batch)
					done()
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					r.Add(name, n, m)
					if cfg.Events != nil {
						cfg.Events(Event{time.Since(began), fmt.Sprintf("serve %s: %.0f requests/s, p99 %.2f ms", name, m["requests/s"], m["p99-ms"])})
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	speed, tail := report.Plot{Title: "Rows predicted a second", YLabel: "rows/s"}, report.Plot{Title: "Latency, 99th percentile", YLabel: "ms"}
	for _, b := range cfg.Batches {
		speed.Categories = append(speed.Categories, fmt.Sprintf("%d rows", b))
	}
	tail.Categories = speed.Categories
	for _, p := range protocols {
		var names []string
		for _, b := range cfg.Batches {
			names = append(names, fmt.Sprintf("protocol=%s/rows=%d", p, b))
		}
		speed.Series = append(speed.Series, medians(r, p, names, nil, "rows/s"))
		tail.Series = append(tail.Series, medians(r, p, names, nil, "p99-ms"))
	}
	r.Plots = append(r.Plots, speed, tail)
	return r.Done(), nil
}

// load asks from all clients for a while.
func (cfg *ServeConfig) load(ctx context.Context, ask ask, batch int) (n int64, metrics map[string]float64, err error) {
	took := make([][]float64, cfg.Clients)
	c, err := timed(func() error {
		g, ctx := errgroup.WithContext(ctx)
		start := time.Now()
		for client := range took {
			g.Go(func() error {
				for i := client; time.Since(start) < cfg.Least || i == client; i += cfg.Clients {
					at := time.Now()
					if _, err := ask(ctx, i); err != nil {
						return err
					}
					took[client] = append(took[client], time.Since(at).Seconds())
				}
				return nil
			})
		}
		return g.Wait()
	})
	if err != nil {
		return 0, nil, err
	}
	var all []float64
	for _, t := range took {
		all = append(all, t...)
	}
	n = int64(len(all))
	return n, merge(c.metrics(n, "requests"), latencies(all, ""), map[string]float64{"rows/s": float64(n) * float64(batch) / c.seconds}), nil
}

// prepared is how many different requests clients send in turn.
const prepared = 32

// asker connects to the node and prepares requests; done ends both.
func (cfg *ServeConfig) asker(s *servedNode, protocol string, clicks *workload.Clicks, batch int) (a ask, done func(), err error) {
	// Rows that the model was not trained on.
	var rows []arrow.RecordBatch
	for i := range prepared {
		rows = append(rows, questionRows(clicks, cfg.Rows+int64(1000+i*batch), batch))
	}
	release := func() {
		for _, rec := range rows {
			rec.Release()
		}
	}
	if protocol == "grpc" {
		conn, err := rpc.Dial(s.n.Info().GRPC, rpc.ClientConfig{})
		if err != nil {
			release()
			return nil, nil, err
		}
		client, columns := infer.New(conn), columnsOf(rows[0])
		return func(ctx context.Context, i int) (int64, error) {
				answer, err := client.Predict(ctx, servedModel, "", columns, rows[i%prepared])
				if err == nil && len(answer.Predictions) != batch {
					err = fmt.Errorf("%d predictions for %d rows: %w", len(answer.Predictions), batch, tidemill.ErrCorrupt)
				}
				return answer.Version, err
			}, func() {
				release()
				_ = conn.Close()
			}, nil
	}
	defer release()
	var bodies [][]byte
	for _, rec := range rows {
		body, err := inferBody(rec)
		if err != nil {
			return nil, nil, err
		}
		bodies = append(bodies, body)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	client := &http.Client{Transport: transport}
	url := "http://" + s.n.Info().HTTP + "/v2/models/" + servedModel + "/infer"
	return func(ctx context.Context, i int) (int64, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(bodies[i%prepared]))
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s: %w", resp.Status, data, tidemill.ErrUnavailable)
		}
		return 0, err
	}, transport.CloseIdleConnections, nil
}

// inferBody is a request of the Open Inference Protocol in JSON.
func inferBody(rec arrow.RecordBatch) ([]byte, error) {
	type tensor struct {
		Name     string  `json:"name"`
		Shape    []int64 `json:"shape"`
		Datatype string  `json:"datatype"`
		Data     any     `json:"data"`
	}
	var inputs []tensor
	for i, name := range columnsOf(rec) {
		t := tensor{Name: name, Shape: []int64{rec.NumRows()}}
		switch c := rec.Column(i).(type) {
		case *array.Int64:
			t.Datatype, t.Data = "INT64", c.Int64Values()
		case *array.String:
			var values []string
			for j := range c.Len() {
				values = append(values, strings.Clone(c.Value(j)))
			}
			t.Datatype, t.Data = "BYTES", values
		default:
			return nil, tidemill.Invalid("column %q is %s", "a request has numbers and text", name, c.DataType())
		}
		inputs = append(inputs, t)
	}
	return json.Marshal(map[string]any{"inputs": inputs})
}
