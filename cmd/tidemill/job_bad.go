package main

import (
	"fmt"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// showBad shows what became of a job's bad rows, if it had any.
func showBad(row func(name, format string, args ...any), st trainer.JobStatus) {
	b := st.Bad
	if st.BadRows == 0 {
		return
	}
	var by []string
	for _, cause := range tidemill.BadCauses() {
		if n := b.Counts[cause]; n > 0 {
			by = append(by, fmt.Sprintf("%s %s", cause, count(n)))
		}
	}
	what := fmt.Sprintf("%s; the job pauses beyond %s", strings.Join(by, ", "), b.Max)
	if b.Accepted > 0 {
		what += fmt.Sprintf(", not counting %s that were accepted", count(b.Accepted))
	}
	row("bad rows", "%s", what)
	where := "none yet"
	if b.Topic != "" {
		where = fmt.Sprintf("%s in topic %s", count(b.Letters), b.Topic)
	}
	if b.Waiting > 0 {
		where += fmt.Sprintf(", %s to come", count(int64(b.Waiting)))
	}
	if b.Trouble != "" {
		where += ": " + b.Trouble
	}
	row("dead rows", "%s", where)
}
