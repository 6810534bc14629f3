package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gocloud.dev/blob"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/bench/report"
	"github.com/tidemill/tidemill/bench/workload"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/process"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/internal/spec"
	"github.com/tidemill/tidemill/trainer"
)

// table trains one job over the whole stream with a snapshot every first interval, once by a
// process that is killed now and then where there is one, and scores the stream by what each
// variant of publishing would have served. delay is from a cut to serving, in seconds.
func (cfg *FreshnessConfig) table(ctx context.Context, r *report.Report, delay float64) ([]FreshnessRow, error) {
	dir, err := os.MkdirTemp(cfg.Dir, "drift-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	clicks := cfg.clicks()
	bounded := TrainConfig{Dir: dir, Rows: cfg.Rows, Seed: cfg.Seed, Partitions: 1}
	run := &driftRun{cfg: cfg, dir: filepath.Join(dir, "node")}
	if err := produceClicks(ctx, &bounded, clicks, run.dir); err != nil {
		return nil, err
	}
	var stood []float64 // seconds that training stood still after a kill
	if cfg.Binary == "" || cfg.Kills == 0 {
		err = run.train(ctx)
		r.Note("Nothing was killed: the table has no rows with kills.")
	} else if stood, err = run.trainKilled(ctx, r); err == nil {
		m := map[string]float64{"p50-s": report.Median(stood), "max-s": report.Quantile(stood, 1)}
		r.Add("standstill=kill-to-next-snapshot", int64(len(stood)), m)
		r.Note(fmt.Sprintf("The process that trained, in all roles, was killed %d times; what it ended with holds each of the %d rows once. In the table one kill comes every %v of the stream and stops training for %.2f s.",
			len(stood), cfg.Rows, cfg.KillEvery, report.Median(stood)))
	}
	if err != nil {
		return nil, err
	}
	bucket, err := fileblob.Open(filepath.Join(run.dir, "store"), fileblob.Options{})
	if err != nil {
		return nil, err
	}
	defer bucket.Close()
	chain, err := snapshot.Snapshots(bucket, driftJob)
	if err != nil {
		return nil, err
	}
	manifests, err := committed(ctx, chain)
	if err != nil {
		return nil, err
	}
	if last := manifests[len(manifests)-1]; last.Examples != cfg.Rows {
		return nil, fmt.Errorf("the last snapshot holds %d rows of %d: %w", last.Examples, cfg.Rows, tidemill.ErrCorrupt)
	}
	cfg.say(r, "trained %d rows, %d snapshots", cfg.Rows, len(manifests))
	return cfg.score(ctx, bucket, clicks, manifests, cfg.variants(manifests, delay, report.Median(stood)))
}

// driftJob is the job that Freshness trains.
const driftJob = "drift"

// driftRun is one training over the stream in dir.
type driftRun struct {
	cfg *FreshnessConfig
	dir string
}

// yaml is the job: few enough ids for many snapshots, all of which are kept.
func (d *driftRun) yaml() (string, error) {
	job, err := ClicksJob(ClicksJobConfig{Buckets: 4096})
	if err != nil {
		return "", err
	}
	doc, err := spec.Parse(job, "job")
	if err != nil {
		return "", err
	}
	batch := int64(doc.Spec.Train.Batch)
	base := d.cfg.base()
	if base < batch {
		batch = base
	}
	return replaceLines(string(job), map[string]string{
		"model:":     "model: " + driftJob,
		"train:":     fmt.Sprintf("train: {batch: %d, reduction: sum, snapshot: {every: %d rows, keep: 100000}, until_end: true}", batch, base),
		"gate:":      "gate: {margin: 0.01, alpha: 0.01, min_examples: 1000}",
		"optimizer:": "optimizer: {sparse: {adagrad: {lr: 0.1}}, dense: {adagrad: {lr: 0.05}}}",
	}), nil
}

// train trains in this process.
func (d *driftRun) train(ctx context.Context) error {
	yaml, err := d.yaml()
	if err != nil {
		return err
	}
	doc, err := spec.Parse([]byte(yaml), "job")
	if err != nil {
		return err
	}
	ended := make(chan end, 1)
	return withNode(ctx, node.Config{
		DataDir: d.dir, Roles: []string{node.RoleStream, node.RoleTrainer, node.RolePS, node.RoleWorker},
		Trainer: trainer.Events{State: func(_, state, reason string) {
			select {
			case ended <- end{state, reason, time.Now()}:
			default:
			}
		}},
	}, func(ctx context.Context, n *node.Node) error {
		_, err := finish(ctx, n, doc, ended)
		return err
	})
}

// trainKilled trains in a process that is killed as often as the configuration says, and started
// again each time. It returns how long after each kill the next snapshot was committed, in seconds.
func (d *driftRun) trainKilled(ctx context.Context, r *report.Report) ([]float64, error) {
	yaml, err := d.yaml()
	if err != nil {
		return nil, err
	}
	job := filepath.Join(filepath.Dir(d.dir), "job.yaml")
	if err := os.WriteFile(job, []byte(yaml), 0o644); err != nil {
		return nil, err
	}
	p, info, err := d.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { p.Kill() }()
	if _, err := process.Run(ctx, d.cfg.Binary, "submit", job, "--server", info.RPC, "--json"); err != nil {
		return nil, err
	}
	var stood []float64
	for k := range d.cfg.Kills {
		at := d.cfg.Rows * int64(k+1) / int64(d.cfg.Kills+1)
		st, err := trained(ctx, info.RPC, at)
		if err != nil {
			return nil, err
		}
		p.Kill()
		begin := time.Now()
		if p, info, err = d.start(ctx); err != nil {
			return nil, err
		}
		if st.SnapshotExamples < d.cfg.Rows {
			// More may have been committed between the answer and the kill; what counts is the first
			// snapshot that the new process commits.
			first, err := trained(ctx, info.RPC, st.SnapshotExamples)
			if err != nil {
				return nil, err
			}
			if first.SnapshotExamples < d.cfg.Rows {
				if _, err := trained(ctx, info.RPC, first.SnapshotExamples+1); err != nil {
					return nil, err
				}
			}
			stood = append(stood, time.Since(begin).Seconds())
			d.cfg.say(r, "killed after %d rows; the next snapshot came %.2f s later", st.SnapshotExamples, stood[len(stood)-1])
		}
	}
	if _, err := trained(ctx, info.RPC, d.cfg.Rows); err != nil {
		return nil, err
	}
	return stood, p.Stop(ctx)
}

// start starts the process, in the roles that train, and waits until it is ready.
func (d *driftRun) start(ctx context.Context) (*process.Process, node.Info, error) {
	var info node.Info
	p, err := process.Start("the node that trains", nil, d.cfg.Binary, "start", "--json", "--data-dir", d.dir, "--id", "drift",
		"--role", "stream,trainer,ps,worker", "--listen", "127.0.0.1:0", "--rpc", "127.0.0.1:0", "--gossip", "-", "--stream-listen", "-")
	if err != nil {
		return nil, info, err
	}
	if err := p.Ready(ctx, &info); err != nil {
		p.Kill()
		return nil, info, err
	}
	return p, info, nil
}

// trained asks the trainer at addr until it has committed a snapshot with that many rows.
func trained(ctx context.Context, addr string, rows int64) (trainer.JobStatus, error) {
	var st trainer.JobStatus
	conn, err := rpc.Dial(addr, rpc.ClientConfig{})
	if err != nil {
		return st, err
	}
	defer conn.Close()
	c := trainer.NewCommander(conn)
	for {
		asking, cancel := context.WithTimeout(ctx, time.Minute)
		answer, err := c.Command(asking, driftJob, trainer.VerbJob, nil)
		cancel()
		switch {
		case err == nil:
			if err := json.Unmarshal(answer, &st); err != nil {
				return st, fmt.Errorf("the job's state cannot be read: %w: %w", tidemill.ErrCorrupt, err)
			}
			if st.SnapshotExamples >= rows {
				return st, nil
			}
			if st.State == tidemill.JobFailed || st.State == tidemill.JobCancelled || st.State == tidemill.JobPaused {
				return st, fmt.Errorf("the job is %s: %s: %w", st.State, st.Reason, tidemill.ErrUnavailable)
			}
		case !errors.Is(err, tidemill.ErrNotReady) && !errors.Is(err, tidemill.ErrUnavailable):
			return st, err
		}
		if !pause(ctx, sampled) {
			return st, over(ctx, fmt.Sprintf("no snapshot with %d rows was committed", rows))
		}
	}
}

// committed returns all snapshots of a chain but fences, in order, the last of each cut.
func committed(ctx context.Context, chain *snapshot.Chain) ([]*snapshot.Manifest, error) {
	numbers, err := chain.List(ctx, 0)
	if err != nil {
		return nil, err
	}
	slices.Sort(numbers)
	var out []*snapshot.Manifest
	for _, n := range numbers {
		m, err := snapshot.ReadManifest(ctx, chain, n)
		if err != nil {
			return nil, err
		}
		if m.Fence != nil {
			continue
		}
		if len(out) > 0 && out[len(out)-1].Examples >= m.Examples {
			out = out[:len(out)-1]
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no snapshot was committed: %w", tidemill.ErrNotFound)
	}
	return out, nil
}

// variant is a way to publish: from row from[i] on, snapshot use[i] answers.
type variant struct {
	row  FreshnessRow
	from []int64
	use  []int
}

// variants are all rows of the table, with what each serves when.
func (cfg *FreshnessConfig) variants(m []*snapshot.Manifest, delay, standstill float64) []*variant {
	kills := []bool{false}
	if !math.IsNaN(standstill) {
		kills = append(kills, true)
	}
	var out []*variant
	for _, k := range kills {
		for _, d := range cfg.LabelDelays {
			for _, every := range append(slices.Clone(cfg.Intervals), 0) {
				v := &variant{row: FreshnessRow{Interval: every, LabelDelay: d, Kills: k}}
				cfg.schedule(v, m, delay, standstill)
				out = append(out, v)
			}
		}
	}
	return out
}

// schedule fills in which snapshot answers from when. Times are of the stream: row n is at
// n/StreamRate. All variants begin with the newest version that is there when the rows that only
// teach are over. A cut is reached once the labels of its rows are there; training that stands
// still then reaches it when it goes on, as it is much faster than the stream.
func (cfg *FreshnessConfig) schedule(v *variant, m []*snapshot.Manifest, delay, standstill float64) {
	rate := float64(cfg.StreamRate)
	taught := float64(cfg.taught()) / rate
	v.from, v.use = []int64{0}, []int{0}
	var next float64 // when a version is due
	for i, s := range m {
		at := float64(s.Examples)/rate + v.row.LabelDelay.Seconds()
		if at+delay <= taught {
			v.use[0] = i
			continue
		}
		if v.row.Interval == 0 {
			return // never again
		}
		period := v.row.Interval.Seconds()
		if next == 0 {
			next = math.Ceil(taught/period) * period
		}
		if at < next {
			continue
		}
		next = (math.Floor(at/period*(1+1e-12)) + 1) * period
		if every := cfg.KillEvery.Seconds(); v.row.Kills && at >= every {
			if since := math.Mod(at, every); since < standstill {
				at += standstill - since
			}
		}
		v.from, v.use = append(v.from, int64(math.Ceil((at+delay)*rate))), append(v.use, i)
	}
}

// at returns the position in use of what answers a row.
func (v *variant) at(row int64) int {
	i, found := slices.BinarySearch(v.from, row)
	if found {
		return i
	}
	return max(0, i-1)
}

// score predicts all rows that do not only teach, by each variant.
func (cfg *FreshnessConfig) score(ctx context.Context, bucket *blob.Bucket, clicks *workload.Clicks, m []*snapshot.Manifest, variants []*variant) ([]FreshnessRow, error) {
	first := cfg.taught()
	n := cfg.Rows - first
	labels := make([]bool, n)
	scores := make([][]float64, len(variants))
	seen := make([]map[int]bool, len(variants))
	for i := range variants {
		scores[i], seen[i] = make([]float64, 0, n), map[int]bool{}
	}
	loaded := map[int]*predict.Scorer{}
	var buffer []float32
	// Blocks are short enough for no variant to change what it serves within one by much.
	block := max(1, cfg.base()/4)
	for lo := first; lo < cfg.Rows; lo += block {
		rows := int(min(block, cfg.Rows-lo))
		rec := clicks.Batch(lo, rows)
		var row workload.Click
		for i := range int64(rows) {
			clicks.Row(lo+i, &row)
			labels[lo-first+i] = row.Clicked
		}
		using := map[int]bool{}
		answers := map[int][]float32{}
		for i, v := range variants {
			use := v.use[v.at(lo)]
			using[use] = true
			if answers[use] == nil {
				if loaded[use] == nil {
					files, err := snapshot.Export(ctx, bucket, m[use])
					if err != nil {
						rec.Release()
						return nil, err
					}
					model, err := predict.Load(files)
					if err != nil {
						rec.Release()
						return nil, err
					}
					loaded[use] = model.NewScorer()
				}
				var err error
				if buffer, err = loaded[use].Predict(buffer[:0], rec); err != nil {
					rec.Release()
					return nil, err
				}
				answers[use] = slices.Clone(buffer)
			}
			for _, p := range answers[use] {
				scores[i] = append(scores[i], float64(p))
			}
			seen[i][use] = true
			v.row.Age += float64(rows) * (float64(lo) - float64(m[use].Examples)) / float64(cfg.StreamRate)
		}
		rec.Release()
		for use := range loaded {
			if !using[use] {
				delete(loaded, use)
			}
		}
	}
	var out []FreshnessRow
	for i, v := range variants {
		v.row.AUC, v.row.LogLoss = workload.AUC(scores[i], labels), logLoss(scores[i], labels)
		v.row.Versions, v.row.Age = len(seen[i]), v.row.Age/float64(n)
		out = append(out, v.row)
	}
	return out, nil
}

// logLoss is the mean of -log of the probability given to what happened, which is bounded away
// from 0 by 1e-7.
func logLoss(scores []float64, positive []bool) float64 {
	var sum float64
	for i, p := range scores {
		if !positive[i] {
			p = 1 - p
		}
		sum -= math.Log(max(p, 1e-7))
	}
	return sum / float64(len(scores))
}
