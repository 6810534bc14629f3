package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/process"
)

// RecoveryConfig says what a run of Recovery does. Binary and Dir are required.
type RecoveryConfig struct {
	Binary  string        // the program
	Dir     string        // for data and logs; empty or new
	Seed    uint64        // of the rows
	Rows    int           // of the sparse table, each of 16 floats; default 2,000,000: a million on each of two ps
	Repeat  int           // kills of each role; default 10
	Roles   []string      // to kill; default worker, ps, trainer and all
	Rate    int           // rows appended per second while it runs; default 500
	Events  func(Event)   // called for each thing that happens; may be nil
	Patient time.Duration // bounds each wait; default 3 minutes
}

// RoleAll stands for everybody but serving, killed at once.
const RoleAll = faultAll

// RecoveryResult is what a run of Recovery measured.
type RecoveryResult struct {
	Rows            int                  `json:"rows"` // of the table, when the kills began
	RecoverySeconds map[string]Spread    `json:"recovery_seconds"`
	Seconds         map[string][]float64 `json:"seconds"` // each of them, ascending
	Requests        int64                `json:"requests"`
	RequestsRetried int64                `json:"requests_retried"`
	RequestsFailed  int64                `json:"requests_failed"`
	Problems        []string             `json:"problems"`
	Dir             string               `json:"dir,omitempty"`
}

// The model whose state is restored: a factorisation machine over eight columns, so that each
// row of its table is one linear weight and 15 factors.
const (
	recoveryJob     = "recovery"
	recoveryColumns = 8
)

func recoverySpec() string {
	s := fmt.Sprintf("model: %s\nstream: {topic: %s, from: earliest}\nlabel: {column: y, positive: 1}\nfeatures:\n", recoveryJob, recoveryJob)
	for _, c := range recoveryNames() {
		s += fmt.Sprintf("  - {name: %s, column: %s, hash: {}}\n", c, c)
	}
	return s + `architecture: {kind: fm, dim: 15}
optimizer: {sparse: {sgd: {lr: 0.01}}, dense: {sgd: {lr: 0.01}}}
train: {batch: 512, linger: 20ms, staleness: 0, snapshot: {every: 10s}}
gate: {mode: off}
`
}

func recoveryNames() []string {
	names := make([]string, recoveryColumns)
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	return names
}

// writeRecovery writes rows whose column c holds value(row, c), and labels at random.
func writeRecovery(name string, rows int, r *rand.Rand, value func(row, column int) int) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := bufio.NewWriter(out)
	for _, c := range recoveryNames() {
		fmt.Fprint(w, c, ",")
	}
	fmt.Fprintln(w, "y")
	for i := range rows {
		for c := range recoveryColumns {
			fmt.Fprint(w, value(i, c), ",")
		}
		fmt.Fprintln(w, r.IntN(2))
	}
	return w.Flush()
}

// meter is one run of Recovery.
type meter struct {
	cfg   RecoveryConfig
	fleet *fleet
	began time.Time
	res   RecoveryResult
	took  map[string][]time.Duration
	waits time.Duration // so far, between kills
}

// Recovery fills a model, then kills a worker, a ps, the leading trainer and everybody but serving,
// one after the other and again and again, and measures each time how long it takes until a
// batch is applied without those who were killed. Clients ask serving all the while.
func Recovery(ctx context.Context, cfg RecoveryConfig) (*RecoveryResult, error) {
	if cfg.Binary == "" || cfg.Dir == "" {
		return nil, tidemill.Invalid("a run without program or directory", "set Binary and Dir")
	}
	or(&cfg.Rows, 2_000_000)
	or(&cfg.Repeat, 10)
	or(&cfg.Rate, 500)
	or(&cfg.Patient, 3*time.Minute)
	if len(cfg.Roles) == 0 {
		cfg.Roles = []string{node.RoleWorker, node.RolePS, node.RoleTrainer, RoleAll}
	}
	m := &meter{
		cfg: cfg, began: time.Now(), took: map[string][]time.Duration{},
		res: RecoveryResult{Rows: cfg.Rows, RecoverySeconds: map[string]Spread{}, Seconds: map[string][]float64{}, Problems: []string{}, Dir: cfg.Dir},
	}
	var err error
	m.fleet, err = newFleet(cfg.Binary, cfg.Dir, cfg.Seed, map[string]int{
		node.RoleStream: 1, node.RoleTrainer: 2, node.RolePS: 2, node.RoleWorker: 2, node.RoleServing: 1,
	}, false)
	if err != nil {
		return nil, err
	}
	defer m.fleet.close()
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	for role, took := range m.took {
		m.res.RecoverySeconds[role] = spreadOf(took)
		for _, d := range took {
			m.res.Seconds[role] = append(m.res.Seconds[role], d.Seconds())
		}
	}
	return &m.res, nil
}

func (m *meter) say(format string, args ...any) {
	if m.cfg.Events != nil {
		m.cfg.Events(Event{time.Since(m.began), fmt.Sprintf(format, args...)})
	}
}

func (m *meter) patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, m.cfg.Patient)
}

func (m *meter) run(ctx context.Context) error {
	r := rand.New(rand.NewPCG(m.cfg.Seed, 1))
	fill := filepath.Join(m.cfg.Dir, "fill.csv")
	rows := (m.cfg.Rows + recoveryColumns - 1) / recoveryColumns
	if err := writeRecovery(fill, rows, r, func(row, _ int) int { return row }); err != nil {
		return fmt.Errorf("the rows cannot be written: %w", err)
	}
	up, cancel := m.patient(ctx)
	defer cancel()
	if err := m.fleet.start(up, m.fleet.seats[0]); err != nil {
		return err
	}
	if err := m.fleet.startAll(up); err != nil {
		return err
	}
	m.say("up: %d processes", len(m.fleet.seats))
	if _, err := m.fleet.run(up, "produce", recoveryJob, fill, "--partitions", "4", "--no-check", "--stream-url", m.fleet.streamURL()); err != nil {
		return err
	}
	file := filepath.Join(m.cfg.Dir, "job.yaml")
	if err := os.WriteFile(file, []byte(recoverySpec()), 0o644); err != nil {
		return err
	}
	if _, err := m.fleet.run(up, "submit", file, "--server", m.fleet.server()); err != nil {
		return err
	}
	all, end := context.WithCancel(ctx)
	defer end()
	prog, err := follow(all, m.fleet, recoveryJob)
	if err != nil {
		return err
	}
	defer prog.wait()
	defer end()
	err = prog.until(up, "the model to be filled", func(_ tidemill.Assignment, n int64) bool { return n >= int64(rows) })
	if err != nil {
		return err
	}
	m.say("%d rows of 16 floats are learned", rows*recoveryColumns)
	if err := m.feed(all, rows); err != nil {
		return err
	}
	load, err := newLoad([]string{m.fleet.of(node.RoleServing)[0].grpc.Inside}, recoveryQuestions(rows))
	if err != nil {
		return err
	}
	defer load.close()
	if err := load.answers(up); err != nil {
		return err
	}
	var clients sync.WaitGroup
	asking, quiet := context.WithCancel(all)
	clients.Go(func() { load.run(asking, rand.New(rand.NewPCG(m.cfg.Seed, 2))) })
	err = m.kills(ctx, prog)
	quiet()
	clients.Wait()
	requests, retried, failed, _, problems := load.totals()
	m.res.Requests, m.res.RequestsRetried, m.res.RequestsFailed = requests, retried, failed
	m.res.Problems = append(m.res.Problems, problems...)
	if err != nil {
		return err
	}
	stop, cancel := m.patient(ctx)
	defer cancel()
	return m.fleet.stopAll(stop)
}

// feed appends rows at a steady pace until ctx ends. They touch what is there already.
func (m *meter) feed(ctx context.Context, known int) error {
	r := rand.New(rand.NewPCG(m.cfg.Seed, 3))
	file := filepath.Join(m.cfg.Dir, "feed.csv")
	// Enough for any run; what is left of it is not produced.
	rows := m.cfg.Rate * 60 * 60
	if err := writeRecovery(file, min(rows, 4_000_000), r, func(int, int) int { return r.IntN(known) }); err != nil {
		return fmt.Errorf("the rows cannot be written: %w", err)
	}
	args := []string{"produce", recoveryJob, file, "--no-check", "--json", "--rate", fmt.Sprint(m.cfg.Rate), "--stream-url", m.fleet.streamURL()}
	p, err := process.Start(roleProducer, nil, m.cfg.Binary, args...)
	if err != nil {
		return err
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				p.Kill()
				return
			case <-p.Done():
			}
			// The stream was away for longer than the producer waits.
			if ctx.Err() != nil || p.Err() == nil {
				return
			}
			next, err := process.Start(roleProducer, nil, m.cfg.Binary, args...)
			if err != nil {
				return
			}
			p = next
		}
	}()
	return nil
}

// kills kills and measures.
func (m *meter) kills(ctx context.Context, prog *progress) error {
	for i := range m.cfg.Repeat {
		for _, role := range m.cfg.Roles {
			if err := m.settled(ctx, prog); err != nil {
				return err
			}
			took, err := m.kill(ctx, prog, role, i)
			if err != nil {
				return err
			}
			m.took[role] = append(m.took[role], took)
			m.say("%-8s killed: trains again after %.2f s", role, took.Seconds())
		}
	}
	return nil
}

// settled waits until everybody owns something, a snapshot was committed since, and batches
// are applied.
func (m *meter) settled(ctx context.Context, prog *progress) error {
	ctx, cancel := m.patient(ctx)
	defer cancel()
	if err := m.fleet.startAll(ctx); err != nil {
		return err
	}
	err := prog.until(ctx, "every process to own its share", func(a tidemill.Assignment, _ int64) bool {
		if a.State != tidemill.JobRunning {
			return false
		}
		for _, role := range []string{node.RoleWorker, node.RolePS} {
			for _, s := range m.fleet.of(role) {
				if len(ownersOf(&a, s.name)) == 0 {
					return false
				}
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	done, stop := prog.after(time.Now(), nil)
	defer stop()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("training does not go on: %w", ctx.Err())
	}
	// Not always at the same moment between two cuts.
	m.waits += 1700 * time.Millisecond
	if !pause(ctx, 2*time.Second+m.waits%(3*time.Second)) {
		return ctx.Err()
	}
	return nil
}

// kill kills a role once and returns how long training stood still.
func (m *meter) kill(ctx context.Context, prog *progress, role string, i int) (time.Duration, error) {
	ctx, cancel := m.patient(ctx)
	defer cancel()
	var victims []*seat
	var names []string
	a := prog.assignment()
	switch role {
	case RoleAll:
		for _, s := range m.fleet.seats {
			if s.role != node.RoleServing {
				victims = append(victims, s)
			}
		}
	case node.RoleTrainer:
		for _, s := range m.fleet.of(role) {
			if memberOf(a.Leader.ID, s.name) {
				victims = append(victims, s)
			}
		}
	default:
		seats := m.fleet.of(role)
		victims = append(victims, seats[i%len(seats)])
	}
	if len(victims) == 0 {
		return 0, fmt.Errorf("no process of role %q does anything: %w", role, tidemill.ErrNotReady)
	}
	for _, s := range victims {
		names = append(names, s.name)
	}
	begun := time.Now()
	done, stop := prog.after(begun, prog.members(names...))
	defer stop()
	var killed sync.WaitGroup
	for _, s := range victims {
		killed.Go(s.kill)
	}
	killed.Wait()
	if role == RoleAll {
		if err := m.fleet.startAll(ctx); err != nil {
			return 0, err
		}
	}
	select {
	case took := <-done:
		return took, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("training did not go on after a %s was killed: %w", role, ctx.Err())
	}
}

// recoveryQuestions asks about rows that were learned.
func recoveryQuestions(known int) questions {
	return questions{
		model: recoveryJob, columns: recoveryNames(),
		rows: func(r *rand.Rand) arrow.RecordBatch {
			return integers(recoveryNames(), 1+r.IntN(4), func(int) int64 { return r.Int64N(int64(known)) })
		},
		wrong: func(a infer.Answer, rows int) string {
			if len(a.Predictions) != rows {
				return fmt.Sprintf("version %d answers %d rows with %d predictions", a.Version, rows, len(a.Predictions))
			}
			return ""
		},
	}
}
