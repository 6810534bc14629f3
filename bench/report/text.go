package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Text writes a report for people: medians, and least and most where there are several.
func Text(w io.Writer, r *Report) error {
	if _, err := fmt.Fprintf(w, "%s: %s\n", r.Bench, r.About); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	seen := map[string]bool{}
	for _, x := range r.Results {
		name := strings.TrimPrefix(x.Name, r.Bench+"/")
		if seen[name] {
			continue
		}
		seen[name] = true
		fmt.Fprintf(t, "  %s", name)
		for _, u := range x.units() {
			v := r.Values(name, u)
			fmt.Fprintf(t, "\t%s %s", short(Median(v)), u)
			if len(v) > 1 {
				fmt.Fprintf(t, " (%s–%s)", short(Quantile(v, 0)), short(Quantile(v, 1)))
			}
		}
		fmt.Fprintln(t)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(t, "  %s\n", n)
	}
	return t.Flush()
}
