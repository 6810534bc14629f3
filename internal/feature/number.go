package feature

import (
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/bitutil"

	"github.com/tidemill/tidemill"
)

// number is the numeric pipeline: impute → clip → log1p → standardize.
type number struct {
	col     int
	imputes bool
	impute  float64 // 0 unless imputes
	clips   bool
	lo, hi  float64
	log1p   bool
	logs    []float64 // math.Log1p of the first whole numbers; where log1p
	moments int       // index of the running moments, or -1
}

func newNumber(f *tidemill.FeatureSpec, col int) number {
	n := number{col: col, log1p: f.Log1p, moments: -1}
	if f.Impute != nil {
		n.imputes, n.impute = true, *f.Impute
	}
	if len(f.Clip) == 2 {
		n.clips, n.lo, n.hi = true, f.Clip[0], f.Clip[1]
	}
	return n
}

// logTable returns math.Log1p of 0 to 4095: 32 KiB, which stay in a processor's nearest cache.
func logTable() []float64 {
	t := make([]float64, 4096)
	for i := range t {
		t[i] = math.Log1p(float64(i))
	}
	return t
}

// bounded reports whether the pipeline makes every finite value small enough for a float32.
func (n *number) bounded() bool { return n.clips || n.log1p }

// load writes the column's values up to and including log1p to x.
func (n *number) load(x []float64, w *Workspace, arr arrow.Array) error {
	if err := loadNumbers(x, arr, &w.millis); err != nil {
		return err
	}
	fillNulls(x, arr, n.impute)
	if n.clips {
		for i, v := range x {
			if v < n.lo {
				x[i] = n.lo
			} else if v > n.hi {
				x[i] = n.hi
			}
		}
	}
	if n.log1p {
		n.logarithm(x)
	}
	return nil
}

// logarithm replaces each value by sign(x)·log(1+|x|).
func (n *number) logarithm(x []float64) {
	for i, v := range x {
		// Counts are small, most of the time; their logarithms are known.
		if v >= 1 && v < float64(len(n.logs)) {
			if k := int(v); float64(k) == v {
				x[i] = n.logs[k]
				continue
			}
		}
		x[i] = math.Copysign(math.Log1p(math.Abs(v)), v)
	}
}

// standardize finishes the pipeline: x becomes (x-mean)/deviation, and 0 for a null that
// nothing was imputed for.
func (n *number) standardize(x []float64, arr arrow.Array, st *State) {
	if n.moments < 0 {
		return
	}
	mean, inv := st.moments[n.moments].scale()
	for i, v := range x {
		x[i] = (v - mean) * inv
	}
	if !n.imputes {
		fillNulls(x, arr, 0)
	}
}

// store writes x to every width-th element of dst from j on, saturating at float32's range.
func store(dst []float32, x []float64, j, width int) {
	for _, v := range x {
		if v > math.MaxFloat32 {
			v = math.MaxFloat32
		} else if v < -math.MaxFloat32 {
			v = -math.MaxFloat32
		}
		dst[j] = float32(v)
		j += width
	}
}

// moments are a count, a mean and a sum of squared deviations from it (Chan, Golub and
// LeVeque, "Algorithms for computing the sample variance", 1983).
type moments struct {
	n    int64
	mean float64
	m2   float64
}

// scale returns the mean and the inverse of the standard deviation; 0 when that is zero or
// no row was seen.
func (m *moments) scale() (mean, inv float64) {
	if m.n == 0 || m.m2 <= 0 {
		return m.mean, 0
	}
	return m.mean, 1 / math.Sqrt(m.m2/float64(m.n))
}

// merge adds the rows of b. Both sides constant and equal stay exactly constant.
func (m *moments) merge(b moments) {
	if b.n == 0 {
		return
	}
	if m.n == 0 {
		*m = b
		return
	}
	na, nb := float64(m.n), float64(b.n)
	d := b.mean - m.mean
	n := na + nb
	m.mean += d * (nb / n)
	m.m2 += b.m2 + d*d*(na*nb/n)
	m.n += b.n
}

// momentsOf returns the moments of the rows of x that are valid in the bitmap (nil: all).
// Sums are taken relative to the first value, so a constant column has m2 exactly 0.
func momentsOf(x []float64, bitmap []byte, off int) moments {
	var m moments
	var first, sum float64
	for i, v := range x {
		if bitmap != nil && bitutil.BitIsNotSet(bitmap, off+i) {
			continue
		}
		if m.n == 0 {
			first = v
		}
		m.n++
		sum += v - first
	}
	if m.n == 0 {
		return m
	}
	m.mean = first + sum/float64(m.n)
	for i, v := range x {
		if bitmap != nil && bitutil.BitIsNotSet(bitmap, off+i) {
			continue
		}
		d := v - m.mean
		m.m2 += d * d
	}
	return m
}
