package report

import (
	"bufio"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill/internal/kernel"
)

// Report is what one benchmark found in one run.
type Report struct {
	Bench   string    `json:"bench"`
	About   string    `json:"about"` // what was measured, one sentence
	Machine Machine   `json:"machine"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"` // that the whole benchmark took
	Results []Result  `json:"results"`
	Plots   []Plot    `json:"plots,omitempty"`
	Notes   []string  `json:"notes,omitempty"` // what a reader has to know beside the figures
}

// Machine is where figures come from.
type Machine struct {
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	CPU       string `json:"cpu,omitempty"` // model; "" where the system does not say
	Cores     int    `json:"cores"`
	Level     string `json:"level"` // highest instruction level of internal/kernel
	GoVersion string `json:"go"`
}

// ThisMachine describes the machine that the program runs on.
func ThisMachine() Machine {
	return Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), Cores: runtime.GOMAXPROCS(0), Level: kernel.Best().String(), GoVersion: runtime.Version()}
}

// cpuModel reads the processor's name where Linux tells it.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Result is one measurement.
type Result struct {
	// Name is the benchmark's and its settings: "stream/op=read/rows=4096".
	Name string `json:"name"`
	N    int64  `json:"n"` // operations that were timed, at least 1
	// Metrics by unit: "rows/s", "ns/op". All are finite.
	Metrics map[string]float64 `json:"metrics"`
}

// New begins a report.
func New(bench, about string) *Report {
	return &Report{Bench: bench, About: about, Machine: ThisMachine(), Began: time.Now(), Results: []Result{}}
}

// Add appends a result. Metrics that are no finite number were not measured, and are left out.
func (r *Report) Add(name string, n int64, metrics map[string]float64) {
	kept := map[string]float64{}
	for unit, v := range metrics {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			kept[unit] = v
		}
	}
	r.Results = append(r.Results, Result{Name: r.Bench + "/" + name, N: max(1, n), Metrics: kept})
}

// Note appends a sentence that a reader has to know.
func (r *Report) Note(s string) { r.Notes = append(r.Notes, s) }

// Done notes how long the benchmark took. It returns r.
func (r *Report) Done() *Report {
	r.Seconds = time.Since(r.Began).Seconds()
	return r
}

// Values returns the values of a unit in all results of a name (without the benchmark's).
func (r *Report) Values(name, unit string) []float64 {
	var out []float64
	for _, x := range r.Results {
		if v, ok := x.Metrics[unit]; ok && x.Name == r.Bench+"/"+name {
			out = append(out, v)
		}
	}
	return out
}

// Median returns the median of Values, or NaN when there are none.
func (r *Report) Median(name, unit string) float64 { return Median(r.Values(name, unit)) }

// Median returns the middle value, the mean of both middle ones where their number is even,
// or NaN of none. It keeps v as it is.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// Quantile returns the q-th quantile, q in [0, 1], by the nearest rank, or NaN of none. It keeps v.
func Quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	at := int(math.Ceil(q*float64(len(s)))) - 1
	return s[max(0, min(at, len(s)-1))]
}
