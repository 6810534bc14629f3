package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// terminal returns the file behind w and its width when it is a terminal, else nil.
func terminal(w io.Writer) (*os.File, int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	return f, width
}

// bar is one line that is written again and again on a terminal, and nothing elsewhere.
type bar struct {
	w     io.Writer
	width int
	last  time.Time
	shown bool
}

func newBar(w io.Writer) *bar {
	if f, width := terminal(w); f != nil {
		return &bar{w: f, width: width}
	}
	return &bar{}
}

// show replaces the line, at most ten times a second. part is how much is done, in [0, 1], or
// negative when that is unknown.
func (b *bar) show(part float64, text string) {
	if b.w == nil || time.Since(b.last) < 100*time.Millisecond {
		return
	}
	b.last, b.shown = time.Now(), true
	if part >= 0 {
		const cells = 24
		full := int(min(part, 1) * cells)
		text = strings.Repeat("█", full) + strings.Repeat("░", cells-full) + fmt.Sprintf(" %3.0f%%  ", 100*min(part, 1)) + text
	}
	fmt.Fprint(b.w, "\r\x1b[2K", clip(text, b.width-1))
}

// done removes the line.
func (b *bar) done() {
	if b.shown {
		fmt.Fprint(b.w, "\r\x1b[2K")
		b.shown = false
	}
}

// clip cuts s to n characters.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:max(0, n-1)]) + "…"
	}
	return s
}

// table writes rows in aligned columns.
func table(w io.Writer, header string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, heading(header))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush()
}

// count writes n with thousands set apart.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		return "-" + s
	}
	return s
}

// number writes x with four digits after the point, or a dash when it is none.
func number(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "–"
	}
	return strconv.FormatFloat(x, 'f', 4, 64)
}

// size writes a number of bytes.
func size(n int64) string {
	const units = "KMGTPE"
	x, u := float64(n), -1
	for x >= 1024 && u < len(units)-1 {
		x, u = x/1024, u+1
	}
	if u < 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", x, units[u])
}

// heading makes columns of a table's words; spaces before the first one indent it.
func heading(s string) string {
	words := strings.TrimLeft(s, " ")
	return s[:len(s)-len(words)] + strings.ReplaceAll(words, " ", "\t")
}
