package scorer

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
	"github.com/tidemill/tidemill/internal/engine/native"
)

// asChild makes this test binary a child, which behaves as the value says.
const asChild = "TIDEMILL_TEST_SCORER"

func TestMain(m *testing.M) {
	if how := os.Getenv(asChild); how != "" {
		os.Exit(beChild(how, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// beChild is what the command does, or something worse.
func beChild(how string, args []string) int {
	flag := func(name string) int {
		n, err := strconv.Atoi(args[slices.Index(args, name)+1])
		if err != nil {
			panic(err)
		}
		return n
	}
	lanes, err := Lanes(flag("--lanes"))
	if err == nil {
		err = Limit(int64(flag("--memory")))
	}
	if err == nil {
		err = Serve(lanes, func(s *tidemill.Spec, shape engine.Shape, o engine.Options) (engine.Model, error) {
			if how == "dies" {
				_, _ = os.Stderr.WriteString("the library is not well\n")
				os.Exit(7)
			}
			m, err := native.Driver().Compile(s, shape, o)
			return odd{m, how}, err
		})
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		return 1
	}
	return 0
}

// odd is a model that misbehaves when it is asked for as many examples as say so.
type odd struct {
	engine.Model
	how string
}

const trigger = 13

func (o odd) NewStepper() engine.Stepper { return oddStepper{o.Model.NewStepper(), o.how} }

type oddStepper struct {
	engine.Stepper
	how string
}

func (s oddStepper) Predict(dst []float32, in *engine.Inputs, look []engine.Lookup, p *engine.Params) {
	if in.N == trigger {
		switch s.how {
		case "exits":
			os.Exit(3)
		case "hangs":
			select {}
		case "garbage":
			for fd := firstLane; fd < firstLane+64; fd++ {
				_, _ = syscall.Write(fd, bytes.Repeat([]byte{0xa5}, 64))
			}
		case "hog":
			var all [][]byte
			for range 1 << 10 {
				b := make([]byte, 64<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				all = append(all, b)
			}
			_ = all
		case "panics":
			panic("of no use")
		}
	}
	s.Stepper.Predict(dst, in, look, p)
}

func host(t *testing.T, how string, change func(*Config)) *Host {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Command: []string{exe}, Env: []string{asChild + "=" + how}, Lanes: 2, Timeout: time.Minute}
	if change != nil {
		change(&cfg)
	}
	h := NewHost(cfg)
	t.Cleanup(h.Close)
	return h
}

func deepFM() (*tidemill.Spec, engine.Shape) {
	return &tidemill.Spec{
		Model: "m", Seed: 3, Label: tidemill.LabelSpec{Column: "y", Type: tidemill.Binary},
		Architecture: tidemill.Architecture{Kind: "deepfm", Dim: 4, Hidden: []int{8}},
	}, engine.Shape{Fields: 3, Width: 2, FieldNames: []string{"a", "b", "c"}, DenseNames: []string{"x", "y"}, IsCross: make([]bool, 3), Outputs: 1}
}

// problem is a batch with parameters for it.
type problem struct {
	in   *engine.Inputs
	look []engine.Lookup
	p    *engine.Params
}

func newProblem(m engine.Model, shape engine.Shape, seed uint64, n int) problem {
	r := rand.New(rand.NewPCG(seed, 1))
	in := new(engine.Inputs)
	in.Reset(shape.Fields, shape.Width)
	in.N = n
	for range n {
		for range shape.Fields {
			for range r.IntN(3) {
				in.IDs = append(in.IDs, r.Uint64N(9))
				in.Values = append(in.Values, float32(r.NormFloat64()))
			}
			in.Offsets = append(in.Offsets, int32(len(in.IDs)))
		}
		for range shape.Width {
			in.Dense = append(in.Dense, float32(r.NormFloat64()))
		}
		in.Labels = append(in.Labels, float32(r.IntN(2)))
		in.Weights = append(in.Weights, float32(r.IntN(3)))
	}
	x := problem{in: in, look: engine.Lookups(nil, new(engine.Scratch), in, m), p: &engine.Params{}}
	for t, spec := range m.Tables() {
		x.p.Rows = append(x.p.Rows, floats(r, len(x.look[t].Unique)*spec.Dim))
	}
	for _, spec := range m.Tensors() {
		x.p.Dense = append(x.p.Dense, floats(r, spec.Len()))
	}
	return x
}

func floats(r *rand.Rand, n int) []float32 {
	f := make([]float32, n)
	for i := range f {
		f[i] = float32(r.NormFloat64())
	}
	return f
}

// pairOf returns a model in a child, and the same one here.
func pairOf(t *testing.T, h *Host) (there, here engine.Model, shape engine.Shape) {
	t.Helper()
	spec, shape := deepFM()
	here, err := native.Driver().Compile(spec, shape, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if there, err = h.Compile(spec, shape, engine.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.(io.Closer).Close() })
	return there, here, shape
}

// predict answers x with a new Stepper.
func predict(m engine.Model, x problem) ([]float32, error) {
	dst := make([]float32, x.in.N*m.Outputs())
	s := m.NewStepper()
	s.Predict(dst, x.in, x.look, x.p)
	return dst, s.Err()
}

func TestAnswersAreThoseOfThisProcess(t *testing.T) {
	for _, shared := range []bool{false, true} {
		there, here, shape := pairOf(t, host(t, "serves", func(c *Config) { c.Shared = shared }))
		if there.Profile() != here.Profile() || there.Outputs() != here.Outputs() || len(there.Tables()) != len(here.Tables()) || len(there.Tensors()) != len(here.Tensors()) {
			t.Fatal("the child's model says something else of itself")
		}
		for tab := range here.Tables() {
			for f := range shape.Fields {
				if there.UsesField(tab, f) != here.UsesField(tab, f) {
					t.Errorf("table %d, field %d", tab, f)
				}
			}
		}
		s, ref := there.NewStepper(), here.NewStepper()
		for seed, n := range []int{1, 7, 300, 0, 2} {
			x := newProblem(here, shape, uint64(seed), n)
			got, err := predict(there, x)
			want, _ := predict(here, x)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("%d rows: %v, %v; %v", n, got, want, err)
			}
			if n == 0 {
				continue
			}
			e, w := s.Evaluate(x.in, x.look, x.p), ref.Evaluate(x.in, x.look, x.p)
			if s.Err() != nil || !slices.Equal(e.Losses, w.Losses) || !slices.Equal(e.Predictions, w.Predictions) {
				t.Fatalf("%d rows: losses %v, %v; %v", n, e.Losses, w.Losses, s.Err())
			}
		}
		if s.Step(nil, nil, nil); !errors.Is(s.Err(), tidemill.ErrInvalid) {
			t.Errorf("a step: %v", s.Err())
		}
	}
}

func TestARefusedModel(t *testing.T) {
	h := host(t, "serves", nil)
	spec, shape := deepFM()
	spec.Architecture.Kind = "oracle"
	_, want := native.Driver().Compile(spec, shape, engine.Options{})
	if _, err := h.Compile(spec, shape, engine.Options{}); !errors.Is(err, tidemill.ErrInvalid) || err.Error() != want.Error() {
		t.Fatalf("%v; here it is %v", err, want)
	}
	if _, err := host(t, "dies", nil).Compile(spec, shape, engine.Options{}); !errors.Is(err, tidemill.ErrNotReady) || !strings.Contains(err.Error(), "not well") || !strings.Contains(err.Error(), "exit status 7") {
		t.Fatalf("a child that dies: %v", err)
	}
	if _, err := NewHost(Config{Command: []string{t.TempDir() + "/none"}}).Compile(spec, shape, engine.Options{}); !errors.Is(err, tidemill.ErrNotReady) {
		t.Fatalf("no child: %v", err)
	}
}

// A request that ends its child has an error of its own; the next one is answered, and the process
// of the test goes on.
func TestChildrenThatFailAreReplaced(t *testing.T) {
	for _, how := range []string{"exits", "hangs", "garbage", "hog"} {
		t.Run(how, func(t *testing.T) {
			if how == "hog" && runtime.GOOS != "linux" {
				t.Skip("memory is limited on Linux")
			}
			var restarts atomic.Int64
			h := host(t, how, func(c *Config) {
				c.Restarted = func(string) { restarts.Add(1) }
				if how == "hangs" {
					c.Timeout = time.Second
				}
				if how == "hog" {
					c.Memory = 1 << 30
				}
			})
			there, here, shape := pairOf(t, h)
			good := newProblem(here, shape, 1, 5)
			want, _ := predict(here, good)
			for range 2 {
				if _, err := predict(there, newProblem(here, shape, 2, trigger)); !errors.Is(err, tidemill.ErrNotReady) {
					t.Fatalf("a request that ends its process: %v", err)
				}
				waitFor(t, func() bool {
					got, err := predict(there, good)
					return err == nil && slices.Equal(got, want)
				})
			}
			if n := restarts.Load(); n < 3 {
				t.Errorf("%d restarts", n)
			}
		})
	}
}

func TestAPanicIsThatRequests(t *testing.T) {
	var restarts atomic.Int64
	there, here, shape := pairOf(t, host(t, "panics", func(c *Config) { c.Restarted = func(string) { restarts.Add(1) } }))
	if _, err := predict(there, newProblem(here, shape, 2, trigger)); !errors.Is(err, tidemill.ErrInvalid) || !strings.Contains(err.Error(), "of no use") {
		t.Fatal(err)
	}
	if _, err := predict(there, newProblem(here, shape, 2, 4)); err != nil || restarts.Load() != 0 {
		t.Fatal(err, restarts.Load())
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(2 * time.Minute); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("it does not come")
		}
	}
}

// Children are killed while many ask: every answer is right, and few requests fail.
func TestKillsUnderLoad(t *testing.T) {
	h := host(t, "serves", nil)
	there, here, shape := pairOf(t, h)
	var wg sync.WaitGroup
	var answered, failed atomic.Int64
	stop := make(chan struct{})
	for g := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				x := newProblem(here, shape, uint64(g*1000+i), 1+i%20)
				x.p.Dense = nil
				got, err := answer(there, here, x)
				switch {
				case err == nil && got:
					answered.Add(1)
				case errors.Is(err, tidemill.ErrNotReady):
					failed.Add(1)
				default:
					t.Errorf("wrong answer, or %v", err)
					return
				}
			}
		})
	}
	w := there.(*Model).ward
	const kills = 5
	for range kills {
		before := answered.Load()
		waitFor(t, func() bool { return answered.Load() > before+20 || t.Failed() })
		w.mu.Lock()
		p := w.p
		w.mu.Unlock()
		if p != nil {
			_ = syscall.Kill(p.cmd.Process.Pid, syscall.SIGKILL)
			<-p.ended
		}
	}
	before := answered.Load()
	waitFor(t, func() bool { return answered.Load() > before+20 || t.Failed() })
	close(stop)
	wg.Wait()
	t.Logf("%d kills: %d answered, %d failed", kills, answered.Load(), failed.Load())
}

// answer compares both models' answers, with dense tensors that all requests of a model share.
func answer(there, here engine.Model, x problem) (same bool, err error) {
	shared.Do(func() {
		r := rand.New(rand.NewPCG(9, 9))
		for _, spec := range here.Tensors() {
			dense = append(dense, floats(r, spec.Len()))
		}
	})
	x.p.Dense = dense
	got, err := predict(there, x)
	if err != nil {
		return false, err
	}
	want, err := predict(here, x)
	return slices.Equal(got, want), err
}

var (
	shared sync.Once
	dense  [][]float32
)

// Models of one spec share a child; it outlives the last of them for a while, and no longer.
func TestSharing(t *testing.T) {
	h := host(t, "serves", func(c *Config) { c.Shared, c.Linger = true, 50*time.Millisecond })
	a, here, shape := pairOf(t, h)
	b, _, _ := pairOf(t, h)
	if a.(*Model).ward != b.(*Model).ward {
		t.Fatal("two children for one spec")
	}
	x, y := newProblem(here, shape, 1, 4), newProblem(here, shape, 2, 4)
	for range 3 { // sets of dense tensors are not mixed up
		for m, p := range map[engine.Model]problem{a: x, b: y} {
			got, err := predict(m, p)
			want, _ := predict(here, p)
			if err != nil || !slices.Equal(got, want) {
				t.Fatal(got, want, err)
			}
		}
	}
	w := a.(*Model).ward
	a.(*Model).Close()
	if got, err := predict(b, y); err != nil || len(got) != 4 {
		t.Fatal("the child went with the first of its models:", err)
	}
	w.mu.Lock()
	p := w.p
	w.mu.Unlock()
	p.mu.Lock()
	if len(p.sent) != 1 {
		t.Errorf("%d sets of tensors are kept for one model", len(p.sent))
	}
	p.mu.Unlock()
	b.(*Model).Close()
	<-p.ended
	c, _, _ := pairOf(t, h)
	if got, err := predict(c, x); err != nil || len(got) != 4 {
		t.Fatal(err)
	}
}

// Malformed messages end the lane that they came on, and what is well formed but does not fit is
// answered with an error.
func FuzzServe(f *testing.F) {
	spec, shape := deepFM()
	here, err := native.Driver().Compile(spec, shape, engine.Options{})
	if err != nil {
		f.Fatal(err)
	}
	for seed, n := range []int{1, 3} {
		var b bytes.Buffer
		w := &writer{w: bufio.NewWriter(&b)}
		x := newProblem(here, shape, uint64(seed), n)
		w.byte(opDense)
		w.number(1)
		w.number(uint64(len(x.p.Dense)))
		for _, d := range x.p.Dense {
			writeArray(w, d)
		}
		writeRequest(w, opPredict, 1, x.in, x.look, x.p.Rows)
		writeRequest(w, opEvaluate, 1, x.in, x.look, x.p.Rows)
		w.byte(opForget)
		w.number(1)
		if err := w.flush(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &child{sets: map[uint64][][]float32{}, model: here, facts: facts{Tables: here.Tables(), Tensors: here.Tensors(), Outputs: 1}}
		var out bytes.Buffer
		_ = c.serve(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(data), &out})
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte{answerOK, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{answerInvalid, 2, 0, 0, 0, 0, 0, 0, 0, 'n', 'o'})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &reader{r: bufio.NewReader(bytes.NewReader(data))}
		dst := make([]float32, 2)
		if broken, err := r.answer(); err == nil && !broken {
			readExactly(r, dst, "predictions")
		}
	})
}
