//go:build !noasm

package kernel

import "math"

// How a product is cut up. None of it changes a bit: whatever the tile, an element's sum runs
// over the same l in the same order.
const (
	// A block of B, at most depth rows of at most breadth columns, is packed into panels one
	// tile wide and stays in the second-level cache while all rows of A pass over it.
	depth   = 384
	breadth = 512
	// Below this many rows of A, packing B costs more than it saves.
	packRows = 24
	// A copied tile of Aᵀ has rows of one 512-bit vector.
	tileStride = 16
)

// tiling is the shape of a level's micro-kernels: at most rows × width, vectors of lanes.
type tiling struct {
	level              Level
	rows, width, lanes int
	// Up to tallest rows may instead be wide columns wide.
	tallest, wide int

	half  bool // A and B hold pairs of bfloat16
	flush bool // AVX512: denormal values are taken as zeros
}

func (l Level) tiling() tiling {
	if l == AVX512 {
		return tiling{level: l, rows: 12, width: 32, lanes: 16, tallest: 3, wide: 128}
	}
	return tiling{level: l, rows: 6, width: 16, lanes: 8, tallest: 2, wide: 32}
}

// multiply adds A·B to C, with A [m × k], B [k × n], C [m × n] contiguous; none is empty.
func (g *Gemm) multiply(c []float32, a, b matrix, m, n, k int) {
	t := g.level.tiling()
	if b.cs == 1 && m < packRows {
		t.rowTiles(m, func(i, rows int) {
			t.pass(c[i*n:], a.v[i*a.rs:], b.v, tile{rows: rows, n: n, k: k, ldc: n, ras: a.rs, cas: a.cs, ldb: b.rs, step: 1})
		})
		return
	}
	for j := 0; j < n; j += breadth {
		nb := min(n-j, breadth)
		for l := 0; l < k; l += depth {
			kb := min(k-l, depth)
			g.packB(b, l, j, kb, nb)
			t.rowTiles(m, func(i, rows int) {
				s := tile{rows: rows, n: nb, k: kb, ldc: n, ras: a.rs, cas: a.cs, ldb: t.width, step: kb}
				from := a.v[i*a.rs+l*a.cs:]
				if a.rs == 1 && nb > t.width && kb > 1 {
					// The rows of a tile of Aᵀ lie far apart; copied, they share cache lines.
					g.packA(from, a.cs, rows, kb)
					from, s.cas = g.a, tileStride
				}
				t.pass(c[i*n+j:], from, g.b, s)
			})
		}
	}
}

// turnedRow adds a·Bᵀ to the one row c, with B [n × k]: at AVX512 by turning blocks of B in
// registers, where packing all of it would cost more than the product.
func (g *Gemm) turnedRow(c, a, b []float32, n, k int) {
	whole := 0
	if g.level == AVX512 {
		const side = 16
		whole = n &^ (side - 1)
		blocks, rest := k/side, k%side
		for j := 0; j < whole; j += side {
			if blocks > 0 {
				turnedDot512(&c[j], &a[0], &b[j*k], blocks, 4*k)
			}
			if rest == 0 {
				continue
			}
			// Beyond k, products of 0 and -0 change no sum.
			g.a = grow(g.a, side*side+side)
			block, last := g.a[:side*side], g.a[side*side:]
			clear(last[copy(last, a[k-rest:k]):])
			for i := range side {
				row := block[i*side : (i+1)*side]
				for l := copy(row, b[(j+i)*k+k-rest:(j+i+1)*k]); l < side; l++ {
					row[l] = negativeZero
				}
			}
			turnedDot512(&c[j], &last[0], &block[0], 1, 4*side)
		}
	}
	if whole < n {
		g.multiply(c[whole:], matrix{a, k, 1}, matrix{b[whole*k:], 1, k}, 1, n-whole, k)
	}
}

var negativeZero = math.Float32frombits(1 << 31)

// rowTiles cuts m rows into as few tiles as possible, of sizes as equal as possible.
func (t tiling) rowTiles(m int, do func(i, rows int)) {
	count := (m + t.rows - 1) / t.rows
	base, extra := m/count, m%count
	for i, at := 0, 0; i < count; i++ {
		rows := base
		if i < extra {
			rows++
		}
		do(at, rows)
		at += rows
	}
}

// tile says how a row of tiles lies in memory. Lengths and strides count values; B's column
// j begins at step·j where j is a multiple of the tile's width.
type tile struct {
	rows, n, k         int
	ldc, ras, cas, ldb int
	step               int
}

// pass runs the micro-kernels of one row of tiles.
func (t tiling) pass(c, a, b []float32, s tile) {
	for j := 0; j < s.n; {
		width := t.width
		if s.rows <= t.tallest && s.step == 1 && s.n-j >= t.wide {
			width = t.wide
		}
		width = min(width, s.n-j)
		vectors := (width + t.lanes - 1) / t.lanes
		last := width - (vectors-1)*t.lanes
		if t.level == AVX512 {
			mask := uint32(1)<<last - 1
			if t.flush {
				mask |= 1 << 16
			}
			if t.half {
				kernel512h(s.rows, vectors, &c[j], &a[0], &b[s.step*j], s.k, 4*s.ldc, 4*s.ras, 4*s.cas, 4*s.ldb, mask)
			} else {
				kernel512(s.rows, vectors, &c[j], &a[0], &b[s.step*j], s.k, 4*s.ldc, 4*s.ras, 4*s.cas, 4*s.ldb, mask)
			}
		} else {
			var mask *int32
			if last < t.lanes {
				mask = &masks256[8-last]
			}
			kernel256(s.rows, vectors, &c[j], &a[0], &b[s.step*j], s.k, 4*s.ldc, 4*s.ras, 4*s.cas, 4*s.ldb, mask)
		}
		j += width
	}
}

// masks256[8-n:] selects the first n of 8 lanes.
var masks256 = [16]int32{-1, -1, -1, -1, -1, -1, -1, -1}

// packB copies rows l… and columns j… of B into panels of a tile's width, zeros beyond.
func (g *Gemm) packB(b matrix, l, j, kb, nb int) {
	t := g.level.tiling()
	g.b = grow(g.b, (nb+t.width-1)/t.width*t.width*kb)
	for p := 0; p < nb; p += t.width {
		panel := g.b[p*kb : (p+t.width)*kb]
		width := min(nb-p, t.width)
		src := b.v[l*b.rs+(j+p)*b.cs:]
		switch {
		case b.cs != 1:
			packTransposed(panel, src, b.cs, t.width, width, kb)
		case t.level == AVX512:
			pack512(&panel[0], &src[0], kb, 4*t.width, 4*b.rs, 1<<min(width, 16)-1, 1<<max(width-16, 0)-1)
			if width <= 16 { // pack512 then leaves the second vector alone
				for r := range kb {
					clear(panel[r*t.width+16 : (r+1)*t.width])
				}
			}
		default:
			for r := range kb {
				clear(panel[r*t.width+copy(panel[r*t.width:(r+1)*t.width], src[r*b.rs:][:width]) : (r+1)*t.width])
			}
		}
	}
}

// packTransposed writes panel[l·stride + i] = src[i·rs + l] for i below width, zeros beyond.
func packTransposed(panel, src []float32, rs, stride, width, kb int) {
	blocks := kb / 8
	i := 0
	for ; i+8 <= width && blocks > 0; i += 8 {
		transpose8(&panel[i], &src[i*rs], blocks, 4*stride, 4*rs)
	}
	done := i // columns whose first 8·blocks rows are there
	for i := range width {
		from := 0
		if i < done {
			from = 8 * blocks
		}
		for l := from; l < kb; l++ {
			panel[l*stride+i] = src[i*rs+l]
		}
	}
	for l := range kb {
		clear(panel[l*stride+width : (l+1)*stride])
	}
}

// packA copies rows values of each of kb rows of Aᵀ to g.a, tileStride apart.
func (g *Gemm) packA(src []float32, rs, rows, kb int) {
	g.a = grow(g.a, kb*tileStride)
	if g.level == AVX512 {
		pack512(&g.a[0], &src[0], kb, 4*tileStride, 4*rs, 1<<rows-1, 0)
		return
	}
	// The last row may be followed by fewer than 8 values.
	if kb > 1 && rs >= 8 {
		pack256(&g.a[0], &src[0], kb-1, 4*tileStride, 4*rs)
		copy(g.a[(kb-1)*tileStride:], src[(kb-1)*rs:][:rows])
		return
	}
	for l := range kb {
		copy(g.a[l*tileStride:], src[l*rs:][:rows])
	}
}
