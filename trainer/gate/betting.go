package gate

import "math"

const (
	// betCap bounds λ·clip, and so what one row can cost: 1+λd ≥ 1−betCap.
	betCap = 0.8
	// blockPrior is how many blocks of independent rows an estimate of autocorrelation starts
	// from; warmRows is after how many rows half of a bet is dared, so that the first rows,
	// whose autocorrelation is not known yet, decide nothing.
	blockPrior = 6
	warmRows   = 64
	// maxLogWealth keeps Wealth finite, as JSON and people need it.
	maxLogWealth = 700
)

// Test is an always-valid test of one pair of models on paired losses. It takes constant
// memory and constant time per row. The zero value is not usable; it belongs to one goroutine.
type Test struct {
	clip, margin float64
	threshold    float64 // log(1/alpha)

	n         int64
	sum       float64 // of d
	mean, m2  float64 // Welford over d
	logW      float64 // of the claim E d > 0
	logH      float64 // of the claim E d < 0
	crossed   bool
	harmful   bool
	nonFinite int64

	spans [len(spanRows)]span
}

// spanRows are the lengths of the blocks whose means show autocorrelation: short ones soon,
// long ones better.
var spanRows = [...]int64{4, 16, 64, 256}

// span watches the means of consecutive blocks of one length. They vary like variance/length
// when rows are independent, and more when they are not.
type span struct {
	sum      float64
	n        int64
	mean, m2 float64 // Welford over block means
}

// NewTest returns a test with error probability alpha in (0, 1), differences clipped at ±clip
// (> 0) and relative margin ≥ 0. Values outside are taken as the nearest sensible ones: the
// spec was checked where it was read.
func NewTest(alpha, clip, margin float64) *Test {
	if !(alpha > 0 && alpha < 1) {
		alpha = 0.01
	}
	if !(clip > 0) {
		clip = 0.5
	}
	if !(margin >= 0) {
		margin = 0
	}
	return &Test{clip: clip, margin: margin, threshold: -math.Log(alpha)}
}

// Add takes one row's losses. Where one is not finite the row counts fully against that side;
// where neither is, against the candidate.
func (t *Test) Add(champion, candidate float32) {
	x := t.difference(champion, candidate)
	up, down := t.bets()
	t.logW = min(t.logW+math.Log1p(up*x), maxLogWealth)
	t.logH = min(t.logH+math.Log1p(-down*x), maxLogWealth)
	t.crossed = t.crossed || t.logW >= t.threshold
	t.harmful = t.harmful || t.logH >= t.threshold

	t.n++
	t.sum += x
	delta := x - t.mean
	t.mean += delta / float64(t.n)
	t.m2 += delta * (x - t.mean)
	for i, rows := range spanRows {
		s := &t.spans[i]
		s.sum += x
		if t.n%rows == 0 {
			m := s.sum / float64(rows)
			s.n++
			d := m - s.mean
			s.mean += d / float64(s.n)
			s.m2 += d * (m - s.mean)
			s.sum = 0
		}
	}
}

func (t *Test) difference(champion, candidate float32) float64 {
	lc, ln := float64(champion), float64(candidate)
	switch {
	case !finite(ln):
		t.nonFinite++
		return -t.clip
	case !finite(lc):
		return t.clip
	}
	return max(-t.clip, min(t.clip, (1+t.margin)*lc-ln))
}

// bets returns the λ of both claims from the rows before this one: aGRAPA's mean/(variance +
// mean²), kept below betCap/clip, with both moments shrunk by one imaginary row of mean 0.
//
// If block means vary τ times as much as independent rows would make them, the sum wanders √τ
// too far and so would the wealth; u = 1−√(1−1/τ) is the fraction of the bet that gives the
// wealth the distribution it would have had with τ = 1.
func (t *Test) bets() (up, down float64) {
	n := float64(t.n)
	mean := t.sum / (n + 1)
	variance := (t.clip*t.clip/4 + t.m2) / (n + 1)
	lambda := mean / (variance + mean*mean)
	if tau := t.inflation(); tau > 1 {
		lambda *= 1 - math.Sqrt(1-1/tau)
	}
	lambda *= n / (n + warmRows)
	limit := betCap / t.clip
	return max(0, min(limit, lambda)), max(0, min(limit, -lambda))
}

// inflation is τ, the largest over the spans.
func (t *Test) inflation() float64 {
	if t.m2 <= 0 {
		return 1
	}
	tau := 1.0
	for i, rows := range spanRows {
		s := &t.spans[i]
		if s.n < 2 {
			break
		}
		k := float64(s.n)
		ratio := float64(rows) * (s.m2 / (k - 1)) / (t.m2 / float64(t.n-1))
		tau = max(tau, (blockPrior+k*ratio)/(blockPrior+k))
	}
	return tau
}

// Wealth is the e-value of the claim that the candidate is not worse by more than the margin.
func (t *Test) Wealth() float64 { return math.Exp(t.logW) }

// Harm is the e-value of the opposite claim: worse by more than the margin.
func (t *Test) Harm() float64 { return math.Exp(t.logH) }

// Crossed reports whether Wealth has ever reached 1/alpha.
func (t *Test) Crossed() bool { return t.crossed }

// Harmful reports whether Harm has ever reached 1/alpha.
func (t *Test) Harmful() bool { return t.harmful }

// N is the number of rows added.
func (t *Test) N() int64 { return t.n }

// NonFinite is the number of rows on which the candidate's loss was not finite.
func (t *Test) NonFinite() int64 { return t.nonFinite }

// MeanDifference is the mean of d; 0 without rows.
func (t *Test) MeanDifference() float64 {
	if t.n == 0 {
		return 0
	}
	return t.sum / float64(t.n)
}

// Margin is the relative margin of the test.
func (t *Test) Margin() float64 { return t.margin }

// Clip is the bound on d.
func (t *Test) Clip() float64 { return t.clip }

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
