package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/demo"
)

const (
	// screenDecisions is how many decisions the screen shows.
	screenDecisions = 8
	// plainEvery is how often progress is written where it cannot be redrawn.
	plainEvery = 2 * time.Second
)

// screen shows a demo under way: a block that is redrawn in place on a terminal, plain lines
// elsewhere. It is safe for concurrent use.
type screen struct {
	w     io.Writer
	width int // 0: no terminal
	total int
	name  string
	what  string

	mu        sync.Mutex
	lines     int // of the block that is shown
	last      demo.Progress
	lastRows  int64
	lastAt    time.Duration
	rate      float64
	printed   time.Duration
	decisions []tidemill.Decision
	counts    map[string]int
	over      bool
}

func newScreen(w io.Writer, cfg demo.Config) *screen {
	s := &screen{w: w, total: cfg.Workload.Rows, name: cfg.Workload.Name, what: cfg.Workload.What, counts: map[string]int{}}
	if cfg.Rows > 0 {
		s.total = min(s.total, cfg.Rows)
	}
	if f, width := terminal(w); f != nil {
		s.w, s.width = f, width
	} else {
		fmt.Fprintf(w, "%s: %s\n", s.name, s.what)
	}
	return s
}

// progress is for demo.Config.
func (s *screen) progress(p demo.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	if d := p.Elapsed - s.lastAt; d > 0 {
		now := float64(p.Status.Examples-s.lastRows) / d.Seconds()
		s.rate += 0.4 * (now - s.rate)
	}
	s.last, s.lastRows, s.lastAt = p, p.Status.Examples, p.Elapsed
	if s.width > 0 {
		s.draw()
	} else if p.Elapsed-s.printed >= plainEvery {
		s.printed = p.Elapsed
		r := p.Status.Progress
		fmt.Fprintf(s.w, "%5.1f s  %s events, %s/s  accuracy %s  log loss %s  live %s  answered %s, failed %d\n", p.Elapsed.Seconds(), count(p.Status.Examples),
			count(int64(s.rate)), measure(r.Examples, r.Accuracy), measure(r.Examples, r.Loss), version(p.Live), count(p.Requests-p.Failed), p.Failed)
	}
}

// decided is for demo.Config.
func (s *screen) decided(d tidemill.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.counts[d.Decision]++
	s.decisions = append(s.decisions, d)
	if n := len(s.decisions); n > screenDecisions {
		s.decisions = s.decisions[n-screenDecisions:]
	}
	if s.width > 0 {
		s.draw()
	} else {
		fmt.Fprintf(s.w, "  version %d is %s: %s\n", d.Version, d.Decision, d.Reason)
	}
}

// end stops the drawing; what is on the screen stays.
func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// draw replaces the block. mu is held.
func (s *screen) draw() {
	p := s.last
	r := p.Status.Progress
	const cells = 30
	done := min(1, float64(p.Status.Examples)/float64(max(1, s.total)))
	full := int(done * cells)
	fresh := "–"
	if p.Freshest > 0 {
		fresh = fmt.Sprintf("%.2f s", p.Freshest)
	}
	lines := []string{
		fmt.Sprintf("\x1b[1mtidemill demo %s\x1b[0m  %s", s.name, s.what),
		"",
		fmt.Sprintf("  %s%s %3.0f%%  %s of %s events  %s/s  %.0f s", strings.Repeat("█", full), strings.Repeat("░", cells-full),
			100*done, count(p.Status.Examples), count(int64(s.total)), count(int64(s.rate)), p.Elapsed.Seconds()),
		"",
		fmt.Sprintf("  accuracy  %s   repeating the last label     %s", measure(r.Examples, r.Accuracy), measure(r.Examples, r.NoChangeAccuracy)),
		fmt.Sprintf("  log loss  %s   knowing only label frequency %s", measure(r.Examples, r.Loss), measure(r.Examples, r.PriorLoss)),
		fmt.Sprintf("  live      %-6s   newest event to served in    %s", version(p.Live), fresh),
		fmt.Sprintf("  requests  %s answered, %d failed", count(p.Requests-p.Failed), p.Failed),
		"",
		fmt.Sprintf("  versions  %d published, %d rejected, %d held, %d superseded", s.counts[tidemill.Published], s.counts[tidemill.Rejected], s.counts[tidemill.Held], s.counts[tidemill.Superseded]),
	}
	for i := range screenDecisions {
		line := ""
		if i < len(s.decisions) {
			d := s.decisions[i]
			line = fmt.Sprintf("    %-5s %-10s %s", version(d.Version), d.Decision, d.Reason)
		}
		lines = append(lines, line)
	}
	var b strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	for i, l := range lines {
		width := s.width - 1
		if i == 0 {
			width += len("\x1b[1m\x1b[0m")
		}
		fmt.Fprintf(&b, "\r\x1b[2K%s\n", clip(l, width))
	}
	s.lines = len(lines)
	fmt.Fprint(s.w, b.String())
}
