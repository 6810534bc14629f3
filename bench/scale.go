package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/node"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
	"github.com/tidemill/tidemill/trainer"
)

// ScaleConfig says what Scale measures. Binary and Dir are required.
type ScaleConfig struct {
	Binary string
	Dir    string
	Seed   uint64
	Model  string // one of ClicksModels; default deepfm, which computes more than it sends
	Batch  int    // default 512
	Rows   int64  // default 100,000
	// Workers are how many workers there are, and as many parameter servers, each a process of its
	// own; default 1, 2, 4.
	Workers []int
	Runs    int // default 3
	Events  func(Event)
}

// Scale measures training by several processes over gRPC on this machine: as many workers as
// parameter servers beside a stream and a trainer. The first results are of one process in all roles
// with as many slots as the machine has cores.
func Scale(ctx context.Context, cfg ScaleConfig) (*report.Report, error) {
	if cfg.Binary == "" || cfg.Dir == "" {
		return nil, tidemill.Invalid("a run without program or directory", "set Binary and Dir")
	}
	or(&cfg.Model, tidemill.DeepFM)
	or(&cfg.Batch, 512)
	or(&cfg.Rows, 100_000)
	cfg.Runs = orRuns(cfg.Runs)
	if len(cfg.Workers) == 0 {
		cfg.Workers = []int{1, 2, 4}
	}
	for _, n := range cfg.Workers {
		if n < 1 || n > 16 {
			return nil, tidemill.Invalid("%d workers", "give 1 to 16", n)
		}
	}
	job, err := ClicksJob(ClicksJobConfig{Model: cfg.Model, Batch: cfg.Batch})
	if err != nil {
		return nil, err
	}
	r := report.New("scale", fmt.Sprintf("%s over %d rows of clicks in batches of %d: one process, and workers and parameter servers as processes, all on this machine.", cfg.Model, cfg.Rows, cfg.Batch))
	say := func(name string, speed float64) {
		if cfg.Events != nil {
			cfg.Events(Event{time.Since(r.Began), fmt.Sprintf("scale %s: %.0f rows/s", name, speed)})
		}
	}
	most := 0
	for _, n := range cfg.Workers {
		most = max(most, n)
	}
	for run := range cfg.Runs {
		res, err := Train(ctx, TrainConfig{Dir: filepath.Join(cfg.Dir, "one"), Rows: cfg.Rows, Seed: cfg.Seed, Partitions: most, Slots: r.Machine.Cores, Job: job})
		if err != nil {
			return nil, fmt.Errorf("scale: one process: %w", err)
		}
		r.Add("processes=one", res.Rows, map[string]float64{"ns/op": 1e9 * res.Seconds / float64(res.Rows), "rows/s": res.RowsPerSecond})
		say("processes=one", res.RowsPerSecond)
		for _, n := range cfg.Workers {
			dir := filepath.Join(cfg.Dir, fmt.Sprintf("scale-%d-%d", n, run))
			name := fmt.Sprintf("workers=%d/ps=%d", n, n)
			m, digest, err := cfg.fleet(ctx, dir, job, n, most)
			if err == nil && digest != res.Digest {
				err = fmt.Errorf("it ended with digest %s, one process with %s: %w", digest, res.Digest, tidemill.ErrCorrupt)
			}
			if err != nil {
				return nil, fmt.Errorf("scale: %s: %w", name, err)
			}
			m["of-one-process"] = m["rows/s"] / res.RowsPerSecond
			r.Add(name, cfg.Rows, m)
			say(name, m["rows/s"])
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
		}
	}
	p := report.Plot{Title: "Rows a second", YLabel: "rows/s", Categories: []string{"one process"}}
	names := []string{"processes=one"}
	for _, n := range cfg.Workers {
		p.Categories, names = append(p.Categories, fmt.Sprintf("%d workers, %d ps", n, n)), append(names, fmt.Sprintf("workers=%d/ps=%d", n, n))
	}
	p.Series = []report.Series{medians(r, "", names, nil, "rows/s")}
	r.Plots = append(r.Plots, p)
	r.Note(fmt.Sprintf("The topic has %d partitions in every run, and all ended with the same digest. More processes than cores share them: this shows what going over gRPC costs, not what more machines bring. loopback-B/row is all that went over the loopback device while training, stream and leases included.", most))
	return r.Done(), nil
}

// fleet trains once with n workers and n parameter servers and returns what was measured,
// and the digest that it ended with.
func (cfg *ScaleConfig) fleet(ctx context.Context, dir string, job []byte, n, partitions int) (metrics map[string]float64, digest string, err error) {
	f, err := newFleet(cfg.Binary, dir, cfg.Seed, map[string]int{node.RoleStream: 1, node.RoleTrainer: 1, node.RolePS: n, node.RoleWorker: n}, false)
	if err != nil {
		return nil, "", err
	}
	defer f.close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := f.start(ctx, f.seats[0]); err != nil {
		return nil, "", err
	}
	if err := f.startAll(ctx); err != nil {
		return nil, "", err
	}
	if err := cfg.produce(ctx, f.streamURL(), partitions); err != nil {
		return nil, "", err
	}
	file := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(file, job, 0o644); err != nil {
		return nil, "", err
	}
	before, known := loopback()
	begin := time.Now()
	if _, err := f.run(ctx, "submit", file, "--server", f.server(), "--until-end"); err != nil {
		return nil, "", err
	}
	out, err := f.run(ctx, "job", topicName, "wait", "--server", f.server())
	if err != nil {
		return nil, "", err
	}
	seconds := time.Since(begin).Seconds()
	after, _ := loopback()
	var st trainer.JobStatus
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &st); err != nil {
		return nil, "", fmt.Errorf("the job's state cannot be read: %w: %w", tidemill.ErrCorrupt, err)
	}
	if st.State != tidemill.JobFinished || st.Examples != cfg.Rows {
		return nil, "", fmt.Errorf("the job is %s (%s) with %d rows of %d: %w", st.State, st.Reason, st.Examples, cfg.Rows, tidemill.ErrUnavailable)
	}
	metrics = map[string]float64{"ns/op": 1e9 * seconds / float64(cfg.Rows), "rows/s": float64(cfg.Rows) / seconds}
	if known {
		metrics["loopback-B/row"] = float64(after-before) / float64(cfg.Rows)
	}
	return metrics, st.Digest, f.stopAll(ctx)
}

// produce fills the topic as Train does.
func (cfg *ScaleConfig) produce(ctx context.Context, url string, partitions int) error {
	nc, err := broker.Dial(ctx, url, broker.DialConfig{Name: "bench"})
	if err != nil {
		return err
	}
	defer nc.Close()
	stream, err := natsource.New(nc, natsource.Config{})
	if err != nil {
		return err
	}
	defer stream.Close()
	clicks := &workload.Clicks{Seed: cfg.Seed}
	topic, err := stream.Create(ctx, topicName, partitions, clicks.Schema())
	if err != nil {
		return err
	}
	defer topic.Close()
	for k, first := 0, int64(0); first < cfg.Rows; k, first = k+1, first+appendRows {
		rec := clicks.Batch(first, int(min(appendRows, cfg.Rows-first)))
		_, err := topic.Append(ctx, k%partitions, rec, fmt.Sprintf("bench/%d", k+1))
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// loopback returns how many bytes went over the loopback device so far; known is false where the
// system does not say.
func loopback() (n int64, known bool) {
	data, err := os.ReadFile("/sys/class/net/lo/statistics/rx_bytes")
	if err != nil {
		return 0, false
	}
	n, err = strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return n, err == nil
}
