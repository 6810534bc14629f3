package spec_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/spec"
)

const elec2 = `
model: elec2
stream: {topic: elec2, from: earliest}
label:  {column: class, positive: 1}
time:   {column: ts, max_out_of_order: 5s}
features:
  - {name: price,  column: nswprice, bucketize: {geometric: [0.01, 0.3, 19]}}
  - {name: hour,   column: period, bucketize: {uniform: [0, 1, 48]}}
  - {name: demand, column: nswdemand, standardize: {}}
  - {cross: [price, hour]}
architecture: {kind: logistic}
optimizer: {sparse: {ftrl: {alpha: 0.1}}, dense: {adam: {lr: 0.001}}, average: {decay: 0.999}}
train:  {batch: 512, linger: 200ms, staleness: 0, snapshot: {every: 2s}, max_rows: 5_000_000}
gate:   {margin: 0.01, alpha: 0.01, clip: 0.5, min_examples: 1000}
serve:  {max_batch: 1024}
`

func schema() *arrow.Schema {
	return arrow.NewSchema([]arrow.Field{
		{Name: "ts", Type: arrow.FixedWidthTypes.Timestamp_ms},
		{Name: "period", Type: arrow.PrimitiveTypes.Float64},
		{Name: "nswprice", Type: arrow.PrimitiveTypes.Float64},
		{Name: "nswdemand", Type: arrow.PrimitiveTypes.Float64},
		{Name: "day", Type: arrow.BinaryTypes.String},
		{Name: "tags", Type: arrow.ListOf(arrow.BinaryTypes.String)},
		{Name: "class", Type: arrow.PrimitiveTypes.Int64},
	}, nil)
}

func parse(t *testing.T, text string) *spec.Document {
	t.Helper()
	doc, err := spec.Parse([]byte(text), "job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// The job of the documentation reads into the spec that one would write by hand.
func TestParse(t *testing.T) {
	doc := parse(t, elec2)
	want := &tidemill.Spec{
		Model:  "elec2",
		Stream: tidemill.StreamSpec{Topic: "elec2", From: "earliest"},
		Label:  tidemill.LabelSpec{Column: "class", Type: "binary", Positive: []string{"1"}},
		Time:   tidemill.TimeSpec{Column: "ts", MaxOutOfOrder: 5 * time.Second},
		Features: []tidemill.FeatureSpec{
			{Name: "price", Column: "nswprice", Bucketize: &tidemill.Bucketize{Geometric: []float64{0.01, 0.3, 19}}},
			{Name: "hour", Column: "period", Bucketize: &tidemill.Bucketize{Uniform: []float64{0, 1, 48}}},
			{Name: "demand", Column: "nswdemand", Standardize: &tidemill.Standardize{}},
			{Name: "price_x_hour", Cross: []string{"price", "hour"}},
		},
		Architecture: tidemill.Architecture{Kind: "logistic", Loss: "logistic"},
		Optimizer: tidemill.OptimizerSpec{
			Sparse:  tidemill.OptimizerChoice{Kind: "ftrl", Alpha: 0.1},
			Dense:   tidemill.OptimizerChoice{Kind: "adam", LR: 0.001},
			Average: &tidemill.AverageSpec{Decay: 0.999},
		},
		Train: tidemill.TrainSpec{Batch: 512, Linger: 200 * time.Millisecond,
			Snapshot: tidemill.Interval{Time: 2 * time.Second, Keep: tidemill.DefaultKeep}, MaxRows: 5_000_000, MaxBadRows: tidemill.BadBudget{Rows: 1000}},
		Gate: tidemill.GateSpec{Mode: "on", Prove: "not_worse", Margin: 0.01, Alpha: 0.01, Clip: 0.5,
			MinExamples: 1000, MaxExamples: 20_000},
		Serve:  tidemill.ServeSpec{MaxBatch: 1024, Keep: 2},
		Shards: 64,
	}
	if !reflect.DeepEqual(doc.Spec, want) {
		got, _ := json.MarshalIndent(doc.Spec, "", " ")
		t.Errorf("got %s", got)
	}
	if err := doc.Check(schema()); err != nil {
		t.Errorf("schema: %v", err)
	}
	if err := spec.Check(doc.Spec, schema()); err != nil {
		t.Errorf("without positions: %v", err)
	}
	if at := doc.Place("features[1].bucketize.uniform[2]").String(); at != "job.yaml:8:64" {
		t.Errorf("place is %s", at)
	}
	if at := doc.Place("features[3].hash.buckets").String(); at != "job.yaml:10:6" {
		t.Errorf("place of an absent part is %s", at)
	}
}

// A spec survives JSON, the form it is stored in, and filling in defaults again.
func TestDefaultsAreStable(t *testing.T) {
	s := parse(t, elec2).Spec
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again tidemill.Spec
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	spec.Defaults(&again)
	if again.Hash() != s.Hash() {
		t.Errorf("hash %s became %s", s.Hash(), again.Hash())
	}
	minimal := &tidemill.Spec{Model: "m", Stream: tidemill.StreamSpec{Topic: "t"}, Label: tidemill.LabelSpec{Column: "y"},
		Features: []tidemill.FeatureSpec{{Column: "x", MultiHot: &tidemill.MultiHot{}}}, Architecture: tidemill.Architecture{Kind: "fm"}}
	before := minimal.Hash()
	if err := spec.Check(minimal, nil); err != nil {
		t.Error(err)
	}
	if minimal.Hash() != before {
		t.Error("Check changed its spec")
	}
}

// with is elec2 with lines replaced: each edit is "old\x00new".
func with(t *testing.T, edits ...string) string {
	t.Helper()
	text := elec2
	for i := 0; i < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("%q is not in the spec", edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	return text
}

func TestForms(t *testing.T) {
	type check func(s *tidemill.Spec) bool
	tests := []struct {
		name     string
		old, new string
		ok       check
	}{
		{"rows", "{every: 2s}", "{every: 500 rows}", func(s *tidemill.Spec) bool {
			return s.Train.Snapshot == tidemill.Interval{Rows: 500, Keep: tidemill.DefaultKeep}
		}},
		{"keep", "{every: 2s}", "{every: 2s, keep: 3}", func(s *tidemill.Spec) bool {
			return s.Train.Snapshot == tidemill.Interval{Time: 2 * time.Second, Keep: 3}
		}},
		{"keep alone", "{every: 2s}", "{keep: 3}", func(s *tidemill.Spec) bool {
			return s.Train.Snapshot == tidemill.Interval{Time: 10 * time.Second, Keep: 3}
		}},
		{"one row", "{every: 2s}", "{every: 1 row}", func(s *tidemill.Spec) bool { return s.Train.Snapshot.Rows == 1 }},
		{"many rows", "{every: 2s}", "{every: 1_000 rows}", func(s *tidemill.Spec) bool { return s.Train.Snapshot.Rows == 1000 }},
		{"no snapshot", "snapshot: {every: 2s}, ", "", func(s *tidemill.Spec) bool { return s.Train.Snapshot.Time == 10*time.Second }},
		{"list", "positive: 1}", "positive: [1, up, 2.50, true], negative: '0'}", func(s *tidemill.Spec) bool {
			return reflect.DeepEqual(s.Label.Positive, []string{"1", "up", "2.50", "true"}) && reflect.DeepEqual(s.Label.Negative, []string{"0"})
		}},
		{"at least", "positive: 1}", "at_least: 4}", func(s *tidemill.Spec) bool { return *s.Label.AtLeast == 4 }},
		{"off as text", "gate:   {", "gate:   {mode: off, ", func(s *tidemill.Spec) bool { return s.Gate.Mode == "off" }},
		{"off as bool", "gate:   {", "gate:   {mode: false, ", func(s *tidemill.Spec) bool { return s.Gate.Mode == "off" }},
		{"on as bool", "gate:   {", "gate:   {mode: true, ", func(s *tidemill.Spec) bool { return s.Gate.Mode == "on" }},
		{"exponent", "5_000_000", "5e6", func(s *tidemill.Spec) bool { return s.Train.MaxRows == 5_000_000 }},
		{"time", "from: earliest", "from: 2024-01-31T12:00:00Z", func(s *tidemill.Spec) bool { return s.Stream.From == "2024-01-31T12:00:00Z" }},
		{"offsets", "from: earliest", "offsets: [5, 0]", func(s *tidemill.Spec) bool {
			return s.Stream.From == "" && reflect.DeepEqual(s.Stream.Offsets, []int64{5, 0})
		}},
		{"hot rows", "staleness: 0", "staleness: -1, hot_rows: 100, hot_batches: 4", func(s *tidemill.Spec) bool { return s.Train.HotRows == 100 && s.Train.HotBatches == 4 }},
		{"reduction", "staleness: 0", "reduction: sum", func(s *tidemill.Spec) bool { return s.Train.Reduction == tidemill.ReduceSum }},
		{"admit", "serve:  {", "tables: {weights: {admit: {after: 3, counters: 1_000_000}}}\nserve:  {", func(s *tidemill.Spec) bool {
			return s.Tables["weights"].Admit == tidemill.Admission{After: 3, Counters: 1_000_000}
		}},
		{"graph", "kind: logistic", "kind: graph, file: m.graph", func(s *tidemill.Spec) bool {
			return s.Engine == "tensorflow" && s.Architecture.File == "m.graph" && s.Architecture.Dim == 0 && s.Architecture.Loss == "logistic"
		}},
		{"expire", "serve:  {", "tables: {weights: {expire: {every: 1e6}}}\nserve:  {", func(s *tidemill.Spec) bool {
			return s.Tables["weights"].Expire == tidemill.Expiry{Every: 1_000_000}
		}},
		{"until end", "staleness: 0", "until_end: yes", func(s *tidemill.Spec) bool { return s.Train.UntilEnd }},
		{"empty standardize", "standardize: {}", "standardize:", func(s *tidemill.Spec) bool { return s.Features[2].Standardize != nil }},
		{"optimizer alone", "{ftrl: {alpha: 0.1}}", "sgd", func(s *tidemill.Spec) bool { return s.Optimizer.Sparse.Kind == "sgd" }},
		{"empty optimizer", "{ftrl: {alpha: 0.1}}", "{rmsprop: {}}", func(s *tidemill.Spec) bool { return s.Optimizer.Sparse.Kind == "rmsprop" }},
		{"schedule", "{alpha: 0.1}", "{alpha: 1e-1, schedule: {kind: cosine, over: 1000, warmup: 10}}", func(s *tidemill.Spec) bool {
			return s.Optimizer.Sparse.Alpha == 0.1 && s.Optimizer.Sparse.Schedule.Over == 1000
		}},
		{"default optimizer", "{sparse: {ftrl: {alpha: 0.1}}, dense: {adam: {lr: 0.001}}, average: {decay: 0.999}}", "{}", func(s *tidemill.Spec) bool {
			return s.Optimizer.Sparse == tidemill.OptimizerChoice{Kind: "ftrl", Alpha: 0.1, Beta: 1} && s.Optimizer.Dense == tidemill.OptimizerChoice{Kind: "adagrad", LR: 0.05}
		}},
		{"deep", "{kind: logistic}", "{kind: deepfm, dim: 4}", func(s *tidemill.Spec) bool {
			a := s.Architecture
			return a.Dim == 4 && reflect.DeepEqual(a.Hidden, []int{64, 32}) && a.InitScale == 0.01 && a.Loss == "logistic"
		}},
		{"hash", "standardize: {}", "hash: {buckets: 1000}", func(s *tidemill.Spec) bool { return s.Features[2].Hash.Buckets == 1000 }},
		{"learned vocabulary", "standardize: {}", "vocabulary: {learn_rows: 10}", func(s *tidemill.Spec) bool { return s.Features[2].Vocabulary.MaxSize == 10_000 }},
		{"quantiles", "standardize: {}", "bucketize: {quantiles: 4}", func(s *tidemill.Spec) bool { return s.Features[2].Bucketize.LearnRows == 1000 }},
		{"seed", "model: elec2", "model: elec2\nseed: 18446744073709551615\nshards: 8", func(s *tidemill.Spec) bool { return s.Seed == 1<<64-1 && s.Shards == 8 }},
		{"anchor", "model: elec2", "model: &m elec2\nweight: *m", func(s *tidemill.Spec) bool { return s.Weight == "elec2" }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := parse(t, with(t, tc.old, tc.new)).Spec
			if !tc.ok(s) {
				got, _ := json.MarshalIndent(s, "", " ")
				t.Errorf("got %s", got)
			}
		})
	}
}

// refusals lists what each edit of elec2 must be refused with, place included.
var refusals = []struct {
	name     string
	old, new string
	want     []string
}{
	{"unknown key", "label:", "lable:", []string{`job.yaml:4:1: unknown key "lable" (did you mean label?)`}},
	{"unknown nested key", "from: earliest", "frm: earliest", []string{`job.yaml:3:24: unknown key "frm" in stream (did you mean from?)`}},
	{"unknown feature key", "column: nswprice", "colum: nswprice", []string{`job.yaml:7:20: unknown key "colum" in features[0] (did you mean column?)`}},
	{"wrong type", "batch: 512", "batch: many", []string{`job.yaml:13:17: train.batch must be a whole number, not "many"`}},
	{"quoted number", "batch: 512", "batch: '512'", []string{`13:17: train.batch must be a whole number, not "512" (write it without quotes)`}},
	{"fraction", "batch: 512", "batch: 1.5", []string{`train.batch must be a whole number`}},
	{"negative batch", "batch: 512", "batch: -1", []string{`13:17: train.batch must be 1 to`}},
	{"zero batch", "batch: 512", "batch: 0", []string{`13:17: train.batch cannot be 0; left out it is 512`}},
	{"no value", "batch: 512", "batch: ", []string{`train.batch has no value`}},
	{"list", "{batch: 512, linger: 200ms, staleness: 0, snapshot: {every: 2s}, max_rows: 5_000_000}", "[1]", []string{`train must be a mapping, not a list`}},
	{"bare duration", "linger: 200ms", "linger: 200", []string{`train.linger must be a duration, not "200" (write a number with its unit`}},
	{"bad cadence", "{every: 2s}", "{every: often}", []string{`train.snapshot.every must be a duration above 0 or a number of rows`}},
	{"zero cadence", "{every: 2s}", "{every: 0 rows}", []string{`train.snapshot.every must be`}},
	{"empty cadence", "{every: 2s}", "{}", []string{`train.snapshot says nothing`}},
	{"reduction", "staleness: 0", "reduction: som", []string{`unknown reduction "som" (did you mean sum?)`}},
	{"staleness", "staleness: 0", "staleness: -2", []string{`train.staleness must be at least -1, not -2`}},
	{"hot rows in rounds", "staleness: 0", "hot_rows: 10", []string{`train.hot_rows keeps rows from batch to batch, which train.staleness 0 does not allow`}},
	{"hot rows without a bound", "staleness: 0", "staleness: -1, hot_rows: 10", []string{`train.hot_rows has no bound at train.staleness -1`}},
	{"hot batches", "staleness: 0", "staleness: 3, hot_rows: 10, hot_batches: 4", []string{`train.hot_batches must be at most train.staleness 3, not 4`}},
	{"hot batches alone", "staleness: 0", "staleness: 3, hot_batches: 2", []string{`train.hot_batches has no meaning without train.hot_rows`}},
	{"hot rows", "staleness: 0", "staleness: 3, hot_rows: -1", []string{`train.hot_rows must be 0 to`}},
	{"alpha", "gate:   {margin: 0.01, alpha: 0.01", "gate:   {margin: 0.01, alpha: 1.5", []string{`14:31: gate.alpha must lie between 0 and 1, not 1.5`}},
	{"prove", "gate:   {", "gate:   {prove: hram, ", []string{`unknown proof "hram" (did you mean harm?)`}},
	{"max examples", "min_examples: 1000", "min_examples: 1000, max_examples: 10", []string{`max_examples 10 is below min_examples 1000`}},
	{"edges", "bucketize: {geometric: [0.01, 0.3, 19]}", "bucketize: {edges: [1, 2, 2]}", []string{`7:64: edge 2 is not above the one before, 2`}},
	{"geometric", "[0.01, 0.3, 19]", "[0, 0.3, 19]", []string{`7:62: the first of geometric edges must be above 0, not 0`}},
	{"uniform", "[0, 1, 48]", "[0, 1]", []string{`it takes three numbers, not 2`}},
	{"edge count", "[0, 1, 48]", "[0, 1, 4.5]", []string{`8:64: the number of edges must be a whole number`}},
	{"two ways", "{uniform: [0, 1, 48]}", "{uniform: [0, 1, 48], quantiles: 4}", []string{`bucketize needs exactly one way to find its edges, not 2`}},
	{"clip", "standardize: {}", "clip: [5, 1]", []string{`clip's low 5 is not below its high 1`}},
	{"cross", "[price, hour]", "[price, huor]", []string{`10:21: cross of unknown feature "huor" (did you mean "hour"?)`}},
	{"dense cross", "[price, hour]", "[price, demand]", []string{`feature "demand" is a plain number and cannot be crossed (bucketize or hash it)`}},
	{"small cross", "[price, hour]", "[price]", []string{`a cross needs at least two features`}},
	{"duplicate", "name: hour,  ", "name: price,", []string{`feature "price" is there already, as features[0]`, `cross of unknown feature "hour"`}},
	{"label as feature", "column: nswdemand", "column: class", []string{`column "class" is the label`}},
	{"mixed", "standardize: {}", "standardize: {}, hash: {}", []string{`standardize has no meaning for categories`}},
	{"no column", "{name: demand, column: nswdemand, standardize: {}}", "{name: demand}", []string{`9:6: the feature names no column`}},
	{"decay", "0.999", "1", []string{`12:88: decay must lie between 0 and 1, not 1`}},
	{"two optimizers", "{ftrl: {alpha: 0.1}}", "{ftrl: {}, sgd: {}}", []string{`optimizer.sparse must name exactly one optimizer, not 2`}},
	{"optimizer", "{ftrl: {alpha: 0.1}}", "{ftlr: {alpha: 0.1}}", []string{`unknown key "ftlr" in optimizer.sparse (did you mean ftrl?)`}},
	{"parameter", "{alpha: 0.1}", "{rho: 0.1}", []string{`unknown key "rho" in optimizer.sparse.ftrl`}},
	{"rate", "lr: 0.001", "lr: -1", []string{`12:62: lr must be`}},
	{"zero rate", "lr: 0.001", "lr: 0", []string{`optimizer.dense.adam.lr cannot be 0`}},
	{"table", "sparse: {ftrl: {alpha: 0.1}}", "tables: {wide: sgd}", []string{`kind logistic has no table wide (it has weights)`}},
	{"no table", "sparse: {ftrl: {alpha: 0.1}}", "tables: {wieght: sgd}", []string{`kind logistic has no table wieght (did you mean weights?)`}},
	{"table's optimizer", "sparse: {ftrl: {alpha: 0.1}}", "tables: {weights: {sgd: {lr: -1}}}", []string{`lr must be`}},
	{"clip", "sparse: {ftrl: {alpha: 0.1}}", "clip_norm: -1", []string{`clip_norm must not be -1`}},
	{"schedule", "{alpha: 0.1}", "{alpha: 0.1, schedule: {kind: exponential, over: 5, factor: 2}}", []string{`factor must be above 0 and at most 1, not 2`}},
	{"table", "sparse: {ftrl: {alpha: 0.1}}", "tables: {wide: sgd}", []string{`kind logistic has no table wide (it has weights)`}},
	{"no table", "sparse: {ftrl: {alpha: 0.1}}", "tables: {wieght: sgd}", []string{`kind logistic has no table wieght (did you mean weights?)`}},
	{"table's optimizer", "sparse: {ftrl: {alpha: 0.1}}", "tables: {weights: {sgd: {lr: -1}}}", []string{`lr must be`}},
	{"clip", "sparse: {ftrl: {alpha: 0.1}}", "clip_norm: -1", []string{`clip_norm must not be -1`}},
	{"admit in no table", "serve:  {", "tables: {wide: {admit: {after: 3}}}\nserve:  {", []string{`kind logistic has no table wide (it has weights)`}},
	{"admit", "serve:  {", "tables: {weights: {admti: {after: 3}}}\nserve:  {", []string{`unknown key "admti" in tables.weights (did you mean admit?)`}},
	{"admit after", "serve:  {", "tables: {weights: {admit: {after: 1}}}\nserve:  {", []string{`tables.weights.admit.after must be 2 to 255, not 1`}},
	{"admit twice", "serve:  {", "tables: {weights: {admit: {after: 2, probability: 0.1}}}\nserve:  {", []string{`tables.weights.admit has both after and probability`}},
	{"admit share", "serve:  {", "tables: {weights: {admit: {probability: 1}}}\nserve:  {", []string{`tables.weights.admit.probability must be above 0 and below 1, not 1`}},
	{"expire", "serve:  {", "tables: {weights: {expire: {uses: 2}}}\nserve:  {", []string{`tables.weights.expire.every must be at least 1000, not 0`}},
	{"values", "serve:  {", "tables: {weights: {values: bfloat61}}\nserve:  {", []string{`unknown values "bfloat61" (did you mean bfloat16?)`}},
	{"expire uses", "serve:  {", "tables: {weights: {expire: {every: 1e6, uses: -1}}}\nserve:  {", []string{`tables.weights.expire.uses must be 0 to`}},
	{"admit counters", "serve:  {", "tables: {weights: {admit: {probability: 0.1, counters: 5000}}}\nserve:  {", []string{`tables.weights.admit.counters has no meaning without after`}},
	{"model", "model: elec2", "model: a/b", []string{`2:8: invalid model name "a/b"`}},
	{"model dots", "model: elec2", "model: ..", []string{`invalid model name ".."`}},
	{"kind", "kind: logistic", "kind: logstic", []string{`unknown architecture "logstic" (did you mean logistic?)`}},
	{"graph without a file", "kind: logistic", "kind: graph", []string{`kind graph needs the file of a graph (add file: PATH`}},
	{"graph with layers", "kind: logistic", "kind: graph, file: m.graph, hidden: [8]", []string{`hidden has no meaning for kind graph (leave it out: the graph has its own layers)`}},
	{"file without a graph", "kind: logistic", "kind: mlp, file: m.graph", []string{`file has no meaning for kind mlp (leave it out, or set kind: graph)`}},
	{"bottom", "kind: logistic", "kind: dlrm, bottom: [0]", []string{`a bottom layer must have 1 to 65536 units, not 0`}},
	{"bottom of another kind", "kind: logistic", "kind: dcn, bottom: [8]", []string{`bottom has no meaning for kind dcn`}},
	{"rank", "kind: logistic", "kind: dcn, rank: -1", []string{`architecture.rank must be 0 to 4096, not -1`}},
	{"cross layers", "kind: logistic", "kind: dcn, cross_layers: 0", []string{`architecture.cross_layers cannot be 0; left out it is 3`}},
	{"cross layers of another kind", "kind: logistic", "kind: mlp, cross_layers: 2", []string{`cross_layers has no meaning for kind mlp`}},
	{"dropout", "kind: logistic", "kind: mlp, dropout: 1", []string{`dropout must be at least 0 and below 1, not 1`}},
	{"norm without layers", "kind: logistic", "kind: fm, layer_norm: true", []string{`layer_norm has no meaning for kind fm`}},
	{"dim", "kind: logistic", "kind: fm, dim: 0", []string{`architecture.dim cannot be 0`}},
	{"negative dim", "kind: logistic", "kind: fm, dim: -4", []string{`architecture.dim must be 1 to 4096, not -4`}},
	{"useless dim", "kind: logistic", "kind: logistic, dim: 4", []string{`dim has no meaning for kind logistic`}},
	{"hidden", "kind: logistic", "kind: mlp, hidden: [64, 0]", []string{`11:40: a hidden layer must have 1 to 65536 units, not 0`}},
	{"loss", "kind: logistic", "kind: fm, loss: softmax", []string{`loss softmax does not fit a binary label`}},
	{"kind and label", "positive: 1", "type: regression", []string{`kind logistic needs loss logistic, not squared`}},
	{"label type", "positive: 1", "type: regresion", []string{`unknown label type "regresion" (did you mean "regression"?)`}},
	{"label lists", "positive: 1", "positive: [1], negative: [0, 1]", []string{`value "1" is listed twice`}},
	{"classes", "positive: 1", "classes: [a, b]", []string{`classes has no meaning for a binary label`}},
	{"from", "earliest", "earlyest", []string{`unknown start "earlyest" (did you mean earliest?)`}},
	{"offset", "from: earliest", "offsets: [-1]", []string{`3:34: an offset is negative: -1`}},
	{"shards", "model: elec2", "model: elec2\nshards: -1", []string{`shards must be`}},
	{"syntax", "serve:  {max_batch: 1024}", "serve: {max_batch: 1024", []string{`job.yaml:15:8: not valid YAML`}},
	{"duplicate key", "serve: ", "gate: {}\nserve: ", []string{`not valid YAML: mapping key "gate" already defined`}},
	{"second document", "serve: ", "---\nserve: ", []string{`a second YAML document`}},
	{"alias", "model: elec2", "model: *nowhere", []string{`2:8: unknown alias *nowhere`}},
	{"merge key", "model: elec2", "model: elec2\n<<: {seed: 1}", []string{`merge keys (<<) are not supported`}},
}

func TestRefusals(t *testing.T) {
	for _, tc := range refusals {
		t.Run(tc.name, func(t *testing.T) {
			_, err := spec.Parse([]byte(with(t, tc.old, tc.new)), "job.yaml")
			if err == nil {
				t.Fatal("accepted")
			}
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got\n%v\nwant %s", err, want)
				}
			}
			if got := strings.Count(err.Error(), "\n") + 1; got != len(tc.want) {
				t.Errorf("%d problems, want %d:\n%v", got, len(tc.want), err)
			}
		})
	}
}

// Everything wrong is reported at once, in the order of the file.
func TestAllAtOnce(t *testing.T) {
	_, err := spec.Parse([]byte(with(t, "model: elec2", "model: a b", "batch: 512", "batch: x", "0.999", "2")), "j")
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "j:2:") || !strings.HasPrefix(lines[1], "j:12:") || !strings.HasPrefix(lines[2], "j:13:") {
		t.Errorf("got\n%v", err)
	}
	var input *tidemill.InputError
	if !errors.As(err, &input) || input.Place.Line != 2 {
		t.Errorf("no *InputError inside %v", err)
	}
}

func TestEmptyFile(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "[]", "text"} {
		if _, err := spec.Parse([]byte(text), "job.yaml"); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestColumns(t *testing.T) {
	tests := []struct{ old, new, want string }{
		{"column: nswprice", "column: nswprise", `job.yaml:7:28: topic "elec2" has no column "nswprise" (did you mean "nswprice"?)`},
		{"column: class", "column: clas", `4:18: topic "elec2" has no column "clas" (did you mean "class"?)`},
		{"column: ts", "column: time", `topic "elec2" has no column "time"`},
		{"column: ts", "column: nswprice", `column "nswprice" is a number and cannot be a time`},
		{"column: nswprice", "column: day", `column "day" is text and has no numeric transforms`},
		{"column: nswdemand, standardize: {}", "column: tags", `column "tags" is a list (add multi_hot: {})`},
		{"column: nswdemand, standardize: {}", "column: nswdemand, multi_hot: {}", `multi_hot needs a list or text`},
		{"model: elec2", "model: elec2\nweight: day", `3:9: column "day" is text and cannot be a weight`},
		{"column: class", "column: day", `"1"`},
		{"positive: 1", "positive: up", `"up" can never occur in column "class", which is a whole number`},
		{"positive: 1", "positive: [1, 1.0]", `value "1.0" is listed twice`},
		{"positive: 1", "at_least: 1", ""},
	}
	for _, tc := range tests {
		t.Run(tc.new, func(t *testing.T) {
			doc := parse(t, with(t, tc.old, tc.new))
			err := doc.Check(schema())
			if tc.want == "" || tc.want == `"1"` {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got\n%v\nwant %s", err, tc.want)
			}
		})
	}
}

// Bytes that nest or expand without end are refused, quickly.
func TestHostile(t *testing.T) {
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := byte('b'); c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+string(c-1)+", ", 10) + "x]\n"
	}
	bomb += "features: [" + strings.Repeat("{column: a, vocabulary: {values: *j}}, ", 3) + "]\n"
	for _, text := range []string{
		strings.Repeat("[", 100_000), strings.Repeat("{a: ", 100_000), strings.Repeat("- ", 100_000), strings.Repeat("? ", 100_000),
		strings.Repeat("&a ", 100_000), strings.Repeat("!!a ", 100_000), bomb, "model: &a *a", "a: &a\n  b: *a\n",
		strings.Repeat("x", 1<<21), "model: \xff\xfe\x00",
	} {
		if _, err := spec.Parse([]byte(text), "job.yaml"); !errors.Is(err, tidemill.ErrInvalid) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(elec2))
	f.Add([]byte("model: &a b\nweight: *a\nfeatures:\n- cross: [a, b]\n-\n- column: |\n    x\n"))
	f.Add([]byte("? [a]\n: {b: !!str 3, <<: *x}"))
	for _, tc := range refusals {
		f.Add([]byte(strings.Replace(elec2, tc.old, tc.new, 1)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := spec.Parse(data, "f")
		if err != nil {
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		if err := spec.Check(doc.Spec, nil); err != nil {
			t.Errorf("accepted with positions, refused without: %v", err)
		}
		_ = doc.Check(schema())
		b, err := json.Marshal(doc.Spec)
		if err != nil {
			t.Fatal(err)
		}
		var again tidemill.Spec
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if err := spec.Check(&again, nil); err != nil {
			t.Errorf("accepted, refused after JSON: %v", err)
		}
	})
}

// A topic in Kafka: what is wrong is told with its place, and what is right is read whole.
func TestKafka(t *testing.T) {
	const stream = "stream: {topic: elec2, from: earliest}"
	whole := `stream:
  topic: elec2
  kafka:
    brokers: [a:9092, "[::1]:9093"]
    format: csv
    schema: [{name: nswprice, type: float64}, {name: day, type: text}]
    group: g
    compacted: true
    tls: {}
    sasl: {mechanism: scram-sha-256, user: u, password_file: f}`
	doc := parse(t, with(t, stream, whole))
	k := doc.Spec.Stream.Kafka
	if k == nil || len(k.Brokers) != 2 || len(k.Schema) != 2 || k.Schema[1] != (tidemill.ColumnSpec{Name: "day", Type: "text"}) ||
		k.TLS == nil || k.SASL == nil || k.SASL.PasswordFile != "f" || !k.Compacted || k.Group != "g" {
		t.Fatalf("%+v", k)
	}
	if plain := parse(t, elec2).Spec; plain.Stream.Kafka != nil || plain.Hash() == doc.Spec.Hash() {
		t.Error("where the topic is does not count in the spec's hash")
	}
	for _, tc := range []struct{ old, new, want string }{
		{`[a:9092, "[::1]:9093"]`, "[a]", `"a" is no broker's address (write HOST:PORT)`},
		{`[a:9092, "[::1]:9093"]`, "[]", "no Kafka broker is named"},
		{"format: csv", "format: avr", `unknown record format "avr" (did you mean avro?)`},
		{"format: csv", "format: arrow", "schema has no meaning for format arrow"},
		{"format: csv", "format: avro", "format avro needs its schema"},
		{"type: text", "type: txt", `unknown column type "txt" (did you mean text?)`},
		{"name: day", "name: nswprice", `column "nswprice" is listed twice`},
		{"scram-sha-256", "scram", `unknown SASL mechanism "scram"`},
		{"user: u, ", "", "sasl names no user"},
		{"password_file: f", "password: secret", `unknown key "password" in stream.kafka.sasl`},
		{"tls: {}", "tls: {cert: c}", "cert and key belong together"},
	} {
		if strings.Count(whole, tc.old) != 1 {
			t.Fatalf("%q is not there once", tc.old)
		}
		_, err := spec.Parse([]byte(with(t, stream, strings.Replace(whole, tc.old, tc.new, 1))), "f.yaml")
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "f.yaml:") {
			t.Errorf("%s: got\n%v\nwant %s", tc.new, err, tc.want)
		}
	}
}
