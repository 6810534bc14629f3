package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func sample() *Report {
	r := New("stream", "Rows through a <topic>.")
	for _, v := range []float64{3, 1, 2} {
		r.Add("op=read/rows=4096", 1000, map[string]float64{"rows/s": v * 1e6, "ns/op": 1e3 / v, "AUC": math.NaN()})
	}
	r.Add("op=append", 0, map[string]float64{"rows/s": 1.5})
	r.Add("op=none", 1, nil)
	r.Plots = []Plot{
		{Title: "By <rows>", YLabel: "rows/s", XLabel: "rows", LogX: true, Series: []Series{{Name: "a & b", X: []float64{1, 10, 100}, Y: []float64{5, 7, 6}}}},
		{Title: "By op", YLabel: "rows/s", Categories: []string{"read", "append"}, Series: []Series{{Name: "x", Y: []float64{5, -7}}}},
		{Title: "Nothing", YLabel: "y"},
	}
	r.Note("a note")
	return r.Done()
}

func TestGoLines(t *testing.T) {
	var b bytes.Buffer
	if err := GoLines(&b, sample()); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	pattern := regexp.MustCompile(`^Benchmark[A-Z]\S*-\d+\t +\d+(\t\d+(\.\d+)? \S+)+$`)
	var found int
	for _, l := range lines {
		if strings.HasPrefix(l, "Benchmark") {
			found++
			if !pattern.MatchString(l) {
				t.Errorf("benchstat would not read %q", l)
			}
		} else if !strings.Contains(l, ": ") {
			t.Errorf("no configuration line: %q", l)
		}
	}
	if found != 4 {
		t.Errorf("%d lines, want 4:\n%s", found, &b)
	}
	if !strings.Contains(b.String(), "1000\t333.3 ns/op\t3000000 rows/s") {
		t.Errorf("time first, then by name:\n%s", &b)
	}
}

func TestJSONHasNoWhatWasNotMeasured(t *testing.T) {
	r := sample()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Results) != 5 || len(back.Results[0].Metrics) != 2 || back.Results[3].N != 1 {
		t.Errorf("%+v", back.Results)
	}
	if got := r.Median("op=read/rows=4096", "rows/s"); got != 2e6 {
		t.Errorf("median %v", got)
	}
}

func TestHTMLIsOnePage(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, sample(), sample()); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, never := range []string{"<script", "http://", "https://", "src=", "@import", "url("} {
		if strings.Contains(page, never) {
			t.Errorf("the page has %q", never)
		}
	}
	if n := strings.Count(page, "<svg"); n != 4 {
		t.Errorf("%d plots, want 4", n)
	}
	if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") {
		t.Error("a number that is none was written")
	}
	// What is drawn is well formed.
	for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1) {
		if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil {
			t.Errorf("%v in %s", err, svg)
		}
	}
	for _, want := range []string{"Rows through a &lt;topic&gt;.", "a &amp; b", "title=\"1M to 3M, 3 times\">2M<"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := Text(&b, sample()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "2M rows/s (1M–3M)") || !strings.Contains(b.String(), "a note") {
		t.Error(b.String())
	}
}

func TestPlotsOfAnything(t *testing.T) {
	value := rapid.Float64Range(-1e12, 1e12)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 40).Draw(t, "n")
		s := Series{Name: "s", Y: rapid.SliceOfN(value, n, n).Draw(t, "y")}
		p := Plot{Title: "t", YLabel: "y"}
		if rapid.Bool().Draw(t, "bars") {
			for range n {
				p.Categories = append(p.Categories, rapid.String().Draw(t, "category"))
			}
			if n == 0 {
				p.Categories = []string{"none"}
			}
		} else {
			s.X = rapid.SliceOfN(rapid.Float64Range(1e-6, 1e9), n, n).Draw(t, "x")
			slices.Sort(s.X)
			p.LogX = rapid.Bool().Draw(t, "log")
		}
		p.Series = []Series{s}
		svg := p.svg()
		if (svg == "") != (n == 0) {
			t.Fatalf("%d points: %q", n, svg)
		}
		if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") || len(svg) > 200_000 {
			t.Fatalf("%d bytes: %.2000s", len(svg), svg)
		}
	})
}

func TestQuantiles(t *testing.T) {
	if !math.IsNaN(Median(nil)) || !math.IsNaN(Quantile(nil, 0.5)) {
		t.Error("a middle of nothing")
	}
	v := []float64{4, 1, 3, 2}
	if Median(v) != 2.5 || Quantile(v, 0) != 1 || Quantile(v, 0.5) != 2 || Quantile(v, 1) != 4 || v[0] != 4 {
		t.Error(Median(v), Quantile(v, 0.5), v)
	}
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(-100, 100), 1, 30).Draw(t, "v")
		m := Median(v)
		below, above := 0, 0
		for _, x := range v {
			if x < m {
				below++
			}
			if x > m {
				above++
			}
		}
		if below > len(v)/2 || above > len(v)/2 {
			t.Fatalf("%v of %v", m, v)
		}
	})
}
