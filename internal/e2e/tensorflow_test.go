//go:build tensorflow

package e2e

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/rebuild"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source/file"
)

// served checks that serving answers what a job's champion gives on rows.
func (s *system) served(model string, champion int64, csv []byte) {
	s.t.Helper()
	if champion == 0 {
		s.t.Fatalf("%s: the gate let nothing through", model)
	}
	s.until("the champion of "+model+" serves", func() bool { return s.Serving().Live(model) == champion })
	conn, err := grpc.NewClient(s.Info().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	in, err := file.OpenRows("rows.csv", bytes.NewReader(csv), file.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer in.Close()
	some, err := in.Next(64)
	if err != nil {
		s.t.Fatal(err)
	}
	defer some.Rows.Release()
	files, err := snapshot.ReadVersion(s.ctx, s.Bucket(), model, champion)
	if err != nil {
		s.t.Fatal(err)
	}
	loaded, err := predict.Load(files)
	if err != nil {
		s.t.Fatal(err)
	}
	want, err := loaded.NewScorer().Predict(nil, some.Rows)
	if err != nil {
		s.t.Fatal(err)
	}
	c := infer.New(conn)
	columns, err := c.Columns(s.ctx, model)
	if err != nil {
		s.t.Fatal(err)
	}
	got, err := c.Predict(s.ctx, model, "", columns, some.Rows)
	if err != nil {
		s.t.Fatal(err)
	}
	if got.Version != champion || !slices.EqualFunc(got.Predictions, want, func(a, b float32) bool { return math.Abs(float64(a-b)) <= 1e-6 }) {
		s.t.Errorf("%s: version %d answers %v, and the files of %d give %v", model, got.Version, got.Predictions, champion, want)
	}
}

// A job with engine tensorflow is trained, gated and served; the same job has the same bits from
// run to run, and comes close to the native engine's.
func TestTensorFlow(t *testing.T) {
	const seed = 7
	csv := modelData(seed, modelRows)
	s := start(t, t.TempDir(), node.Config{Slots: 2})
	s.produce("meetings", 2, csv)
	const rest = "label: {column: match, positive: 1}\narchitecture: {kind: deepfm, dim: 4, hidden: [16], init_scale: 0.1}\n" +
		"optimizer: {sparse: {adagrad: {lr: 0.2}}, dense: {adagrad: {lr: 0.1}}, average: {decay: 0.99}}"
	for model, engine := range map[string]string{"first": "tensorflow", "second": "tensorflow", "native": "native"} {
		s.submit(parse(t, fmt.Appendf(nil, "model: %s\nengine: %s\n"+modelFeatures+"%s\n", model, engine, "", rest), nil))
	}
	first, second, native := s.finish("first"), s.finish("second"), s.finish("native")
	if first.Examples != modelRows || first.Digest != second.Digest {
		t.Errorf("%d examples, digests %s and %s", first.Examples, first.Digest, second.Digest)
	}
	if first.Digest == native.Digest {
		t.Error("the native engine has the same bits: was TensorFlow asked at all?")
	}
	a, b := first.Progress.Loss, native.Progress.Loss
	t.Logf("loss %.6f, native %.6f", a, b)
	if !(math.Abs(a-b) <= 1e-3*b) {
		t.Errorf("loss %v, of the native engine %v", a, b)
	}
	if p := s.manifest("first").Profile; !strings.HasPrefix(p, "tensorflow/") {
		t.Errorf("numeric profile %q", p)
	}
	s.served("first", first.Champion, csv)
}

// clickData fits the graph file of internal/graphfile's tests.
func clickData(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 4))
	var b bytes.Buffer
	b.WriteString("user,item,age,hour,click\n")
	for range n {
		user, item, age, hour := r.IntN(40), r.IntN(30), r.NormFloat64(), r.NormFloat64()
		click := 0
		if age+float64(user%2)-float64(item%3)+0.3*r.NormFloat64() > 0 {
			click = 1
		}
		fmt.Fprintf(&b, "%d,i%d,%g,%g,%d\n", user, item, age, hour, click)
	}
	return b.Bytes()
}

const clickJob = `
model: %s
stream: {topic: clicks}
label: {column: click, positive: 1}
features:
  - {name: user, column: user, hash: {}}
  - {name: item, column: item}
  - {name: age, column: age}
  - {name: hour, column: hour}
architecture: {kind: graph, file: ratings.graph}
optimizer: {sparse: {adagrad: {lr: 0.1}}, dense: {adam: {lr: 0.01}}}
train: {batch: 32, linger: 20ms, snapshot: {every: 1000 rows}}
gate: {min_examples: 300, clip: 1}
`

// A graph exported from Keras is trained, gated and served; its bits are the same on a node with
// one slot, and when a version is made again.
func TestTensorFlowGraph(t *testing.T) {
	const seed, rows = 8, 6000
	csv := clickData(seed, rows)
	graph, err := os.ReadFile("../graphfile/testdata/ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	run := func(slots int) (*system, string, int64) {
		s := start(t, t.TempDir(), node.Config{Slots: slots})
		s.produce("clicks", 2, csv)
		doc := parse(t, fmt.Appendf(nil, clickJob, "graph"), nil)
		if doc.Spec.Architecture.Graph, err = snapshot.WriteGraph(s.ctx, s.Bucket(), graph); err != nil {
			t.Fatal(err)
		}
		s.submit(doc)
		st := s.finish("graph")
		late := st.Validation.Since(rows / 2 * 3 / 5)
		t.Logf("loss %.4f, of the last %d %.4f, prior %.4f; champion %d, %d rows aside", st.Progress.Loss, late.Examples, late.Loss, late.PriorLoss, st.Champion, st.BadRows)
		if st.Examples != rows || !(late.Loss < 0.7*late.PriorLoss) {
			t.Errorf("%d examples, late loss %.4f, prior %.4f", st.Examples, late.Loss, late.PriorLoss)
		}
		return s, st.Digest, st.Champion
	}
	one, digest, _ := run(1)
	one.stop()
	s, again, champion := run(2)
	if digest != again {
		t.Errorf("digest %s with one slot, %s with two", digest, again)
	}
	s.served("graph", champion, csv)
	if r := s.rebuild("graph", champion, rebuild.Nearest); r.Outcome != rebuild.Same {
		t.Errorf("made again, version %d is %s: %s", champion, r.Outcome, r.Why)
	}
}

// A job whose graph was not sent along is refused with the place in its spec.
func TestTensorFlowGraphIsMissing(t *testing.T) {
	s := start(t, t.TempDir(), node.Config{})
	s.produce("clicks", 1, clickData(1, 10))
	doc := parse(t, fmt.Appendf(nil, clickJob, "graph"), nil)
	if _, err := s.Trainer().SubmitSpec(s.ctx, doc); err == nil || !strings.Contains(err.Error(), "not sent along") {
		t.Errorf("error %v", err)
	}
	doc.Spec.Architecture.Graph = strings.Repeat("ab", 32)
	if _, err := s.Trainer().SubmitSpec(s.ctx, doc); err == nil || !strings.Contains(err.Error(), tidemill.ErrNotFound.Error()) {
		t.Errorf("error %v", err)
	}
}
