// Command cicheck judges what `tidemill demo --exit --json` printed, on the standard input.
// It fails with one line for each figure that a working system does not give.
//
// The bounds leave room for a busy machine: what is learned does not depend on time, what is
// served does, since a slow trainer publishes later.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/demo"
)

func main() {
	problems, err := check(os.Stdin)
	if err != nil {
		problems = append(problems, err.Error())
	}
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "cicheck:", p)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
	fmt.Println("the demo's figures are as they should be")
}

var hex32 = regexp.MustCompile(`^[0-9a-f]{32}$`)

// check returns what is wrong with a result.
func check(r io.Reader) ([]string, error) {
	var res demo.Result
	if err := json.NewDecoder(r).Decode(&res); err != nil {
		return nil, fmt.Errorf("no result of a demo: %w", err)
	}
	w, err := demo.Find(res.Demo)
	if err != nil {
		return nil, err
	}
	var problems []string
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	expect(res.Examples == int64(w.Rows), "%d examples trained, the stream has %d", res.Examples, w.Rows)
	expect(res.Accuracy > res.NoChangeAccuracy, "accuracy %.4f, repeating the last label gives %.4f", res.Accuracy, res.NoChangeAccuracy)
	expect(res.LogLoss < 0.5*res.PriorLogLoss, "log loss %.4f, the label's frequency alone gives %.4f", res.LogLoss, res.PriorLogLoss)
	expect(res.ServedLogLoss < res.PriorLogLoss, "served log loss %.4f, the label's frequency alone gives %.4f", res.ServedLogLoss, res.PriorLogLoss)
	expect(res.AUC > 0.9, "AUC %.4f", res.AUC)
	expect(res.Published >= 2, "%d versions published", res.Published)
	expect(res.Requests > 0, "no request was answered")
	expect(res.RequestsFailed == 0, "%d of %d requests failed, first: %s", res.RequestsFailed, res.Requests, res.FirstError)
	expect(hex32.MatchString(res.Digest), "digest %q", res.Digest)
	expect(res.FreshnessP50 != nil, "half of the events were never served")

	switch res.Demo {
	case "intrusion":
		expect(res.AccuracyAfter5000 >= 0.98, "accuracy after the first 5000 rows %.4f, 0.98 is promised", res.AccuracyAfter5000)
		expect(res.ServedLogLoss <= 0.5*res.PriorLogLoss, "served log loss %.4f, half of %.4f is promised", res.ServedLogLoss, res.PriorLogLoss)
		expect(res.Published >= 4 && res.Published < len(res.Versions), "%d of %d versions published, at least 4 and not all are promised", res.Published, len(res.Versions))
		expect(res.Requests >= 1000, "%d requests answered, 1000 are promised", res.Requests)
		expect(res.FreshnessP50 != nil && *res.FreshnessP50 <= 8, "half of the events took longer than 8 s to be served")
	case "power":
		expect(res.Accuracy >= 0.90, "accuracy %.4f, 0.90 is promised", res.Accuracy)
		expect(res.LogLoss <= 0.27, "log loss %.4f, 0.27 is promised", res.LogLoss)
	}

	serves := false
	for _, v := range res.Versions {
		expect(v.Decision != "" && v.Reason != "", "version %d has no decision or no reason", v.Version)
		if v.Decision == tidemill.Published {
			serves = serves || v.Version == res.Champion
			expect(len(v.Evidence) > 0, "version %d was published without evidence", v.Version)
			for _, c := range v.Evidence {
				expect(c.Status == "passed" || c.Status == "skipped", "version %d was published and its check %s is %s", v.Version, c.Name, c.Status)
			}
		}
	}
	expect(serves, "version %d serves and was not published", res.Champion)
	return problems, nil
}
