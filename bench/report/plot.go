package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Plot is a picture of some results. With Categories it has bars: Y of a series holds a value
// for each. Without, it has lines over X.
type Plot struct {
	Title      string   `json:"title"`
	XLabel     string   `json:"x_label,omitempty"`
	YLabel     string   `json:"y_label"`
	LogX       bool     `json:"log_x,omitempty"` // X is above 0
	Categories []string `json:"categories,omitempty"`
	Series     []Series `json:"series"`
}

// Series is one line, or the bars of one colour. X and Y have equal lengths; X is empty in a
// plot with categories. Values are finite.
type Series struct {
	Name string    `json:"name"`
	X    []float64 `json:"x,omitempty"`
	Y    []float64 `json:"y"`
}

const (
	plotWidth, plotHeight  = 720.0, 300.0
	leftRim, rightRim      = 70.0, 16.0
	topRim, bottomRim      = 12.0, 48.0
	barCategoryWidth       = 0.8 // of the room for one category
	pointRadius            = 3.0
	labelledPointsAtMost   = 8 // of the X axis of a line plot
	categoryTextAtMost     = 22
	plotArea, plotAreaHigh = plotWidth - leftRim - rightRim, plotHeight - topRim - bottomRim
)

// colours are distinguishable also to those who do not see red and green apart (Okabe, Ito 2008).
var colours = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"}

// svg draws the plot. It returns "" when there is nothing to draw.
func (p *Plot) svg() string {
	lowX, highX, highY := math.Inf(1), math.Inf(-1), 0.0
	lowY := 0.0
	points := 0
	for _, s := range p.Series {
		for i, y := range s.Y {
			highY, lowY = max(highY, y), min(lowY, y)
			points++
			if len(p.Categories) == 0 {
				lowX, highX = min(lowX, p.at(s.X[i])), max(highX, p.at(s.X[i]))
			}
		}
	}
	if points == 0 {
		return ""
	}
	if len(p.Categories) == 0 {
		lowY = p.floor(highY)
	}
	step := niceStep((highY - lowY) / 5)
	highY = math.Ceil(highY/step) * step
	lowY = math.Floor(lowY/step) * step
	if highY == lowY {
		highY = lowY + step
	}
	if highX <= lowX {
		lowX, highX = lowX-1, highX+1
	}
	y := func(v float64) float64 { return topRim + plotAreaHigh*(1-(v-lowY)/(highY-lowY)) }
	x := func(v float64) float64 { return leftRim + plotArea*(p.at(v)-lowX)/(highX-lowX) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, html.EscapeString(p.Title))
	for i := 0; lowY+float64(i)*step <= highY+step/2; i++ {
		v := lowY + float64(i)*step
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, leftRim, plotWidth-rightRim, y(v), y(v))
		fmt.Fprintf(&b, `<text x="%g" y="%.1f" text-anchor="end">%s</text>`, leftRim-6, y(v)+4, short(v))
	}
	fmt.Fprintf(&b, `<text transform="translate(14 %.1f) rotate(-90)" text-anchor="middle">%s</text>`, topRim+plotAreaHigh/2, html.EscapeString(p.YLabel))
	fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, leftRim+plotArea/2, plotHeight-6, html.EscapeString(p.XLabel))
	if len(p.Categories) > 0 {
		p.bars(&b, y, lowY)
	} else {
		p.lines(&b, x, y)
	}
	b.WriteString("</svg>")
	return b.String()
}

// at places a value of X on its axis.
func (p *Plot) at(v float64) float64 {
	if p.LogX {
		return math.Log(v)
	}
	return v
}

// floor returns where the Y axis of lines begins: at 0, unless all values lie so close to each
// other that nothing could be seen then.
func (p *Plot) floor(high float64) float64 {
	low := high
	for _, s := range p.Series {
		for _, v := range s.Y {
			low = min(low, v)
		}
	}
	if low > 0.7*high && high > low {
		return low - (high-low)*0.1
	}
	return min(0, low)
}

func (p *Plot) bars(b *strings.Builder, y func(float64) float64, low float64) {
	room := plotArea / float64(len(p.Categories))
	width := room * barCategoryWidth / float64(max(1, len(p.Series)))
	for c, name := range p.Categories {
		left := leftRim + room*float64(c) + room*(1-barCategoryWidth)/2
		for i, s := range p.Series {
			if c >= len(s.Y) {
				continue
			}
			top, bottom := y(max(s.Y[c], max(0, low))), y(min(s.Y[c], max(0, low)))
			fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s %s: %s</title></rect>`,
				left+width*float64(i), top, max(1, width-1), max(0, bottom-top), colours[i%len(colours)],
				html.EscapeString(s.Name), html.EscapeString(name), short(s.Y[c]))
		}
		if r := []rune(name); len(r) > categoryTextAtMost {
			name = string(r[:categoryTextAtMost-1]) + "…"
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, leftRim+room*(float64(c)+0.5), plotHeight-bottomRim+16, html.EscapeString(name))
	}
}

func (p *Plot) lines(b *strings.Builder, x, y func(float64) float64) {
	var marks []float64
	for i, s := range p.Series {
		colour := colours[i%len(colours)]
		var path strings.Builder
		for j := range s.Y {
			fmt.Fprintf(&path, "%.1f,%.1f ", x(s.X[j]), y(s.Y[j]))
			if !slices.Contains(marks, s.X[j]) {
				marks = append(marks, s.X[j])
			}
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.TrimSpace(path.String()), colour)
		if len(s.Y) > 100 {
			continue
		}
		for j := range s.Y {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s"><title>%s %s: %s</title></circle>`,
				x(s.X[j]), y(s.Y[j]), pointRadius, colour, html.EscapeString(s.Name), short(s.X[j]), short(s.Y[j]))
		}
	}
	slices.Sort(marks)
	every := (len(marks) + labelledPointsAtMost - 1) / labelledPointsAtMost
	for i := 0; i < len(marks); i += every {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x(marks[i]), plotHeight-bottomRim+16, short(marks[i]))
	}
}

// niceStep returns the least of 1, 2 and 5 times a power of ten that is at least v.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// short writes a number with about four digits and a unit prefix.
func short(v float64) string {
	for _, u := range []struct {
		over float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if math.Abs(v) >= u.over {
			div := u.over
			if u.name == "k" {
				div = 1e3
			}
			return strconv.FormatFloat(v/div, 'g', 4, 64) + u.name
		}
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
