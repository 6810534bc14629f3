package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/demo"
)

func good() *demo.Result {
	fresh := 1.5
	passed := []tidemill.Check{{Name: "integrity", Status: "passed"}, {Name: "vs_champion", Status: "skipped"}}
	return &demo.Result{
		Demo: "intrusion", Examples: 25192, Accuracy: 0.99, LogLoss: 0.03, AUC: 0.999, PriorLogLoss: 0.69, NoChangeAccuracy: 0.5, AccuracyAfter5000: 0.99,
		ServedLogLoss: 0.07, Published: 4, Requests: 1000, Digest: strings.Repeat("0f", 16), Champion: 3, FreshnessP50: &fresh,
		Versions: []demo.VersionResult{
			{Version: 1, Decision: "published", Reason: "first", Evidence: passed},
			{Version: 2, Decision: "rejected", Reason: "worse"},
			{Version: 3, Decision: "published", Reason: "not worse", Evidence: passed},
			{Version: 4, Decision: "superseded", Reason: "a newer one"},
			{Version: 5, Decision: "held", Reason: "the stream ended"},
		},
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name   string
		change func(*demo.Result)
		want   string // "" passes
	}{
		{"as it should be", func(*demo.Result) {}, ""},
		{"rows lost", func(r *demo.Result) { r.Examples-- }, "25191 examples"},
		{"learned nothing", func(r *demo.Result) { r.LogLoss = 0.6 }, "log loss 0.6000"},
		{"learned too little", func(r *demo.Result) { r.AccuracyAfter5000 = 0.97 }, "0.98 is promised"},
		{"published everything", func(r *demo.Result) { r.Published = len(r.Versions) }, "not all are promised"},
		{"stale", func(r *demo.Result) { f := 9.0; r.FreshnessP50 = &f }, "longer than 8 s"},
		{"serves nonsense", func(r *demo.Result) { r.ServedLogLoss = 0.8 }, "served log loss 0.8000"},
		{"a request failed", func(r *demo.Result) { r.RequestsFailed, r.FirstError = 1, "no version" }, "first: no version"},
		{"champion was rejected", func(r *demo.Result) { r.Champion = 2 }, "version 2 serves and was not published"},
		{"published against evidence", func(r *demo.Result) {
			r.Versions[2].Evidence = []tidemill.Check{{Name: "parity", Status: "failed"}}
		}, "check parity is failed"},
		{"no digest", func(r *demo.Result) { r.Digest = "" }, "digest"},
		{"another demo", func(r *demo.Result) { r.Demo = "intursion" }, "intrusion"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := good()
			test.change(r)
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			problems, err := check(strings.NewReader(string(b)))
			got := fmt.Sprint(problems, err)
			if test.want == "" && (len(problems) > 0 || err != nil) || !strings.Contains(got, test.want) {
				t.Errorf("problems %s, want one with %q", got, test.want)
			}
		})
	}
	if _, err := check(strings.NewReader("Segmentation fault")); err == nil {
		t.Error("what is no JSON passes")
	}
}
