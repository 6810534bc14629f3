package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Metrics are a process's metrics at one moment.
type Metrics []Sample

// Sample is one metric: Labels is the text between the braces.
type Sample struct {
	Name, Labels string
	Value        float64
}

// Scrape reads the metrics at a URL.
func Scrape(ctx context.Context, url string) (Metrics, error) {
	return ScrapeBy(ctx, http.DefaultClient, url)
}

// ScrapeBy is Scrape by a client of one's own, such as one that shows a certificate.
func ScrapeBy(ctx context.Context, client *http.Client, url string) (Metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	return ParseMetrics(resp.Body)
}

// ParseMetrics reads the text form of metrics.
func ParseMetrics(r io.Reader) (Metrics, error) {
	var out Metrics
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		var s Sample
		rest := ""
		if open := strings.IndexByte(text, '{'); open >= 0 {
			end := strings.LastIndexByte(text, '}')
			if end < open {
				return nil, fmt.Errorf("metrics: %q has no closing brace", text)
			}
			s.Name, s.Labels, rest = text[:open], text[open+1:end], text[end+1:]
		} else {
			s.Name, rest, _ = strings.Cut(text, " ")
		}
		// A timestamp may follow the value.
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return nil, fmt.Errorf("metrics: %q has no value", text)
		}
		var err error
		if s.Value, err = strconv.ParseFloat(fields[0], 64); err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", text, err)
		}
		out = append(out, s)
	}
	return out, lines.Err()
}

// Sum adds the samples of a name whose labels contain each of labels, such as `job="x"`.
func (m Metrics) Sum(name string, labels ...string) float64 {
	sum := 0.0
next:
	for _, s := range m {
		if s.Name != name {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(","+s.Labels+",", ","+l+",") {
				continue next
			}
		}
		sum += s.Value
	}
	return sum
}
