package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A micro-kernel adds to an mr × n tile of C, n being nv vectors wide, the product of mr rows
// of A and k rows of B. It reads the tile, adds a[i,l]·b[l,j] by a fused multiply-add for l
// ascending, and writes it back, so each element has the same bits in whatever tile it lies.
// Strides are in bytes: A has element (i,l) at i·ras + l·cas. The last vector of each row of B
// and C is masked.

// rows addresses mr rows at a common stride with a pointer for each three of them.
type rows struct {
	at     []Register
	stride Register
}

func newRows(p, stride Register, n int) rows {
	r := rows{stride: stride, at: []Register{p}}
	for i := 3; i < n; i += 3 {
		next := GP64()
		LEAQ(Mem{Base: r.at[len(r.at)-1], Index: stride, Scale: 2}, next)
		ADDQ(stride, next)
		r.at = append(r.at, next)
	}
	return r
}

func (r rows) row(i int) Mem {
	m := Mem{Base: r.at[i/3]}
	if i%3 > 0 {
		m.Index, m.Scale = r.stride, uint8(i%3)
	}
	return m
}

func (r rows) advance(by Register) {
	for _, p := range r.at {
		ADDQ(by, p)
	}
}

// With half, the values of A and B are pairs of bfloat16 (bfloat.go), and k counts pairs.
func gemm512(mr, nv int, half bool) {
	name, of := fmt.Sprintf("gemm512x%dx%d", mr, nv), ""
	madd := func(x, y, acc VecVirtual) { VFMADD231PS(x, y, acc) }
	if half {
		name, of, madd = name+"h", " of pairs of bfloat16", dotPairs
	}
	TEXT(name, NOSPLIT, "func(c, a, b *float32, k, ldc, ras, cas, ldb int, mask uint32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s adds the product of %d rows of A and B's next %d columns%s to C.", name, mr, 16*nv, of))
	c := Load(Param("c"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	k := Load(Param("k"), GP64())
	ldc := Load(Param("ldc"), GP64())
	ras := Load(Param("ras"), GP64())
	cas := Load(Param("cas"), GP64())
	ldb := Load(Param("ldb"), GP64())
	bits := Load(Param("mask"), GP32())
	mask := K()
	KMOVW(bits, mask)
	restore := func() {}
	if !half {
		restore = flushing(bits, name)
	}

	acc := make([]VecVirtual, mr*nv)
	at := GP64()
	MOVQ(c, at)
	for i := range mr {
		for v := range nv {
			z := ZMM()
			acc[i*nv+v] = z
			if v == nv-1 {
				VMOVUPS_Z(Mem{Base: at, Disp: 64 * v}, mask, z)
			} else {
				VMOVUPS(Mem{Base: at, Disp: 64 * v}, z)
			}
		}
		if i < mr-1 {
			ADDQ(ldc, at)
		}
	}
	ar := newRows(a, ras, mr)
	loop := "loop" + name
	Label(loop)
	load := func(v int) VecVirtual {
		col := ZMM()
		if v == nv-1 {
			VMOVUPS_Z(Mem{Base: b, Disp: 64 * v}, mask, col)
		} else {
			VMOVUPS(Mem{Base: b, Disp: 64 * v}, col)
		}
		return col
	}
	broadcast := func(i int) VecVirtual {
		t := ZMM()
		VBROADCASTSS(ar.row(i), t)
		return t
	}
	if mr <= nv { // the smaller side stays in registers
		t := make([]VecVirtual, mr)
		for i := range t {
			t[i] = broadcast(i)
		}
		for v := range nv {
			col := load(v)
			for i := range t {
				madd(col, t[i], acc[i*nv+v])
			}
		}
	} else {
		col := make([]VecVirtual, nv)
		for v := range col {
			col[v] = load(v)
		}
		for i := range mr {
			t := broadcast(i)
			for v := range col {
				madd(col[v], t, acc[i*nv+v])
			}
		}
	}
	ADDQ(ldb, b)
	ar.advance(cas)
	DECQ(k)
	JNZ(LabelRef(loop))
	for i := range mr {
		for v := range nv {
			if v == nv-1 {
				VMOVUPS(acc[i*nv+v], mask, Mem{Base: c, Disp: 64 * v})
			} else {
				VMOVUPS(acc[i*nv+v], Mem{Base: c, Disp: 64 * v})
			}
		}
		if i < mr-1 {
			ADDQ(ldc, c)
		}
	}
	restore()
	VZEROUPPER()
	RET()
}

// flushing makes the function take denormal operands and results as zeros, as bfloat16
// instructions do, where bit 16 is set. It returns what emits the undoing.
func flushing(bits Register, name string) (restore func()) {
	was, now := AllocLocal(8), AllocLocal(8)
	TESTL(U32(1<<16), bits)
	JZ(LabelRef("set" + name))
	word := GP32()
	VSTMXCSR(was)
	MOVL(was, word)
	ORL(U32(0x8040), word)
	MOVL(word, now)
	VLDMXCSR(now)
	Label("set" + name)
	return func() {
		end := GP32()
		Load(Param("mask"), end)
		TESTL(U32(1<<16), end)
		JZ(LabelRef("done" + name))
		VLDMXCSR(was)
		Label("done" + name)
	}
}

func gemm256(mr, nv int, masked bool) {
	suffix := ""
	if masked {
		suffix = "m"
	}
	name := fmt.Sprintf("gemm256x%dx%d%s", mr, nv, suffix)
	TEXT(name, NOSPLIT, "func(c, a, b *float32, k, ldc, ras, cas, ldb int, mask *int32)")
	Pragma("noescape")
	Doc(fmt.Sprintf("%s adds the product of %d rows of A and B's next %d columns to C.", name, mr, 8*nv))
	c := Load(Param("c"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	k := Load(Param("k"), GP64())
	ldc := Load(Param("ldc"), GP64())
	ras := Load(Param("ras"), GP64())
	cas := Load(Param("cas"), GP64())
	ldb := Load(Param("ldb"), GP64())
	maskAt := Load(Param("mask"), GP64())

	var mask VecVirtual
	read := func(from Mem, v int, to VecVirtual) {
		if masked && v == nv-1 {
			mask = YMM()
			VMOVDQU(Mem{Base: maskAt}, mask)
			VMASKMOVPS(from, mask, to)
		} else {
			VMOVUPS(from, to)
		}
	}
	acc := make([]VecVirtual, mr*nv)
	at := GP64()
	MOVQ(c, at)
	for i := range mr {
		for v := range nv {
			acc[i*nv+v] = YMM()
			read(Mem{Base: at, Disp: 32 * v}, v, acc[i*nv+v])
		}
		if i < mr-1 {
			ADDQ(ldc, at)
		}
	}
	ar := newRows(a, ras, mr)
	loop := "loop" + name
	Label(loop)
	col := make([]VecVirtual, nv)
	for v := range col {
		col[v] = YMM()
		read(Mem{Base: b, Disp: 32 * v}, v, col[v])
	}
	ADDQ(ldb, b)
	for i := range mr {
		t := YMM()
		VBROADCASTSS(ar.row(i), t)
		for v := range col {
			VFMADD231PS(col[v], t, acc[i*nv+v])
		}
	}
	ar.advance(cas)
	DECQ(k)
	JNZ(LabelRef(loop))
	for i := range mr {
		for v := range nv {
			to := Mem{Base: c, Disp: 32 * v}
			if masked && v == nv-1 {
				mask = YMM()
				VMOVDQU(Mem{Base: maskAt}, mask)
				VMASKMOVPS(acc[i*nv+v], mask, to)
			} else {
				VMOVUPS(acc[i*nv+v], to)
			}
		}
		if i < mr-1 {
			ADDQ(ldc, c)
		}
	}
	VZEROUPPER()
	RET()
}

// pack512 copies rows of up to 32 numbers to rows of a panel, zeros beyond.
func pack512() {
	TEXT("pack512", NOSPLIT, "func(dst, src *float32, rows, dstStride, srcStride int, mask0, mask1 uint32)")
	Pragma("noescape")
	Doc("pack512 copies rows of up to 32 values, as the masks say, and writes both masks' lanes.")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	n := Load(Param("rows"), GP64())
	ds := Load(Param("dstStride"), GP64())
	ss := Load(Param("srcStride"), GP64())
	k0, k1 := K(), K()
	m0 := Load(Param("mask0"), GP32())
	m1 := Load(Param("mask1"), GP32())
	KMOVW(m0, k0)
	KMOVW(m1, k1)
	TESTL(m1, m1)
	JZ(LabelRef("narrow"))
	Label("wide")
	x, y := ZMM(), ZMM()
	VMOVUPS_Z(Mem{Base: src}, k0, x)
	VMOVUPS_Z(Mem{Base: src, Disp: 64}, k1, y)
	VMOVUPS(x, Mem{Base: dst})
	VMOVUPS(y, Mem{Base: dst, Disp: 64})
	ADDQ(ss, src)
	ADDQ(ds, dst)
	DECQ(n)
	JNZ(LabelRef("wide"))
	VZEROUPPER()
	RET()
	Label("narrow")
	x = ZMM()
	VMOVUPS_Z(Mem{Base: src}, k0, x)
	VMOVUPS(x, Mem{Base: dst})
	ADDQ(ss, src)
	ADDQ(ds, dst)
	DECQ(n)
	JNZ(LabelRef("narrow"))
	VZEROUPPER()
	RET()
}

// pack256 copies rows of 8 values.
func pack256() {
	TEXT("pack256", NOSPLIT, "func(dst, src *float32, rows, dstStride, srcStride int)")
	Pragma("noescape")
	Doc("pack256 copies rows of 8 values; strides in bytes.")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	n := Load(Param("rows"), GP64())
	ds := Load(Param("dstStride"), GP64())
	ss := Load(Param("srcStride"), GP64())
	Label("row")
	x := YMM()
	VMOVUPS(Mem{Base: src}, x)
	VMOVUPS(x, Mem{Base: dst})
	ADDQ(ss, src)
	ADDQ(ds, dst)
	DECQ(n)
	JNZ(LabelRef("row"))
	VZEROUPPER()
	RET()
}

// transpose8 turns 8 rows of 8·blocks values into 8·blocks rows of 8.
func transpose8() {
	TEXT("transpose8", NOSPLIT, "func(dst, src *float32, blocks, dstStride, srcStride int)")
	Pragma("noescape")
	Doc("transpose8 writes dst[l][i] = src[i][l] for 8 rows i and 8·blocks columns l; strides in bytes.")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	n := Load(Param("blocks"), GP64())
	ds := Load(Param("dstStride"), GP64())
	ss := Load(Param("srcStride"), GP64())
	in := newRows(src, ss, 8)
	step := GP64()
	MOVQ(U32(32), step)
	Label("block")
	r := make([]VecVirtual, 8)
	for i := range r {
		r[i] = YMM()
		VMOVUPS(in.row(i), r[i])
	}
	t := make([]VecVirtual, 8)
	for i := 0; i < 8; i += 2 {
		t[i], t[i+1] = YMM(), YMM()
		VUNPCKLPS(r[i+1], r[i], t[i])
		VUNPCKHPS(r[i+1], r[i], t[i+1])
	}
	// t0 = 00 10 01 11 | …, t1 = 02 12 03 13 | …, t2, t3 the same of rows 2 and 3.
	u := make([]VecVirtual, 8)
	for i := 0; i < 8; i += 4 {
		for j := range 4 {
			u[i+j] = YMM()
		}
		VSHUFPS(U8(0x44), t[i+2], t[i], u[i])
		VSHUFPS(U8(0xee), t[i+2], t[i], u[i+1])
		VSHUFPS(U8(0x44), t[i+3], t[i+1], u[i+2])
		VSHUFPS(U8(0xee), t[i+3], t[i+1], u[i+3])
	}
	for j := range 4 {
		lo := YMM()
		VPERM2F128(U8(0x20), u[4+j], u[j], lo)
		VMOVUPS(lo, Mem{Base: dst})
		ADDQ(ds, dst)
	}
	for j := range 4 {
		hi := YMM()
		VPERM2F128(U8(0x31), u[4+j], u[j], hi)
		VMOVUPS(hi, Mem{Base: dst})
		ADDQ(ds, dst)
	}
	in.advance(step)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// turnedDot adds to 16 values of c the dot products of 16 rows of b with a, each summed with l
// ascending, as the micro-kernels do: blocks of 16 × 16 values are turned in registers.
func turnedDot() {
	TEXT("turnedDot512", NOSPLIT, "func(c, a, b *float32, blocks, ldb int)")
	Pragma("noescape")
	Doc("turnedDot512 adds Σₗ a[l]·b[j][l] to c[j] for 16 rows j of b and 16·blocks values l; ldb in bytes.")
	c := Load(Param("c"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	n := Load(Param("blocks"), GP64())
	ldb := Load(Param("ldb"), GP64())
	in := newRows(b, ldb, 16)
	acc := ZMM()
	VMOVUPS(Mem{Base: c}, acc)
	step := GP64()
	MOVQ(U32(64), step)
	Label("block")
	r := make([]VecVirtual, 16)
	for i := range r {
		r[i] = ZMM()
		VMOVUPS(in.row(i), r[i])
	}
	pairs := func(lo, hi func(...Op), distance int) {
		next := make([]VecVirtual, 16)
		for i := range r {
			if i&distance != 0 {
				continue
			}
			x, y := ZMM(), ZMM()
			lo(r[i+distance], r[i], x)
			hi(r[i+distance], r[i], y)
			next[i], next[i+distance] = x, y
		}
		copy(r, next)
	}
	shuffle := func(how uint8) func(...Op) {
		return func(ops ...Op) { VSHUFF32X4(append([]Op{U8(how)}, ops...)...) }
	}
	// Within each 128 bits: four rows' values of one column; then the four parts of 128 bits.
	pairs(VUNPCKLPS, VUNPCKHPS, 1)
	pairs(VUNPCKLPD, VUNPCKHPD, 2)
	pairs(shuffle(0x88), shuffle(0xdd), 4)
	pairs(shuffle(0x88), shuffle(0xdd), 8)
	// A column is then in the register whose number has its low two bits exchanged.
	for l := range 16 {
		i := l&12 | l&1<<1 | l>>1&1
		VFMADD231PS_BCST(Mem{Base: a, Disp: 4 * l}, r[i], acc)
	}
	ADDQ(step, a)
	in.advance(step)
	DECQ(n)
	JNZ(LabelRef("block"))
	VMOVUPS(acc, Mem{Base: c})
	VZEROUPPER()
	RET()
}
