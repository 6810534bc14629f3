package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/infer"
	"github.com/tidemill/tidemill/internal/node"
)

// Metrics of a node are well-formed, and their series do not grow with versions or with what
// clients ask for.
func TestMetricsStayBounded(t *testing.T) {
	const versions, rows = 50, 20
	n := startLive(t, t.TempDir(), node.Config{})
	job, csv := exampleJob(t, "power", versions*rows)
	job.Spec.Gate.Mode = tidemill.GateOff
	job.Spec.Train.Snapshot = tidemill.Interval{Rows: rows}
	job.Spec.Train.End = tidemill.Cut{versions * rows}
	name := job.Spec.Model
	client := infer.New(n.dial())
	question := firstRows(t, name, 1)
	var columns []string
	for _, f := range question.Schema().Fields() {
		if f.Name != job.Spec.Label.Column {
			columns = append(columns, f.Name)
		}
	}
	ask := func(model, version string) error {
		_, err := client.Predict(n.ctx, model, version, columns, question)
		return err
	}
	// A few kinds of request of each outcome, then only more of them.
	refused := func(i int) {
		for _, err := range []error{ask(fmt.Sprint("model-", i), ""), ask(name, fmt.Sprint(1000+i))} {
			if err == nil {
				t.Fatal("a request for what is not there was answered")
			}
		}
	}
	lines := bytes.SplitAfter(csv, []byte("\n"))
	n.produce(job.Spec.Stream.Topic, bytes.Join(lines[:1+5*rows], nil))
	n.submit(job)
	n.until("the first versions serve", func() bool { return n.Serving().Live(name) >= 4 })
	if err := ask(name, ""); err != nil {
		t.Fatal(err)
	}
	refused(0)
	early := n.series()
	n.produce(job.Spec.Stream.Topic, csv)
	if champion := n.finish(name); champion < versions-1 {
		t.Fatalf("the champion is version %d, this test means to make %d", champion, versions)
	}
	for i := range 20 {
		refused(i)
		if err := ask(name, ""); err != nil {
			t.Fatal(err)
		}
	}
	late := n.series()
	for s := range late {
		if !early[s] {
			t.Errorf("series %s was not there after 5 versions", s)
		}
	}
	if len(late) < 20 {
		t.Errorf("%d series are too few to be all", len(late))
	}
}

// series reads /metrics, checks its form, and returns the names of all series.
func (n *liveNode) series() map[string]bool {
	n.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(n.ctx, http.MethodGet, "http://"+n.Info().HTTP+"/metrics", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatalf("/metrics: %s, %v", resp.Status, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		n.t.Fatalf("/metrics does not parse: %v", err)
	}
	problems, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range problems {
		n.t.Errorf("metric %s: %s", p.Metric, p.Text)
	}
	all := map[string]bool{}
	for name, f := range families {
		if !strings.HasPrefix(name, "tidemill_") {
			n.t.Errorf("metric %s does not begin with tidemill_", name)
		}
		for _, m := range f.GetMetric() {
			all[name+labels(n.t, m)] = true
		}
	}
	return all
}

// labels writes a metric's labels, and complains of one that is a version.
func labels(t *testing.T, m *dto.Metric) string {
	t.Helper()
	var all []string
	for _, l := range m.GetLabel() {
		if strings.Contains(l.GetName(), "version") {
			t.Errorf("label %s=%q has a value per version", l.GetName(), l.GetValue())
		}
		all = append(all, l.GetName()+"="+strconv.Quote(l.GetValue()))
	}
	return "{" + strings.Join(all, ",") + "}"
}
