package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
)

// Clients that people have, as they come: what they get must be what internal/infer gets.
// With TIDEMILL_REQUIRE_CLIENTS=1 a client that cannot be had fails the test.

// clientRows is how many rows each client asks about.
const clientRows = 9

// clientCase is one model with the rows that every client sends, and the answer to them.
type clientCase struct {
	Name   string        `json:"name"`
	Text   string        `json:"text"`   // a text input, or ""
	Number string        `json:"number"` // a numeric input
	Inputs []clientInput `json:"inputs"`
	want   infer.Answer
}

type clientInput struct {
	Name     string `json:"name"`
	Datatype string `json:"datatype"`
	Data     any    `json:"data"`
}

func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("it installs clients, and -short is given")
	}
	n := startLive(t, t.TempDir(), node.Config{})
	var cases []*clientCase
	for _, model := range []string{"intrusion", "power"} {
		job, rows := exampleJob(t, model, 600)
		n.produce(model, rows)
		job.Spec.Train.UntilEnd = true
		job.Spec.Train.Batch = 20
		job.Spec.Train.Snapshot = tidemill.Interval{Rows: 200}
		job.Spec.Gate.Mode = tidemill.GateOff
		n.submit(job)
	}
	for _, model := range []string{"intrusion", "power"} {
		champion := n.finish(model)
		c := n.newCase(model)
		if c.want.Version != champion || champion == 0 {
			t.Fatalf("model %s: version %d answers, the champion is %d", model, c.want.Version, champion)
		}
		cases = append(cases, c)
	}
	if got := len(cases[0].Inputs); got < 40 || cases[0].Text == "" {
		t.Fatalf("the intrusion model wants %d inputs, text %q among them; this test means to send 40 with text", got, cases[0].Text)
	}
	t.Run("tritonclient", func(t *testing.T) { testTriton(t, n, cases) })
	t.Run("grpcurl", func(t *testing.T) { testGRPCurl(t, n, cases) })
	t.Run("curl", func(t *testing.T) { testCurl(t, n, cases) })
}

// newCase asks a model about the first rows of its example, as internal/infer does.
func (n *liveNode) newCase(model string) *clientCase {
	n.t.Helper()
	client := infer.New(n.dial())
	rows := firstRows(n.t, model, clientRows)
	inputs, err := client.Inputs(n.ctx, model, "")
	if err != nil {
		n.t.Fatal(err)
	}
	c := &clientCase{Name: model}
	var columns []string
	for _, in := range inputs {
		at := rows.Schema().FieldIndices(in.Name)
		if len(at) != 1 {
			n.t.Fatalf("model %s wants input %q, which its example lacks", model, in.Name)
		}
		columns = append(columns, in.Name)
		c.Inputs = append(c.Inputs, clientInput{in.Name, in.Datatype, columnValues(n.t, rows.Column(at[0]))})
		if in.Datatype == "BYTES" {
			c.Text = in.Name
		} else {
			c.Number = in.Name
		}
	}
	if c.want, err = client.Predict(n.ctx, model, "", columns, rows); err != nil {
		n.t.Fatal(err)
	}
	if len(c.want.Predictions) != clientRows {
		n.t.Fatalf("%d predictions for %d rows", len(c.want.Predictions), clientRows)
	}
	return c
}

// columnValues returns a column as what encodes to a JSON list.
func columnValues(t *testing.T, col arrow.Array) any {
	t.Helper()
	switch a := col.(type) {
	case *array.Int64:
		return a.Int64Values()
	case *array.Float64:
		return a.Float64Values()
	case *array.String:
		var s []string
		for i := range a.Len() {
			s = append(s, a.Value(i))
		}
		return s
	}
	t.Fatalf("the example has a column of type %s", col.DataType())
	return nil
}

// check compares what a client got with what internal/infer got, bit for bit.
func (c *clientCase) check(t *testing.T, who, answeredBy, version string, shape []int64, values []float64) {
	t.Helper()
	if answeredBy != c.Name || version != fmt.Sprint(c.want.Version) {
		t.Errorf("%s: %s version %q answered, want %s version %d", who, answeredBy, version, c.Name, c.want.Version)
	}
	if !slices.Equal(shape, []int64{clientRows}) || len(values) != clientRows {
		t.Errorf("%s: shape %v with %d values, want [%d]", who, shape, len(values), clientRows)
		return
	}
	for i, x := range values {
		if got, want := float32(x), c.want.Predictions[i]; math.Float32bits(got) != math.Float32bits(want) {
			t.Errorf("%s: row %d: %v, want %v", who, i, got, want)
		}
	}
}

// tritonOutput is what testdata/clients/triton.py prints.
type tritonOutput struct {
	Facts map[string]struct {
		Live, Ready bool
		Server      struct {
			Name       string
			Extensions []string
		}
		Models map[string]struct {
			Ready        bool           `json:"ready"`
			VersionReady bool           `json:"version_ready"`
			Metadata     tritonMetadata `json:"metadata"`
			OfVersion    tritonMetadata `json:"of_version"`
		}
	}
	Answers []struct {
		Client, Mode, Model, Version, ID, Datatype string
		AnsweredBy                                 string `json:"answered_by"`
		Shape                                      []int64
		Values                                     []float64
	}
	Refusals []struct{ Client, What, Model, Status, Message string }
}

type tritonMetadata struct {
	Name, Platform string
	Versions       []string
	Inputs         []struct {
		Name, Datatype string
		Shape          []any // the gRPC client writes int64 as text
	}
	Outputs []struct {
		Name, Datatype string
		Shape          []any
	}
}

func testTriton(t *testing.T, n *liveNode, cases []*clientCase) {
	t.Parallel()
	python := tritonPython(t)
	task, err := json.Marshal(map[string]any{"grpc": n.Info().GRPC, "http": n.Info().HTTP, "models": cases})
	if err != nil {
		t.Fatal(err)
	}
	text, err := pipe(t, task, python, filepath.Join("testdata", "clients", "triton.py"))
	if err != nil {
		t.Fatalf("triton.py: %v", err)
	}
	var out tritonOutput
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, client := range []string{"grpc", "http"} {
		f := out.Facts[client]
		if !f.Live || !f.Ready || f.Server.Name != "tidemill" || !slices.Contains(f.Server.Extensions, "binary_tensor_data") {
			t.Errorf("%s: live %v, ready %v, server %+v", client, f.Live, f.Ready, f.Server)
		}
		for _, c := range cases {
			m := f.Models[c.Name]
			if !m.Ready || !m.VersionReady {
				t.Errorf("%s: model %s: ready %v, its version %v", client, c.Name, m.Ready, m.VersionReady)
			}
			for _, meta := range []tritonMetadata{m.Metadata, m.OfVersion} {
				checkMetadata(t, client, c, meta)
			}
		}
	}
	// Per model: 7 ways of the gRPC client, 10 of the HTTP one, both asynchronous ones.
	if want := len(cases) * (7 + 10 + 2); len(out.Answers) != want {
		t.Errorf("%d answers, want %d", len(out.Answers), want)
	}
	byName := map[string]*clientCase{}
	for _, c := range cases {
		byName[c.Name] = c
	}
	for _, a := range out.Answers {
		who := fmt.Sprintf("%s %s %s", a.Client, a.Model, a.Mode)
		byName[a.Model].check(t, who, a.AnsweredBy, a.Version, a.Shape, a.Values)
		if a.ID != a.Mode || a.Datatype != "float32" {
			t.Errorf("%s: id %q, datatype %s", who, a.ID, a.Datatype)
		}
	}
	checkRefusals(t, cases, &out)
}

func checkMetadata(t *testing.T, client string, c *clientCase, m tritonMetadata) {
	t.Helper()
	who := client + " metadata of " + c.Name
	if m.Name != c.Name || m.Platform == "" || !slices.Contains(m.Versions, fmt.Sprint(c.want.Version)) || len(m.Inputs) != len(c.Inputs) {
		t.Errorf("%s: %+v", who, m)
		return
	}
	for i, in := range m.Inputs {
		if in.Name != c.Inputs[i].Name || in.Datatype != c.Inputs[i].Datatype || fmt.Sprint(in.Shape) != "[-1]" {
			t.Errorf("%s: input %d: %+v", who, i, in)
		}
	}
	if len(m.Outputs) != 1 || m.Outputs[0].Name != "prediction" || m.Outputs[0].Datatype != "FP32" || fmt.Sprint(m.Outputs[0].Shape) != "[-1]" {
		t.Errorf("%s: outputs %+v", who, m.Outputs)
	}
}

// refusalTexts says what the exception for each wrong request has to contain.
var refusalTexts = map[string]struct{ grpc, http, text string }{
	"misspelt input":    {"StatusCode.INVALID_ARGUMENT", "400", "did you mean"},
	"missing input":     {"StatusCode.INVALID_ARGUMENT", "400", "inputs are missing"},
	"input twice":       {"StatusCode.INVALID_ARGUMENT", "400", "is given twice"},
	"two columns":       {"StatusCode.INVALID_ARGUMENT", "400", "2 elements per row"},
	"fewer rows":        {"StatusCode.INVALID_ARGUMENT", "400", "the same number of rows"},
	"text for a number": {"StatusCode.INVALID_ARGUMENT", "400", "datatype BYTES"},
	"a number for text": {"StatusCode.INVALID_ARGUMENT", "400", "datatype FP32"},
	"unknown model":     {"StatusCode.NOT_FOUND", "404", "no_such_model"},
	"unknown version":   {"StatusCode.NOT_FOUND", "404", "987654321"},
	"no version":        {"StatusCode.INVALID_ARGUMENT", "400", "whole number"},
	"unknown output":    {"StatusCode.INVALID_ARGUMENT", "400", "the output is called prediction"},
}

func checkRefusals(t *testing.T, cases []*clientCase, out *tritonOutput) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range out.Refusals {
		want, known := refusalTexts[r.What]
		if !known {
			t.Errorf("%q is not expected", r.What)
			continue
		}
		seen[r.What]++
		status := want.grpc
		if r.Client == "http" {
			status = want.http
		}
		if r.Status != status || !strings.Contains(r.Message, want.text) {
			t.Errorf("%s %s: %s: %s %q, want %s with %q", r.Client, r.Model, r.What, r.Status, r.Message, status, want.text)
		}
	}
	for what := range refusalTexts {
		times := 2 * len(cases)
		if what == "a number for text" {
			times = 2
		}
		if seen[what] != times {
			t.Errorf("%s was tried %d times, want %d", what, seen[what], times)
		}
	}
}

// contentsOf maps a datatype to its field of InferTensorContents in JSON.
var contentsOf = map[string]string{"INT64": "int64_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}

func testGRPCurl(t *testing.T, n *liveNode, cases []*clientCase) {
	t.Parallel()
	tool := grpcurl(t)
	call := func(what, body string) (string, error) {
		args := []string{"-plaintext"}
		if body != "" {
			args = append(args, "-d", "@")
		}
		out, err := pipe(t, []byte(body), tool, append(args, n.Info().GRPC, what)...)
		return string(out), err
	}
	list, err := call("list", "")
	if err != nil || !strings.Contains(list, "inference.GRPCInferenceService") || !strings.Contains(list, "grpc.health.v1.Health") {
		t.Fatalf("list: %q, %v", list, err)
	}
	if ready, err := call("inference.GRPCInferenceService/ServerReady", "{}"); err != nil || !strings.Contains(ready, `"ready": true`) {
		t.Errorf("ServerReady: %q, %v", ready, err)
	}
	for _, c := range cases {
		if health, err := call("grpc.health.v1.Health/Check", `{"service": "model/`+c.Name+`"}`); err != nil || !strings.Contains(health, "SERVING") {
			t.Errorf("health of %s: %q, %v", c.Name, health, err)
		}
		req := map[string]any{"model_name": c.Name, "id": "one"}
		var inputs []any
		for _, in := range c.Inputs {
			values := in.Data
			if text, ok := values.([]string); ok { // JSON of a bytes field is base64
				var raw [][]byte
				for _, s := range text {
					raw = append(raw, []byte(s))
				}
				values = raw
			}
			inputs = append(inputs, map[string]any{
				"name": in.Name, "datatype": in.Datatype, "shape": []int{clientRows}, "contents": map[string]any{contentsOf[in.Datatype]: values},
			})
		}
		req["inputs"] = inputs
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := call("inference.GRPCInferenceService/ModelInfer", string(body))
		if err != nil {
			t.Errorf("ModelInfer of %s: %v", c.Name, err)
			continue
		}
		var out struct {
			ModelName, ModelVersion, ID string
			Outputs                     []struct {
				Shape    []json.Number
				Contents struct{ FP32Contents []float64 }
			}
		}
		if err := json.Unmarshal([]byte(text), &out); err != nil || len(out.Outputs) != 1 {
			t.Errorf("%v in %s", err, text)
			continue
		}
		var shape []int64
		for _, s := range out.Outputs[0].Shape { // JSON of an int64 field is text
			d, _ := s.Int64()
			shape = append(shape, d)
		}
		c.check(t, "grpcurl "+c.Name, out.ModelName, out.ModelVersion, shape, out.Outputs[0].Contents.FP32Contents)
	}
	_, err = call("inference.GRPCInferenceService/ModelInfer",
		`{"model_name": "power", "inputs": [{"name": "perod", "datatype": "FP64", "shape": [1], "contents": {"fp64_contents": [0]}}]}`)
	if err == nil || !strings.Contains(err.Error(), "InvalidArgument") || !strings.Contains(err.Error(), `did you mean "period"?`) {
		t.Errorf("a misspelt input: %v", err)
	}
}

func testCurl(t *testing.T, n *liveNode, cases []*clientCase) {
	t.Parallel()
	tool, err := exec.LookPath("curl")
	if err != nil {
		missing(t, "curl is not installed")
	}
	call := func(body string, args ...string) string {
		args = append([]string{"--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--write-out", "\n%{http_code}"}, args...)
		if body != "" {
			args = append(args, "--data-binary", "@-")
		}
		out, err := pipe(t, []byte(body), tool, args...)
		if err != nil {
			t.Fatalf("curl: %v", err)
		}
		return string(out)
	}
	base := "http://" + n.Info().HTTP + "/v2"
	for _, path := range []string{"/health/live", "/health/ready", "/models/power/ready"} {
		if out := call("", base+path); !strings.HasSuffix(out, "\n200") {
			t.Errorf("%s: %s", path, out)
		}
	}
	for _, c := range cases {
		var inputs []any
		for _, in := range c.Inputs {
			inputs = append(inputs, map[string]any{"name": in.Name, "datatype": in.Datatype, "shape": []int{clientRows}, "data": in.Data})
		}
		body, err := json.Marshal(map[string]any{"id": "one", "inputs": inputs})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"", fmt.Sprintf("/versions/%d", c.want.Version)} {
			// --compressed asks for an answer in any coding that curl knows.
			text, ok := strings.CutSuffix(call(string(body), "--compressed", base+"/models/"+c.Name+at+"/infer"), "\n200")
			var out struct {
				ModelName    string `json:"model_name"`
				ModelVersion string `json:"model_version"`
				ID           string `json:"id"`
				Outputs      []struct {
					Shape []int64
					Data  []float64
				}
			}
			if err := json.Unmarshal([]byte(text), &out); err != nil || !ok || len(out.Outputs) != 1 || out.ID != "one" {
				t.Errorf("curl %s: %v in %s", c.Name, err, text)
				continue
			}
			c.check(t, "curl "+c.Name, out.ModelName, out.ModelVersion, out.Outputs[0].Shape, out.Outputs[0].Data)
		}
	}
	for body, want := range map[string]string{
		`{"inputs": [{"name": "perod", "datatype": "FP64", "shape": [1], "data": [0]}]}`: `did you mean \"period\"?`,
		`{"inputs": `: `{"error":`,
	} {
		if out := call(body, base+"/models/power/infer"); !strings.HasSuffix(out, "\n400") || !strings.Contains(out, want) {
			t.Errorf("%s: %s", body, out)
		}
	}
}
