package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/model"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/process"
	"github.com/tidemill/tidemill/internal/snapshot/fileblob"
	"github.com/tidemill/tidemill/trainer"
)

// ChaosConfig says what a run of Chaos does. Binary and Dir are required.
type ChaosConfig struct {
	Binary  string        // the program
	Dir     string        // for data and logs; empty or new
	Seed    uint64        // of the schedule, the rows and the questions
	Lasts   time.Duration // of the faults; the run takes longer. Default 60 s
	Every   time.Duration // mean time between faults; default 2.5 s
	Rate    int           // rows appended per second; default 300
	Kinds   []string      // of fault; default all of FaultKinds
	Events  func(Event)   // called for each thing that happens, one at a time; may be nil
	Patient time.Duration // bounds what has to happen once there are no more faults; default 4 minutes
}

// Event is one thing that happened in a run.
type Event struct {
	At   time.Duration // since the cluster was up
	Text string
}

// ChaosResult is what a run of Chaos counted.
type ChaosResult struct {
	Seed      uint64 `json:"seed"`
	Seconds   int    `json:"seconds"`
	Staleness int    `json:"staleness"`
	Batch     int    `json:"batch"`
	// Kills counts the faults by role and kind.
	Kills map[string]map[string]int `json:"kills"`
	// LedgerExact: every acknowledged row is in the stream once, and counts once in every
	// snapshot whose cut lies after it.
	LedgerExact      bool   `json:"ledger_exact"`
	Examples         int64  `json:"examples"`
	Generations      uint64 `json:"generations"`
	Snapshots        int    `json:"snapshots"`
	SnapshotsChecked int    `json:"snapshots_checked"`
	Versions         int    `json:"versions"` // that answered a request
	Requests         int64  `json:"requests"`
	// RequestsRetried were not answered by the first replica that was asked, and were by another;
	// RequestsFailed by none.
	RequestsRetried int64 `json:"requests_retried"`
	RequestsFailed  int64 `json:"requests_failed"`
	// RecoverySeconds: from a kill to the first batch that was applied without the one killed, by
	// role. Kills that another fault overlapped are left out. At staleness 0 that batch needs all
	// partitions; elsewhere it may be one of a partition that was not hit.
	RecoverySeconds map[string]Spread `json:"recovery_seconds"`
	Problems        []string          `json:"problems"` // what must not happen; empty in a run that passes
	Dir             string            `json:"dir,omitempty"`
}

// Passed reports whether nothing happened that must not.
func (r *ChaosResult) Passed() bool { return r.LedgerExact && len(r.Problems) == 0 }

// Spread is some measurements of one thing, in seconds.
type Spread struct {
	Count  int     `json:"count"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

func spreadOf(d []time.Duration) Spread {
	slices.Sort(d)
	if len(d) == 0 {
		return Spread{}
	}
	mid := d[len(d)/2]
	if len(d)%2 == 0 {
		mid = (mid + d[len(d)/2-1]) / 2
	}
	return Spread{len(d), mid.Seconds(), d[len(d)-1].Seconds()}
}

// chaos is one run.
type chaos struct {
	cfg   ChaosConfig
	fleet *fleet
	spec  countsSpec
	rows  int
	file  string
	began time.Time

	mu        sync.Mutex
	events    *os.File
	busy      map[string]bool   // seats that a fault is at
	cutOff    map[string]string // how each of the seats without a network is cut off
	full      bool              // the stream's disk is
	sawFull   *process.Process  // lived while the disk was full: may end of it, even later
	faults    int               // begun so far
	res       ChaosResult
	recovered map[string][]time.Duration
	producer  *process.Process
	ending    bool // the producer is finish's
}

const countsPartitions = 4

// Chaos runs a cluster under faults and checks what it did. The error says why there is no
// result; a run whose cluster did wrong has a result that has not Passed.
func Chaos(ctx context.Context, cfg ChaosConfig) (*ChaosResult, error) {
	if cfg.Binary == "" || cfg.Dir == "" {
		return nil, tidemill.Invalid("a run without program or directory", "set Binary and Dir")
	}
	or(&cfg.Lasts, time.Minute)
	or(&cfg.Every, 2500*time.Millisecond)
	or(&cfg.Patient, 4*time.Minute)
	or(&cfg.Rate, 300)
	r := rand.New(rand.NewPCG(cfg.Seed, 1))
	c := &chaos{
		cfg: cfg, busy: map[string]bool{}, cutOff: map[string]string{}, recovered: map[string][]time.Duration{}, began: time.Now(),
		spec: countsSpec{
			staleness: []int{0, 0, 2, -1}[r.IntN(4)], batch: []int{1, 8}[r.IntN(2)],
			every: []string{"400 rows", "1500 rows", "1s", "3s"}[r.IntN(4)],
		},
	}
	unit := countsPartitions * c.spec.batch
	c.rows = max(1, int(cfg.Lasts.Seconds()*float64(cfg.Rate))/unit) * unit
	c.res = ChaosResult{
		Seed: cfg.Seed, Seconds: int(cfg.Lasts.Seconds()), Staleness: c.spec.staleness, Batch: c.spec.batch,
		Kills: map[string]map[string]int{}, RecoverySeconds: map[string]Spread{}, Problems: []string{}, Dir: cfg.Dir,
	}
	if c.rows > countsMost {
		return nil, tidemill.Invalid("%d rows", "more than can be counted exactly; lower the rate or the time", c.rows)
	}
	var err error
	c.fleet, err = newFleet(cfg.Binary, cfg.Dir, cfg.Seed, map[string]int{
		node.RoleStream: 1, node.RoleTrainer: 2, node.RolePS: 2 + r.IntN(2), node.RoleWorker: 2 + r.IntN(2), node.RoleServing: 2,
	}, true)
	if err != nil {
		return nil, err
	}
	defer c.fleet.close()
	// Beside the logs of the processes, in the same clock.
	if c.events, err = os.Create(c.fleet.logName("events")); err != nil {
		return nil, err
	}
	defer c.events.Close()
	// In every other run, so that the others are on the disk that there is.
	if r.IntN(2) == 0 || slices.Contains(cfg.Kinds, faultFull) {
		c.smallDisk(ctx)
	}
	err = c.run(ctx, r)
	if c.fleet.disk != nil && (err != nil || !c.res.Passed()) {
		if kerr := c.fleet.disk.keep(); kerr != nil {
			c.say("what was on the stream's disk is lost: %v", kerr)
		}
	}
	if err != nil {
		return nil, err
	}
	for role, d := range c.recovered {
		c.res.RecoverySeconds[role] = spreadOf(d)
	}
	return &c.res, nil
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *chaos) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := Event{time.Since(c.began), fmt.Sprintf(format, args...)}
	if c.events != nil {
		fmt.Fprintf(c.events, "%s %7.2f s  %s\n", time.Now().UTC().Format(time.RFC3339Nano), e.At.Seconds(), e.Text)
	}
	if c.cfg.Events != nil {
		c.cfg.Events(e)
	}
}

// problem notes what must not happen.
func (c *chaos) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.say("PROBLEM: %s", text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.res.Problems) < 50 {
		c.res.Problems = append(c.res.Problems, text)
	}
}

// run is the whole life of the cluster.
func (c *chaos) run(ctx context.Context, r *rand.Rand) error {
	c.file = filepath.Join(c.cfg.Dir, "rows.csv")
	if err := writeCounts(c.file, c.rows, r); err != nil {
		return fmt.Errorf("the rows cannot be written: %w", err)
	}
	up, cancel := context.WithTimeout(ctx, c.cfg.Patient)
	err := c.begin(up)
	cancel()
	if err != nil {
		return fmt.Errorf("the cluster did not come up: %w", err)
	}
	all, end := context.WithCancel(ctx)
	defer end()
	prog, err := follow(all, c.fleet, countsJob)
	if err != nil {
		return err
	}
	defer prog.wait()
	defer end()
	var addrs []string
	for _, s := range c.fleet.of(node.RoleServing) {
		addrs = append(addrs, s.grpc.Inside)
	}
	load, err := newLoad(addrs, countsQuestions(int64(c.rows)))
	if err != nil {
		return err
	}
	defer load.close()
	up, cancel = context.WithTimeout(ctx, c.cfg.Patient)
	err = load.answers(up)
	cancel()
	if err != nil {
		return err
	}
	c.began = time.Now()
	c.say("up: %d processes, staleness %d, batches of %d, a snapshot every %s, %d rows", len(c.fleet.seats), c.spec.staleness, c.spec.batch, c.spec.every, c.rows)

	asking, quiet := context.WithCancel(all)
	var clients, watchers sync.WaitGroup
	clients.Go(func() { load.run(asking, rand.New(rand.NewPCG(c.cfg.Seed, 2))) })
	watchers.Go(func() { c.watch(asking) })
	c.strike(ctx, prog)
	c.say("no more faults")
	err = c.finish(ctx, prog)
	quiet()
	clients.Wait()
	watchers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	requests, retried, failed, versions, problems := load.totals()
	c.res.Requests, c.res.RequestsRetried, c.res.RequestsFailed, c.res.Versions = requests, retried, failed, len(versions)
	for _, p := range problems {
		c.problem("%s", p)
	}
	if err != nil {
		c.problem("%v", err)
		return nil
	}
	a := prog.assignment()
	c.res.Generations = a.Generation
	return c.check(ctx, &a, versions)
}

// begin starts everybody, the producer and the job.
func (c *chaos) begin(ctx context.Context) error {
	if err := c.fleet.start(ctx, c.fleet.seats[0]); err != nil {
		return err
	}
	if err := c.fleet.startAll(ctx); err != nil {
		return err
	}
	if err := c.produce(); err != nil {
		return err
	}
	file := filepath.Join(c.cfg.Dir, "job.yaml")
	if err := os.WriteFile(file, []byte(c.spec.yaml()), 0o644); err != nil {
		return err
	}
	for {
		_, err := c.fleet.run(ctx, "submit", file, "--server", c.fleet.server())
		if err == nil {
			return nil
		}
		// The topic is the producer's to make.
		if !pause(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// produce starts the producer; it goes on where an earlier one was killed.
func (c *chaos) produce(flags ...string) error {
	args := append([]string{
		"produce", countsTopic, c.file, "--partitions", fmt.Sprint(countsPartitions), "--no-check", "--json",
		"--stream-url", c.fleet.streamURL(),
	}, flags...)
	if len(flags) == 0 {
		args = append(args, "--rate", fmt.Sprint(c.cfg.Rate))
	}
	logs, err := os.OpenFile(c.fleet.logName(roleProducer), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	p, err := process.Start(roleProducer, logs, c.cfg.Binary, args...)
	if err != nil {
		return errors.Join(err, logs.Close())
	}
	go func() {
		<-p.Done()
		_ = logs.Close()
	}()
	c.mu.Lock()
	c.producer = p
	c.mu.Unlock()
	return nil
}

// watch notes processes that end though nobody asked them to, and starts them again, as
// whatever supervises them would.
func (c *chaos) watch(ctx context.Context) {
	for pause(ctx, 200*time.Millisecond) {
		for _, s := range c.fleet.seats {
			p, _, up := s.process()
			if !up {
				continue
			}
			select {
			case <-p.Done():
			default:
				continue
			}
			if now, _, _ := s.process(); now != p || c.isFull(s) {
				continue // a fault's own doing
			}
			if c.endsOfFull(p) {
				c.say("      %s ended: %s", s.name, p.Tail(1))
			} else {
				c.problem("%s ended by itself (%v); the last it said:\n%s", s.name, p.Err(), p.Tail(30))
			}
			s.vacate()
			if err := c.restart(ctx, s); err != nil {
				c.problem("%v", err)
			}
		}
		c.watchProducer()
	}
}

// watchProducer starts the producer again when it ended with an error: the stream was away for
// longer than it waits.
func (c *chaos) watchProducer() {
	c.mu.Lock()
	p, busy := c.producer, c.busy[roleProducer] || c.ending
	c.mu.Unlock()
	if busy {
		return
	}
	select {
	case <-p.Done():
	default:
		return
	}
	if p.Err() == nil {
		return
	}
	c.say("      the producer gave up, and is started again: %s", p.Tail(1))
	if err := c.produce(); err != nil {
		c.problem("the producer was started again: %v", err)
	}
}

// finish lets the producer come to its end and the job train all rows, and ends the job.
func (c *chaos) finish(ctx context.Context, prog *progress) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patient)
	defer cancel()
	if c.fleet.net != nil {
		c.fleet.net.Heal()
	}
	if err := c.fleet.startAll(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	if err := c.endProducer(ctx); err != nil {
		return err
	}
	c.say("all rows are acknowledged")
	want := int64(c.rows)
	err := prog.until(ctx, fmt.Sprintf("all %d rows to be trained", want), func(_ tidemill.Assignment, rows int64) bool { return rows >= want })
	if err != nil {
		return err
	}
	if err := c.committed(ctx, want); err != nil {
		return err
	}
	c.say("all rows are trained, and in a snapshot")
	for {
		_, err = c.fleet.run(ctx, "job", countsJob, "finish", "--server", c.fleet.server())
		if err == nil {
			break
		}
		if !pause(ctx, 500*time.Millisecond) {
			return err
		}
	}
	var st trainer.JobStatus
	out, err := c.fleet.run(ctx, "job", countsJob, "wait", "--state", tidemill.JobFinished, "--server", c.fleet.server())
	if err == nil {
		err = json.Unmarshal(out, &st)
	}
	if err != nil {
		return fmt.Errorf("the job did not finish: %w", err)
	}
	c.res.Examples = st.Examples
	if st.Examples != want {
		return fmt.Errorf("the job ended with %d examples of %d: %w", st.Examples, want, tidemill.ErrCorrupt)
	}
	return nil
}

// committed waits until a snapshot holds all rows. What was applied may still be taken back, to be
// applied again; what was committed may not.
func (c *chaos) committed(ctx context.Context, want int64) error {
	for n := 1; ; n++ {
		// The cadence may be one that no more rows will meet. A cut that fails is asked for again.
		try, cancel := context.WithTimeout(ctx, 20*time.Second)
		_, _ = c.fleet.run(try, "job", countsJob, "savepoint", fmt.Sprintf("end-%d", n), "--server", c.fleet.server())
		cancel()
		var st trainer.JobStatus
		out, err := c.fleet.run(ctx, "job", countsJob, "--server", c.fleet.server())
		if err == nil {
			err = json.Unmarshal(out, &st)
		}
		if err == nil && st.SnapshotExamples >= want {
			return nil
		}
		if !pause(ctx, 300*time.Millisecond) {
			return fmt.Errorf("no snapshot holds all rows; the last one has %d of %d: %w", st.SnapshotExamples, want, errors.Join(err, ctx.Err()))
		}
	}
}

// endProducer lets a producer come to its end, without a pace.
func (c *chaos) endProducer(ctx context.Context) error {
	for {
		c.mu.Lock()
		p := c.producer
		c.mu.Unlock()
		select {
		case <-p.Done():
			if p.Err() == nil {
				return nil
			}
		default:
			p.Kill()
		}
		if err := c.produce("--rate", "0"); err != nil {
			return err
		}
		c.mu.Lock()
		p = c.producer
		c.mu.Unlock()
		select {
		case <-p.Done():
			if p.Err() == nil {
				return nil
			}
		case <-ctx.Done():
		}
		if !pause(ctx, 200*time.Millisecond) {
			p.Kill()
			return fmt.Errorf("the producer did not come to its end: %w\n%s", ctx.Err(), p.Tail(10))
		}
	}
}

// check ends the cluster and compares what is in its store with what was in its stream. a is the
// job's record.
func (c *chaos) check(ctx context.Context, a *tidemill.Assignment, answered []int64) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patient)
	defer cancel()
	schema, err := model.DecodeSchema(a.Schema)
	if err != nil {
		return err
	}
	m, err := model.Compile(&a.Spec, schema)
	if err != nil {
		return err
	}
	exact := true
	l, err := readLedger(ctx, c.fleet.streamURL(), m, int64(c.rows))
	if err != nil {
		exact = false
		c.problem("%v", err)
	}
	if err := c.fleet.stopAll(ctx); err != nil {
		c.problem("%v", err)
	}
	// The store belongs to one process at a time.
	bucket, err := fileblob.Open(c.fleet.storeDir(), fileblob.Options{})
	if err != nil {
		return err
	}
	defer bucket.Close()
	if l != nil {
		a, err := l.audit(ctx, bucket)
		c.res.Snapshots, c.res.SnapshotsChecked = a.snapshots, a.checked
		if err != nil {
			exact = false
			c.problem("%v", err)
		}
	}
	c.res.LedgerExact = exact
	c.say("%d snapshots compared, row by row, with %d acknowledged rows: exact %v", c.res.SnapshotsChecked, c.rows, exact)
	champions, err := champions(ctx, bucket)
	if err != nil {
		c.problem("the champions cannot be read: %v", err)
	}
	for _, v := range unpublished(answered, champions) {
		c.problem("version %d answered requests and was never published", v)
	}
	return nil
}

// smallDisk gives the stream a disk that can be made full, where the system allows it.
func (c *chaos) smallDisk(ctx context.Context) {
	d, err := newDisk(ctx, c.fleet.dataDir(c.fleet.seats[0].name))
	if err != nil {
		c.say("no disk will be full, since this system allows no mount of one's own: %v", err)
		return
	}
	c.fleet.disk = d
}

// endsOfFull reports whether a process says that it ended because its disk was full, and lived
// while it was: a node that cannot write drains before it ends, and there may be room again by then.
func (c *chaos) endsOfFull(p *process.Process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p == c.sawFull && strings.Contains(p.Tail(1), "disk is full")
}

// isFull reports whether a seat's disk is full, so that its process may end.
func (c *chaos) isFull(s *seat) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full && s.role == node.RoleStream
}
