package e2e

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/predict"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/source/file"
)

const modelRows = 5000

// modelData has labels of every type: a number, one of three classes, and a yes or no that
// depends on how two words meet and on neither alone.
func modelData(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	var b bytes.Buffer
	b.WriteString("u,v,left,right,amount,kind,match\n")
	for range n {
		u, v, l, q := r.NormFloat64(), r.NormFloat64(), r.IntN(6), r.IntN(6)
		amount := 3 + 2*u - v + 0.5*float64(l) + 0.2*r.NormFloat64()
		kind := []string{"red", "green", "blue"}[(l+q)%3]
		if r.Float64() < 0.05 {
			kind = "red"
		}
		match := 0
		if (l%2 == q%2) != (r.Float64() < 0.05) {
			match = 1
		}
		fmt.Fprintf(&b, "%g,%g,l%d,r%d,%g,%s,%d\n", u, v, l, q, amount, kind, match)
	}
	return b.Bytes()
}

const modelFeatures = `
stream: {topic: meetings}
features:
  - {name: u, column: u, standardize: {}}
  - {name: v, column: v}
  - {name: left, column: left, hash: {}}
  - {name: right, column: right, hash: {}}
  %s
train: {batch: 8, linger: 20ms, snapshot: {every: 500 rows}}
gate: {min_examples: 300}
`

// Every architecture learns what only it can, the gate lets it through, and serving answers
// what it learned, bit for bit what the version's files give.
func TestModelsLearn(t *testing.T) {
	const seed = 7
	t.Logf("seed %d", seed)
	const cross = "- {cross: [left, right]}"
	const adagrad = "optimizer: {sparse: {adagrad: {lr: 0.2}}, dense: {adagrad: {lr: 0.1}}, average: {decay: 0.99}}"
	const adam = "optimizer: {sparse: {adam: {lr: 0.01}}, dense: {adam: {lr: 0.01}}, average: {decay: 0.99}}"
	cases := []struct {
		model, extra, rest string
		most               float64 // late loss, in units of the prior's
	}{
		{"linear", "", "label: {column: amount, type: regression}\narchitecture: {kind: linear}\n" + adagrad, 0.1},
		{"huber", "", "label: {column: amount, type: regression}\narchitecture: {kind: mlp, dim: 4, hidden: [16], loss: huber, init_scale: 0.1}\n" + adam, 0.2},
		{"softmax", cross, "label: {column: kind, type: multiclass, classes: [red, green, blue]}\narchitecture: {kind: softmax}\n" + adagrad, 0.5},
		{"logistic", cross, "label: {column: match, positive: 1}\narchitecture: {kind: logistic}\n" + adagrad, 0.5},
		{"fm", "", "label: {column: match, positive: 1}\narchitecture: {kind: fm, dim: 4, init_scale: 0.1}\n" + adagrad, 0.6},
		{"mlp", "", "label: {column: match, positive: 1}\narchitecture: {kind: mlp, dim: 4, hidden: [16], init_scale: 0.3}\n" + adam, 0.6},
		{"wide_deep", cross, "label: {column: match, positive: 1}\narchitecture: {kind: wide_deep, dim: 4, hidden: [16]}\n" + adagrad, 0.5},
		{"deepfm", "", "label: {column: match, positive: 1}\narchitecture: {kind: deepfm, dim: 4, hidden: [16], init_scale: 0.1}\n" + adagrad, 0.5},
		{"dlrm", "", "label: {column: match, positive: 1}\narchitecture: {kind: dlrm, dim: 4, bottom: [8], hidden: [16], init_scale: 0.3}\n" + adam, 0.6},
		{"dcn", "", "label: {column: match, positive: 1}\narchitecture: {kind: dcn, dim: 4, hidden: [16], cross_layers: 2, rank: 4, init_scale: 0.3}\n" + adam, 0.6},
		{"regularised", cross, "label: {column: match, positive: 1}\narchitecture: {kind: wide_deep, dim: 4, hidden: [16], layer_norm: true, dropout: 0.1}\n" +
			"optimizer: {sparse: {adagrad: {lr: 0.2}}, dense: {adagrad: {lr: 0.1}}, tables: {wide: {ftrl: {alpha: 0.5}}}, clip_norm: 1, average: {decay: 0.99}}", 0.5},
		{"deep_softmax", "", "label: {column: kind, type: multiclass, classes: [red, green, blue]}\narchitecture: {kind: mlp, dim: 4, hidden: [16], init_scale: 0.3}\n" + adam, 0.6},
	}
	csv := modelData(seed, modelRows)
	s := start(t, t.TempDir(), node.Config{Slots: 2})
	s.produce("meetings", 2, csv)
	for _, c := range cases {
		s.submit(parse(t, fmt.Appendf(nil, "model: %s\n"+modelFeatures+"%s\n", c.model, c.extra, c.rest), nil))
	}
	conn, err := grpc.NewClient(s.Info().GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in, err := file.OpenRows("meetings.csv", bytes.NewReader(csv), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	some, err := in.Next(64)
	if err != nil {
		t.Fatal(err)
	}
	defer some.Rows.Release()
	for _, c := range cases {
		st := s.finish(c.model)
		late := st.Validation.Since(modelRows / 2 * 3 / 5) // of both partitions
		ratio := late.Loss / late.PriorLoss
		t.Logf("%-12s loss %.4f, of the last %d %.4f, prior %.4f; champion %d", c.model, st.Progress.Loss, late.Examples, late.Loss, late.PriorLoss, st.Champion)
		if st.Examples != modelRows || !(ratio < c.most) {
			t.Errorf("%s: %d examples, late loss %.4f of the prior's, want less than %.2f", c.model, st.Examples, ratio, c.most)
		}
		if st.Champion == 0 {
			t.Errorf("%s: the gate let nothing through", c.model)
			continue
		}
		s.until("the champion serves", func() bool { return s.Serving().Live(c.model) == st.Champion })
		files, err := snapshot.ReadVersion(s.ctx, s.Bucket(), c.model, st.Champion)
		if err != nil {
			t.Fatal(err)
		}
		m, err := predict.Load(files)
		if err != nil {
			t.Fatal(err)
		}
		want, err := m.NewScorer().Predict(nil, some.Rows)
		if err != nil {
			t.Fatal(err)
		}
		var columns []string
		for _, col := range m.Columns() {
			columns = append(columns, col.Name)
		}
		got, err := infer.New(conn).Predict(s.ctx, c.model, "", columns, some.Rows)
		if err != nil {
			t.Fatal(err)
		}
		same := slices.EqualFunc(got.Predictions, want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) })
		if got.Version != st.Champion || !same {
			t.Errorf("%s: serving answers %v with version %d, the files of version %d say %v", c.model, got.Predictions[:4], got.Version, st.Champion, want[:4])
		}
		if st.State != tidemill.JobFinished {
			t.Errorf("%s is %s", c.model, st.State)
		}
	}
}
