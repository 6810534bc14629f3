package report

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"
)

const style = `body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem;border-bottom:1px solid #ccc}h3{font-size:1rem;margin-bottom:.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem;display:block;overflow-x:auto}
th,td{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #e3e3e3;white-space:nowrap}th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto;font:11px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}
.key span{display:inline-block;margin-right:1rem}.key i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}
.note{color:#555}`

// HTML writes reports as one page that loads nothing from elsewhere and runs no script. Where
// a thing was measured several times the table shows the median, and least and most.
func HTML(w io.Writer, reports ...*Report) error {
	var b strings.Builder
	b.WriteString("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Tidemill benchmarks</title><style>")
	b.WriteString(style)
	b.WriteString("</style></head><body>\n<h1>Tidemill benchmarks</h1>\n")
	if len(reports) > 0 {
		r := reports[0]
		fmt.Fprintf(&b, "<p>%s, %d cores, %s/%s, level %s, %s; %s</p>\n", html.EscapeString(or(r.Machine.CPU, "unknown processor")), r.Machine.Cores,
			r.Machine.OS, r.Machine.Arch, r.Machine.Level, html.EscapeString(r.Machine.GoVersion), r.Began.UTC().Format(time.DateTime+" UTC"))
	}
	for _, r := range reports {
		fmt.Fprintf(&b, "<h2 id=\"%s\">%s</h2>\n<p>%s</p>\n", html.EscapeString(r.Bench), html.EscapeString(r.Bench), html.EscapeString(r.About))
		for i := range r.Plots {
			writePlot(&b, &r.Plots[i])
		}
		writeTable(&b, r)
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "<p class=\"note\">%s</p>\n", html.EscapeString(n))
		}
	}
	b.WriteString("</body></html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func writePlot(b *strings.Builder, p *Plot) {
	svg := p.svg()
	if svg == "" {
		return
	}
	fmt.Fprintf(b, "<h3>%s</h3>\n<p class=\"key\">", html.EscapeString(p.Title))
	for i, s := range p.Series {
		if s.Name != "" {
			fmt.Fprintf(b, "<span><i style=\"background:%s\"></i>%s</span>", colours[i%len(colours)], html.EscapeString(s.Name))
		}
	}
	fmt.Fprintf(b, "</p>\n%s\n", svg)
}

func writeTable(b *strings.Builder, r *Report) {
	var names, units []string
	seen, known := map[string]bool{}, map[string]bool{}
	for _, x := range r.Results {
		if !seen[x.Name] {
			seen[x.Name] = true
			names = append(names, strings.TrimPrefix(x.Name, r.Bench+"/"))
		}
		for _, u := range x.units() {
			if !known[u] {
				known[u] = true
				units = append(units, u)
			}
		}
	}
	if len(names) == 0 {
		return
	}
	b.WriteString("<table><tr><th>measurement</th>")
	for _, u := range units {
		fmt.Fprintf(b, "<th>%s</th>", html.EscapeString(u))
	}
	b.WriteString("</tr>\n")
	for _, n := range names {
		fmt.Fprintf(b, "<tr><td>%s</td>", html.EscapeString(n))
		for _, u := range units {
			v := r.Values(n, u)
			switch len(v) {
			case 0:
				b.WriteString("<td></td>")
			case 1:
				fmt.Fprintf(b, "<td>%s</td>", short(v[0]))
			default:
				fmt.Fprintf(b, "<td title=\"%s to %s, %d times\">%s</td>", short(Quantile(v, 0)), short(Quantile(v, 1)), len(v), short(Median(v)))
			}
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</table>\n")
}
