package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// units lists the units of a result: time first, then by name.
func (x *Result) units() []string {
	var out []string
	for u := range x.Metrics {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b string) int {
		if (a == "ns/op") != (b == "ns/op") {
			if a == "ns/op" {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return out
}

// GoLines writes reports in the Go benchmark format: configuration lines, then a line for each
// result. Results without any metric have none.
func GoLines(w io.Writer, reports ...*Report) error {
	var err error
	print := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	for i, r := range reports {
		if i == 0 {
			print("goos: %s\ngoarch: %s\ncpu: %s\ncores: %d\nlevel: %s\n", r.Machine.OS, r.Machine.Arch, r.Machine.CPU, r.Machine.Cores, r.Machine.Level)
		}
		for _, x := range r.Results {
			if len(x.Metrics) == 0 {
				continue
			}
			print("Benchmark%s-%d\t%8d", goName(x.Name), r.Machine.Cores, x.N)
			for _, u := range x.units() {
				print("\t%s %s", plain(x.Metrics[u]), u)
			}
			print("\n")
		}
	}
	return err
}

// goName makes a benchmark's name of a result's: an upper-case letter first, no space.
func goName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return '_'
		}
		return r
	}, s)
	return strings.ToUpper(s[:1]) + s[1:]
}

// plain writes a number with at least four significant digits, without an exponent.
func plain(v float64) string {
	switch a := max(v, -v); {
	case a == 0 || a >= 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a >= 0.1:
		return strconv.FormatFloat(v, 'f', 4, 64)
	}
	s := strconv.FormatFloat(v, 'g', 4, 64)
	if strings.ContainsAny(s, "eE") {
		s = strconv.FormatFloat(v, 'f', 12, 64)
	}
	return s
}
