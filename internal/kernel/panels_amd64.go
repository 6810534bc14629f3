//go:build !noasm

package kernel

import "golang.org/x/sys/cpu"

func hasPairs() bool { return cpu.X86.HasAVX512BF16 && cpu.X86.HasAVX512BW }

// maxDepth bounds the rows of B, and columns of A, that a pass goes over: a tile of A stays in
// the first-level cache.
const maxDepth = 512

// depthOf cuts k into equal parts of at most maxDepth.
func depthOf(k int) int {
	parts := max(1, (k+maxDepth-1)/maxDepth)
	return (k + parts - 1) / parts
}

func (p *Panels) putPanels(at int, rows []float32, count int) {
	w := p.level.width()
	unit, units := at, count
	switch {
	case p.paired:
		unit, units = at/2, count/2
	case p.precision == BFloat16:
		p.swapPanels(at, rows, count)
		return
	}
	for j := 0; j < p.n; j += w {
		panel := p.v[j*p.units+unit*w : (j+w)*p.units]
		width := min(p.n-j, w)
		if p.paired {
			pairPanel(panel, rows[j:], units, count, p.n, width)
			continue
		}
		packRowsInto(p.level, panel, rows[j:], units, p.n, width)
	}
}

// swapPanels is putPanels for bfloat16 without its instructions.
func (p *Panels) swapPanels(at int, rows []float32, count int) {
	w := p.level.width()
	for j := 0; j < p.n; j += w {
		panel := p.v[j*p.units+at*w : (j+w)*p.units]
		width := min(p.n-j, w)
		for l := range (count + 1) &^ 1 {
			d := panel[(l^1)*w:][:w]
			clear(d)
			if l < count {
				for i, v := range rows[l*p.n+j:][:width] {
					d[i] = toBFloat16(v)
				}
			}
		}
	}
}

// packRowsInto copies count rows of width values, rs apart, to rows of a panel, zeros beyond.
func packRowsInto(level Level, panel, src []float32, count, rs, width int) {
	w := level.width()
	if level == AVX512 {
		pack512(&panel[0], &src[0], count, 4*w, 4*rs, 1<<min(width, 16)-1, 1<<max(width-16, 0)-1)
		if width <= 16 { // pack512 then leaves the second vector alone
			for r := range count {
				clear(panel[r*w+16 : (r+1)*w])
			}
		}
		return
	}
	if width == w && rs >= 8 && count > 0 {
		pack256(&panel[0], &src[0], count, 4*w, 4*rs)
		pack256(&panel[8], &src[8], count, 4*w, 4*rs)
		return
	}
	for r := range count {
		clear(panel[r*w+copy(panel[r*w:(r+1)*w], src[r*rs:][:width]) : (r+1)*w])
	}
}

// pairPanel joins each two of count rows to pairs, a last single one with zeros.
func pairPanel(panel, src []float32, pairs, count, rs, width int) {
	const w = 32
	m0, m1 := uint32(1<<min(width, 16)-1), uint32(1<<max(width-16, 0)-1)
	if pairs > 0 {
		pairRows512(&panel[0], &src[0], pairs, 4*w, 4*rs, m0, m1)
	}
	if count&1 != 0 {
		var two [2 * w]float32
		copy(two[:], src[2*pairs*rs:][:width])
		pairRows512(&panel[pairs*w], &two[0], 1, 4*w, 4*w, m0, m1)
	}
	if width <= 16 {
		for r := range pairs + count&1 {
			clear(panel[r*w+16 : (r+1)*w])
		}
	}
}

func (p *Panels) turnPanels(b []float32) {
	w := p.level.width()
	for j := 0; j < p.n; j += w {
		panel := p.v[j*p.units : (j+w)*p.units]
		width := min(p.n-j, w)
		src, rs := b[j*p.k:], p.k
		if p.precision == BFloat16 {
			p.row = grow(p.row, w*p.units)
			for i := range width {
				from, to := src[i*p.k:(i+1)*p.k], p.row[i*p.units:(i+1)*p.units]
				if p.paired {
					halve512(&to[0], &from[0], p.k)
				} else {
					swapPairs(to, from)
				}
			}
			src, rs = p.row, p.units
		}
		packTransposed(panel, src, rs, w, width, p.units)
	}
}

// passes runs the micro-kernels of one row of tiles over panels, rows l… of them.
func (t tiling) passes(c, a []float32, b *Panels, l int, s tile) {
	s.ldb, s.step = t.width, b.units
	t.half, t.flush = b.paired, t.level == AVX512 && b.precision == BFloat16 && !b.paired
	t.pass(c, a, b.v[l*t.width:], s)
}

func (g *Gemm) multiplyPanels(c, a []float32, b *Panels, m int, bias []float32, relu bool, y []float32) {
	t := g.level.tiling()
	n, k, step := b.n, b.units, depthOf(b.units)
	count := (m + t.rows - 1) / t.rows
	for tileAt, i := 0, 0; tileAt < count; tileAt++ {
		rows := (m - i) / (count - tileAt)
		ct := c[i*n : (i+rows)*n]
		for r := 0; r < len(ct); r += n {
			g.level.start(ct[r:r+n], bias)
		}
		at, ras := a[i*b.k:], b.k
		if b.precision == BFloat16 {
			g.a = grow(g.a, rows*k)
			for r := range rows {
				from, to := at[r*b.k:(r+1)*b.k], g.a[r*k:(r+1)*k]
				switch {
				case b.k == 0:
				case b.paired:
					halve512(&to[0], &from[0], b.k)
				default:
					swapPairs(to, from)
				}
			}
			at, ras = g.a, k
		}
		for l := 0; l < k; l += step {
			t.passes(ct, at[l:], b, l, tile{rows: rows, n: n, k: min(k-l, step), ldc: n, ras: ras, cas: 1})
		}
		var part []float32
		if y != nil {
			part = y[i*n : (i+rows)*n]
		}
		g.level.finish(ct, relu, part)
		i += rows
	}
}

func (g *Gemm) transposedPanels(c, a []float32, b *Panels, m, from, to int) {
	t := g.level.tiling()
	n, k, step := b.n, b.units, depthOf(b.units)
	count := (to - from + t.rows - 1) / t.rows
	for tileAt, i := 0, from; tileAt < count; tileAt++ {
		rows := (to - i) / (count - tileAt)
		for l := 0; l < k; l += step {
			kb := min(k-l, step)
			g.tileT(a, b, m, i, rows, l, kb)
			t.passes(c[i*n:], g.a, b, l, tile{rows: rows, n: n, k: kb, ldc: n, ras: 1, cas: tileStride})
		}
		i += rows
	}
}

// tileT copies columns i… of units l… of A [k × m] to g.a, tileStride apart.
func (g *Gemm) tileT(a []float32, b *Panels, m, i, rows, l, kb int) {
	switch {
	case b.paired:
		g.a = grow(g.a, kb*tileStride)
		count := min(2*kb, b.k-2*l)
		pairs := count / 2
		if pairs > 0 {
			pairRows512(&g.a[0], &a[2*l*m+i], pairs, 4*tileStride, 4*m, 1<<rows-1, 0)
		}
		if count&1 != 0 {
			var two [2 * tileStride]float32
			copy(two[:], a[(2*(l+pairs))*m+i:][:rows])
			pairRows512(&g.a[pairs*tileStride], &two[0], 1, 4*tileStride, 4*tileStride, 1<<rows-1, 0)
		}
	case b.precision == BFloat16:
		g.a = grow(g.a, kb*tileStride)
		for u := range kb {
			d := g.a[u*tileStride:][:rows]
			if at := (l + u) ^ 1; at < b.k {
				for r, v := range a[at*m+i:][:rows] {
					d[r] = toBFloat16(v)
				}
			} else {
				clear(d)
			}
		}
	default:
		g.packA(a[l*m+i:], m, rows, kb)
	}
}
