package process

import (
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	m, err := ParseMetrics(strings.NewReader(`# HELP x y
x{job="a",ps="p"} 16
x{job="b",ps="p"} 3 1700000000000
x_total{job="a}"} 1e3
plain 2.5
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, labels string
		want         float64
	}{{"x", "", 19}, {"x", `job="a"`, 16}, {"x", `job="c"`, 0}, {"x_total", `job="a}"`, 1000}, {"plain", "", 2.5}} {
		var labels []string
		if c.labels != "" {
			labels = append(labels, c.labels)
		}
		if got := m.Sum(c.name, labels...); got != c.want {
			t.Errorf("%s{%s}: %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	for _, bad := range []string{"x", "x{", "x y", "x{a=\"b\"}"} {
		if _, err := ParseMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
