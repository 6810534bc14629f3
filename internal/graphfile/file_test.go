package graphfile

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/tidemill/tidemill"
)

func TestDecode(t *testing.T) {
	data := example(t)
	f, err := Decode(data, "ratings.graph")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if f.Hash != hex.EncodeToString(sum[:]) {
		t.Errorf("hash %s", f.Hash)
	}
	if got := fmt.Sprint(f.Features()); got != "[age hour user item]" {
		t.Errorf("features %s", got)
	}
	want := []tidemill.TableSpec{
		{Name: "users", Dim: 4, Init: tidemill.Init{Kind: tidemill.InitUniform, Scale: 0.05}},
		{Name: "items", Dim: 4, Init: tidemill.Init{Kind: tidemill.InitUniform, Scale: 0.05}},
	}
	if got := f.Tables(); !reflect.DeepEqual(got, want) {
		t.Errorf("tables %+v", got)
	}
	tensors := f.Tensors()
	for i, s := range tensors {
		if s.Len() != len(f.Initial[i]) {
			t.Errorf("tensor %s of shape %v begins with %d values", s.Name, s.Shape, len(f.Initial[i]))
		}
	}
	for i, p := range f.Manifest.Parameters {
		if p.Kind == Moving && (p.Momentum != 0.99 || !f.ForwardParameters[i]) {
			t.Errorf("moving statistic %+v, needed to predict: %t", p, f.ForwardParameters[i])
		}
	}
	for i, in := range f.Manifest.Inputs {
		if want := in.Kind == Numbers || in.Kind == Rows; f.Forward[i] != want {
			t.Errorf("input %d (%s) is needed to predict: %t", i, in.Kind, f.Forward[i])
		}
	}
	again, err := Decode(take(t, data).pack(t), "")
	if err != nil {
		t.Fatalf("packed again: %v", err)
	}
	again.Hash = f.Hash
	if !reflect.DeepEqual(f.Initial, again.Initial) || !bytes.Equal(f.GraphDef, again.GraphDef) {
		t.Error("packed again it is another one")
	}
}

// refuses checks that a file is refused with an error that has a place, a remedy and want.
func refuses(t *testing.T, data []byte, want ...string) {
	t.Helper()
	_, err := Decode(data, "some.graph")
	var in *tidemill.InputError
	if !errors.As(err, &in) || !errors.Is(err, tidemill.ErrInvalid) {
		t.Errorf("error %v is no InputError", err)
		return
	}
	if in.Place.File != "some.graph" || in.Remedy == "" || strings.Contains(err.Error(), "%!") {
		t.Errorf("error %v has no place or no remedy", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestRefusesOtherFiles(t *testing.T) {
	packed := func(names ...string) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, n := range names {
			if _, err := z.CreateHeader(&zip.FileHeader{Name: n}); err != nil {
				t.Fatal(err)
			}
		}
		z.Close()
		return b.Bytes()
	}
	data := example(t)
	for what, c := range map[string]struct {
		data []byte
		want []string
	}{
		"empty":       {nil, []string{"empty", "tidemill.keras.export"}},
		"text":        {[]byte("hello, this is no model at all"), []string{"no graph file"}},
		"keras":       {packed("metadata.json", "config.json", "model.weights.h5"), []string{".keras", "tidemill.keras.export"}},
		"hdf5":        {[]byte("\x89HDF\r\n\x1a\n and so on"), []string{"HDF5"}},
		"saved model": {[]byte("\x08\x01\x12\x04node"), []string{"SavedModel"}},
		"packed one":  {packed("model/saved_model.pb"), []string{"SavedModel"}},
		"other zip":   {packed("readme.txt"), []string{"readme.txt"}},
		"no graph":    {packed("manifest.json"), []string{"graph.pb"}},
		"twice":       {packed("manifest.json", "graph.pb", "graph.pb"), []string{"twice"}},
		"cut off":     {data[:len(data)/2], []string{"cut off"}},
	} {
		t.Run(what, func(t *testing.T) { refuses(t, c.data, c.want...) })
	}
}

func TestRefusesDamage(t *testing.T) {
	const moving = 6 // the first moving statistic of the example
	for what, c := range map[string]struct {
		spoil func(a *archive)
		want  string
	}{
		"packed":           {func(a *archive) { a.method = zip.Deflate }, "compressed"},
		"hash":             {func(a *archive) { a.stale = true; a.entries[entryGraph][40] ^= 1 }, "SHA-256"},
		"part missing":     {func(a *archive) { a.stale = true; delete(a.entries, entryParameters) }, "missing"},
		"part unlisted":    {func(a *archive) { a.stale = true; a.manifest["parts"] = a.manifest["parts"].([]any)[:1] }, "does not list"},
		"newer":            {func(a *archive) { a.manifest["format"] = 2 }, "format 2"},
		"no format":        {func(a *archive) { delete(a.manifest, "format") }, "no format"},
		"unknown member":   {func(a *archive) { a.manifest["colour"] = "red" }, "colour"},
		"label type":       {func(a *archive) { a.at("label")["type"] = "ordinal" }, "ordinal"},
		"classes":          {func(a *archive) { a.at("label")["classes"] = 3 }, "3 classes"},
		"prediction":       {func(a *archive) { a.at("prediction")["width"] = 3 }, "width 3"},
		"prediction kind":  {func(a *archive) { a.at("prediction")["kind"] = "odds" }, "odds"},
		"table dim":        {func(a *archive) { a.at("tables", 0)["dim"] = 1 << 20 }, "dim 1048576"},
		"table twice":      {func(a *archive) { a.at("tables", 1)["name"] = "users" }, "twice"},
		"table init":       {func(a *archive) { a.at("tables", 0, "init")["kind"] = "xavier" }, "xavier"},
		"table unknown":    {func(a *archive) { a.input(Rows)["table"] = "shops" }, "shops"},
		"rows shape":       {func(a *archive) { a.input(Rows)["shape"] = []any{-1, 5} }, "[-1 5]"},
		"no batch":         {func(a *archive) { a.input(Label)["shape"] = []any{64} }, "[64]"},
		"overflow":         {func(a *archive) { a.input(Numbers)["shape"] = []any{-1, 1 << 40, 1 << 40} }, "shape"},
		"features":         {func(a *archive) { a.input(Numbers)["features"] = []any{"age"} }, "1 features for 2 values"},
		"kind":             {func(a *archive) { a.input(Label)["kind"] = "target" }, "target"},
		"no label":         {func(a *archive) { a.input(Label)["kind"] = Weight }, "kind label"},
		"member of others": {func(a *archive) { a.input(Label)["table"] = "users" }, "another kind"},
		"parameter shape":  {func(a *archive) { a.at("parameters", 0)["shape"] = []any{1 << 30, 1 << 30} }, "shape"},
		"parameter kind":   {func(a *archive) { a.at("parameters", 0)["kind"] = "frozen" }, "frozen"},
		"parameter name":   {func(a *archive) { a.at("parameters", 0)["name"] = "dense kernel" }, "visible"},
		"momentum":         {func(a *archive) { a.at("parameters", moving)["momentum"] = 1 }, "momentum 1"},
		"no contribution":  {func(a *archive) { delete(a.at("parameters", moving), "contribution") }, "no contribution"},
		"too few values":   {func(a *archive) { a.entries[entryParameters] = a.entries[entryParameters][:100] }, "ends within parameter"},
		"too many values":  {func(a *archive) { a.entries[entryParameters] = append(a.entries[entryParameters], 0) }, "1 bytes more"},
		"not finite":       {func(a *archive) { copy(a.entries[entryParameters], "\x00\x00\xc0\x7f") }, "NaN at position 0"},
		"no such tensor":   {func(a *archive) { a.manifest["loss"] = "nowhere:0" }, "nowhere:0"},
		"no such output":   {func(a *archive) { a.manifest["loss"] = "label:1" }, "label:1"},
		"bad tensor":       {func(a *archive) { a.manifest["loss"] = "label" }, "no name of a tensor"},
		"not fed":          {func(a *archive) { a.input(Label)["tensor"] = a.manifest["loss"] }, "instead of a Placeholder"},
		"fed twice":        {func(a *archive) { a.input(Weight)["tensor"] = "label:0" }, "same node"},
		"ops missing":      {func(a *archive) { a.manifest["ops"] = a.manifest["ops"].([]any)[1:] }, "does not list op AddN"},
		"ops too many":     {func(a *archive) { a.addOp("Tan") }, "Tan"},
		"prediction leaks": {func(a *archive) { a.at("prediction")["tensor"] = a.manifest["loss"] }, "depends on the label"},
		"loss weighted": {func(a *archive) {
			a.add((&protoNode{name: "leak", op: "Mul", inputs: []string{"weight", "label"}}).set("T", attrType(typeFloat)))
			a.manifest["loss"] = "leak:0"
		}, "depends on the weight"},
		"statistic's own": {func(a *archive) {
			p := a.at("parameters", moving)
			p["contribution"] = p["tensor"]
		}, "depends on the statistic"},
		"not float": {func(a *archive) { a.at("parameters", 0)["gradient"] = "keys:0" }, "uint64 instead of float32"},
	} {
		t.Run(what, func(t *testing.T) {
			a := take(t, example(t))
			c.spoil(a)
			refuses(t, a.pack(t), c.want)
		})
	}
}

func TestRefusesGraphs(t *testing.T) {
	float := func(n *protoNode) *protoNode { return n.set("T", attrType(typeFloat)) }
	constant := func(dtype int64, tensor string) *protoNode {
		return (&protoNode{name: "odd", op: "Const"}).set("dtype", attrType(dtype)).set("value", tensor)
	}
	with := func(n *protoNode) func(*testing.T, *archive) {
		return func(_ *testing.T, a *archive) { a.add(n) }
	}
	for what, c := range map[string]struct {
		spoil func(t *testing.T, a *archive)
		want  []string
	}{
		"file":       {with(&protoNode{name: "odd", op: "ReadFile"}), []string{`"odd"`, "ReadFile", "files"}},
		"python":     {with(&protoNode{name: "odd", op: "EagerPyFunc"}), []string{"Python", "keras.ops"}},
		"network":    {with(&protoNode{name: "odd", op: "RpcCall"}), []string{"network"}},
		"print":      {with(&protoNode{name: "odd", op: "PrintV2"}), []string{"prints"}},
		"queue":      {with(&protoNode{name: "odd", op: "QueueDequeueV2"}), []string{"queue"}},
		"text":       {with(&protoNode{name: "odd", op: "StringToHashBucketFast"}), []string{"text", "StringLookup"}},
		"variable":   {with(&protoNode{name: "odd", op: "VarHandleOp"}), []string{"state"}},
		"random":     {with(&protoNode{name: "odd", op: "RandomUniform"}), []string{"random", "Dropout"}},
		"loop":       {with(&protoNode{name: "odd", op: "While"}), []string{"loops", "unroll=True"}},
		"call":       {with(&protoNode{name: "odd", op: "StatefulPartitionedCall"}), []string{"calls a function"}},
		"unknown":    {with(&protoNode{name: "odd", op: "Frobnicate"}), []string{"Frobnicate", "not known"}},
		"name":       {with(&protoNode{name: "odd one", op: "NoOp"}), []string{"odd one"}},
		"no name":    {with(&protoNode{op: "NoOp"}), []string{"name"}},
		"name twice": {with(&protoNode{name: "label", op: "NoOp"}), []string{"two nodes", "label"}},
		"device":     {with(&protoNode{name: "odd", op: "NoOp", device: "/job:x/gpu:0"}), []string{"device"}},
		"field":      {with(&protoNode{name: "odd", op: "NoOp", extra: []byte(message(9, "x"))}), []string{"field 9"}},
		"dangling":   {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"gone"}})), []string{`"odd"`, `"gone"`}},
		"control":    {with(&protoNode{name: "odd", op: "NoOp", inputs: []string{"^gone"}}), []string{"gone"}},
		"order":      {with(float(&protoNode{name: "odd", op: "Add", inputs: []string{"^label", "label", "weight"}})), []string{"after what it only waits for"}},
		"output":     {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"label:1"}})), []string{"1 outputs"}},
		"input name": {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"label:01"}})), []string{"no name of a tensor"}},
		"too few":    {with(float(&protoNode{name: "odd", op: "Add", inputs: []string{"label"}})), []string{"1 inputs instead of 2"}},
		"too many":   {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"label", "label"}})), []string{"2 inputs instead of 1"}},
		"types":      {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"keys"}})), []string{"float32", "uint64"}},
		"self":       {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"odd"}})), []string{"depends on itself", "unroll=True"}},
		"cycle": {func(_ *testing.T, a *archive) {
			a.add(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"even"}}))
			a.add(float(&protoNode{name: "even", op: "Neg", inputs: []string{"odd"}}))
		}, []string{"depends on itself"}},
		"attribute unknown": {with(float(&protoNode{name: "odd", op: "Neg", inputs: []string{"label"}}).set("_kernel", message(2, "x"))), []string{"_kernel"}},
		"attribute missing": {with(&protoNode{name: "odd", op: "Neg", inputs: []string{"label"}}), []string{"T is missing"}},
		"attribute kind":    {with((&protoNode{name: "odd", op: "Neg", inputs: []string{"label"}}).set("T", varint(3, 1))), []string{"int instead of a type"}},
		"attribute empty":   {with((&protoNode{name: "odd", op: "Neg", inputs: []string{"label"}}).set("T", "")), []string{"no value"}},
		"attribute twice":   {with((&protoNode{name: "odd", op: "Neg", inputs: []string{"label"}}).set("T", attrType(1)+attrType(2))), []string{"two values"}},
		"function":          {with((&protoNode{name: "odd", op: "Neg", inputs: []string{"label"}}).set("T", message(10, message(1, "f")))), []string{"function"}},
		"string":            {with((&protoNode{name: "odd", op: "Identity", inputs: []string{"label"}}).set("T", attrType(typeString))), []string{"string"}},
		"resource":          {with((&protoNode{name: "odd", op: "Placeholder"}).set("dtype", attrType(20))), []string{"resource"}},
		"reference":         {with((&protoNode{name: "odd", op: "Identity", inputs: []string{"label"}}).set("T", attrType(101))), []string{"type 101"}},
		"not its type":      {with((&protoNode{name: "odd", op: "MatMul", inputs: []string{"label", "label"}}).set("T", attrType(10))), []string{"bool"}},
		"count": {with(float(&protoNode{name: "odd", op: "AddN", inputs: []string{"label"}}).set("N", varint(3, -1))),
			[]string{"-1, less than 1"}},
		"huge count": {with(float(&protoNode{name: "odd", op: "Split", inputs: []string{"label", "label"}}).set("num_split", varint(3, 1<<40))),
			[]string{"more than"}},
		"text choice": {with(float(&protoNode{name: "odd", op: "BiasAdd", inputs: []string{"label", "label"}}).set("data_format", message(2, "NXYZ"))),
			[]string{"NXYZ", "NHWC"}},
		"nan": {with(float(&protoNode{name: "odd", op: "LeakyRelu", inputs: []string{"label"}}).set("alpha", attrFloat(float32(nan())))),
			[]string{"alpha", "NaN"}},
		"constant of text":    {with(constant(7, tensorOf(7, nil, message(8, "x")))), []string{"text"}},
		"constant's type":     {with(constant(1, tensorOf(3, nil, message(4, "\x00\x00\x00\x00")))), []string{"float32", "int32"}},
		"constant's length":   {with(constant(1, tensorOf(1, []int64{2}, message(4, "\x00\x00\x00\x00")))), []string{"8 bytes", "4"}},
		"constant's values":   {with(constant(3, tensorOf(3, []int64{1}, message(7, "\x01\x02")))), []string{"1 values", "2"}},
		"constant's list":     {with(constant(1, tensorOf(1, []int64{2}, message(7, "\x01\x02")))), []string{"listed as int32"}},
		"constant twice":      {with(constant(1, tensorOf(1, []int64{2}, message(7, "\x01"), message(5, "\x00\x00\x00\x00")))), []string{"listed twice"}},
		"constant's overflow": {with(constant(1, tensorOf(1, []int64{1 << 30, 1 << 30, 1 << 30}, message(5, "\x00\x00\x00\x00")))), []string{"more than"}},
		"constant's dim":      {with(constant(1, tensorOf(1, []int64{-4}))), []string{"dimension of -4"}},
		"constant's rank":     {with(constant(1, tensorOf(1, []int64{1, 1, 1, 1, 1, 1, 1, 1, 1}))), []string{"more than 8 dimensions"}},
		"constants together": {func(_ *testing.T, a *archive) {
			for i := range 5 {
				n := constant(1, tensorOf(1, []int64{1 << 24}, message(5, "\x00\x00\x00\x00")))
				n.name = fmt.Sprint("odd", i)
				a.add(n)
			}
		}, []string{"256 MiB"}},
		"placeholder": {with((&protoNode{name: "odd", op: "Placeholder"}).set("dtype", attrType(1))), []string{"nothing is fed", `"odd"`}},
		"placeholder's shape": {func(t *testing.T, a *archive) {
			a.edit(t, "label", func(n *protoNode) { n.set("shape", message(7, message(2, varint(1, 64)))) })
		}, []string{"[-1]", "[64]"}},
		"placeholder's rank": {func(t *testing.T, a *archive) {
			a.edit(t, "label", func(n *protoNode) { n.drop("shape") })
		}, []string{"label"}},
		"placeholder's type": {func(t *testing.T, a *archive) {
			a.edit(t, "keys", func(n *protoNode) { n.set("dtype", attrType(9)) })
		}, []string{"int64", "uint64"}},
		"library": {func(_ *testing.T, a *archive) {
			a.entries[entryGraph] = append(a.entries[entryGraph], message(2, message(1, "f"))...)
		}, []string{"library of functions"}},
		"cut off": {func(_ *testing.T, a *archive) {
			a.entries[entryGraph] = a.entries[entryGraph][:len(a.entries[entryGraph])-1]
		}, []string{"graph.pb"}},
	} {
		t.Run(what, func(t *testing.T) {
			a := take(t, example(t))
			c.spoil(t, a)
			refuses(t, a.pack(t), c.want...)
		})
	}
}

// A graph that differs in one byte is taken or refused, and never panics or reads without bound.
func TestSpoiledBytes(t *testing.T) {
	whole := take(t, example(t))
	rapid.Check(t, func(rt *rapid.T) {
		part := rapid.SampledFrom([]string{entryGraph, entryParameters}).Draw(rt, "part")
		a := &archive{manifest: whole.manifest, entries: map[string][]byte{}}
		for name, b := range whole.entries {
			a.entries[name] = bytes.Clone(b)
		}
		for range rapid.IntRange(1, 4).Draw(rt, "edits") {
			at := rapid.IntRange(0, len(a.entries[part])-1).Draw(rt, "at")
			a.entries[part][at] = rapid.Byte().Draw(rt, "byte")
		}
		if _, err := Decode(a.pack(t), "some.graph"); err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			rt.Fatalf("error %v of another kind", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(example(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Decode(data, "some.graph"); err != nil && !errors.Is(err, tidemill.ErrInvalid) {
			t.Fatalf("error %v of another kind", err)
		}
	})
}

// FuzzGraph gets past the checksums.
func FuzzGraph(f *testing.F) {
	a := take(f, example(f))
	f.Add(a.entries[entryGraph])
	_ = fields(a.entries[entryGraph], func(v field) error {
		f.Add(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), v.bytes))
		return nil
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &reader{"some.graph"}
		g, err := r.graph(data)
		if err != nil {
			if !errors.Is(err, tidemill.ErrInvalid) {
				t.Fatalf("error %v of another kind", err)
			}
			return
		}
		if len(g.order) != len(g.nodes) {
			t.Fatalf("%d of %d nodes are in order", len(g.order), len(g.nodes))
		}
	})
}
