package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A vectorOp is an elementwise loop: dst (and a second destination, where there is one) from
// sources, with scalars broadcast before.
type vectorOp struct {
	name, signature, doc string
	ptrs                 []string // pointer parameters
	scalars              []string // float32 parameters
	consts               func(w width) []VecVirtual
	body                 func(w width, v map[string]vec, s map[string]VecVirtual, c []VecVirtual)
}

// width abstracts over whole vectors, masked ones and single elements.
type width struct {
	bytes  int
	mask   Register // of a masked 512-bit vector
	single bool     // one element in an XMM register
}

type vec struct {
	w     width
	at    Mem
	lanes VecVirtual // mask of a 256-bit vector, or nil
}

func (w width) reg() VecVirtual {
	switch {
	case w.single:
		return XMM()
	case w.bytes == 64:
		return ZMM()
	}
	return YMM()
}

func (v vec) load() VecVirtual {
	r := v.w.reg()
	switch {
	case v.lanes != nil:
		VMASKMOVPS(v.at, v.lanes, r)
	case v.w.single:
		VMOVSS(v.at, r)
	case v.w.mask != nil:
		VMOVUPS_Z(v.at, v.w.mask, r)
	default:
		VMOVUPS(v.at, r)
	}
	return r
}

func (v vec) store(r VecVirtual) {
	switch {
	case v.lanes != nil:
		VMASKMOVPS(r, v.lanes, v.at)
	case v.w.single:
		VMOVSS(r, v.at)
	case v.w.mask != nil:
		VMOVUPS(r, v.w.mask, v.at)
	default:
		VMOVUPS(r, v.at)
	}
}

func (w width) fma(a, b, acc VecVirtual) {
	if w.single {
		VFMADD231SS(a, b, acc)
	} else {
		VFMADD231PS(a, b, acc)
	}
}

func (w width) mul(a, b, dst VecVirtual) {
	if w.single {
		VMULSS(a, b, dst)
	} else {
		VMULPS(a, b, dst)
	}
}

func (w width) add(a, b, dst VecVirtual) {
	if w.single {
		VADDSS(a, b, dst)
	} else {
		VADDPS(a, b, dst)
	}
}

var vectorOps = []vectorOp{
	{
		name: "axpy", signature: "func(dst *float32, alpha float32, x *float32, n int)", doc: "adds alpha·x to dst.",
		ptrs: []string{"dst", "x"}, scalars: []string{"alpha"},
		body: func(w width, v map[string]vec, s map[string]VecVirtual, _ []VecVirtual) {
			d, x := v["dst"].load(), v["x"].load()
			w.fma(x, s["alpha"], d)
			v["dst"].store(d)
		},
	},
	{
		name: "axpySquares", signature: "func(sum, squares *float32, alpha float32, x *float32, n int)", doc: "adds t = alpha·x to sum and t² to squares.",
		ptrs: []string{"sum", "squares", "x"}, scalars: []string{"alpha"},
		body: func(w width, v map[string]vec, s map[string]VecVirtual, _ []VecVirtual) {
			t, sum, sq := v["x"].load(), v["sum"].load(), v["squares"].load()
			w.mul(t, s["alpha"], t)
			w.add(t, sum, sum)
			w.fma(t, t, sq)
			v["sum"].store(sum)
			v["squares"].store(sq)
		},
	},
	{
		name: "factorGrad", signature: "func(grad, v, sum *float32, scale, x float32, n int)", doc: "adds scale·(sum − x·v) to grad.",
		ptrs: []string{"grad", "v", "sum"}, scalars: []string{"scale", "x"},
		body: func(w width, v map[string]vec, s map[string]VecVirtual, _ []VecVirtual) {
			f, t, g := v["v"].load(), v["sum"].load(), v["grad"].load()
			if w.single {
				VFNMADD231SS(f, s["x"], t)
			} else {
				VFNMADD231PS(f, s["x"], t)
			}
			w.fma(t, s["scale"], g)
			v["grad"].store(g)
		},
	},
	{
		name: "add", signature: "func(dst, x *float32, n int)", doc: "adds x to dst.",
		ptrs: []string{"dst", "x"},
		body: func(w width, v map[string]vec, _ map[string]VecVirtual, _ []VecVirtual) {
			d, x := v["dst"].load(), v["x"].load()
			w.add(x, d, d)
			v["dst"].store(d)
		},
	},
	{
		name: "relu", signature: "func(dst, x *float32, n int)", doc: "writes max(0, x), NaN for NaN.",
		ptrs: []string{"dst", "x"}, consts: zero,
		body: func(w width, v map[string]vec, _ map[string]VecVirtual, c []VecVirtual) {
			x := v["x"].load()
			// The second operand is the answer when either is NaN, and when both are zero.
			if w.single {
				VMAXSS(x, c[0].AsX(), x)
			} else {
				VMAXPS(x, c[0], x)
			}
			v["dst"].store(x)
		},
	},
	{
		name: "reluGrad", signature: "func(grad, y *float32, n int)", doc: "writes 0 where y ≤ 0.",
		ptrs: []string{"grad", "y"}, consts: zero,
		body: func(w width, v map[string]vec, _ map[string]VecVirtual, c []VecVirtual) {
			g, y := v["grad"].load(), v["y"].load()
			const notLE = 0x16 // not less or equal, unordered included, quiet
			switch {
			case w.bytes == 64:
				keep := K()
				VCMPPS(U8(notLE), c[0], y, keep)
				VMOVAPS_Z(g, keep, g)
			case w.single:
				m := XMM()
				VCMPSS(U8(notLE), c[0].AsX(), y, m)
				VANDPS(m, g, g)
			default:
				m := YMM()
				VCMPPS(U8(notLE), c[0], y, m)
				VANDPS(m, g, g)
			}
			v["grad"].store(g)
		},
	},
}

func zero(w width) []VecVirtual {
	z := w.reg()
	if w.bytes == 64 {
		VPXORD(z, z, z)
	} else {
		VXORPS(z, z, z)
	}
	return []VecVirtual{z}
}

func (op vectorOp) emit(bytes int) {
	w := width{bytes: bytes}
	name := op.name + "256"
	if bytes == 64 {
		name = op.name + "512"
	}
	TEXT(name, NOSPLIT, op.signature)
	Pragma("noescape")
	Doc(name + " " + op.doc)
	ptr := map[string]Register{}
	for _, p := range op.ptrs {
		ptr[p] = Load(Param(p), GP64())
	}
	n := Load(Param("n"), GP64())
	scalars := map[string]VecVirtual{}
	for _, s := range op.scalars {
		at, err := Param(s).Resolve()
		if err != nil {
			panic(err)
		}
		scalars[s] = w.reg()
		VBROADCASTSS(at.Addr, scalars[s])
	}
	var consts []VecVirtual
	if op.consts != nil {
		consts = op.consts(w)
	}
	vecs := func(w width, disp int) map[string]vec {
		m := map[string]vec{}
		for p, r := range ptr {
			m[p] = vec{w: w, at: Mem{Base: r, Disp: disp}}
		}
		return m
	}
	step := bytes / 4
	advance := func(by int) {
		for _, p := range op.ptrs {
			ADDQ(U32(uint32(4*by)), ptr[p])
		}
	}
	Label("four")
	CMPQ(n, U32(uint32(4*step)))
	JL(LabelRef("one"))
	for i := range 4 {
		op.body(w, vecs(w, i*bytes), scalars, consts)
	}
	advance(4 * step)
	SUBQ(U32(uint32(4*step)), n)
	JMP(LabelRef("four"))
	Label("one")
	CMPQ(n, U32(uint32(step)))
	JL(LabelRef("tail"))
	op.body(w, vecs(w, 0), scalars, consts)
	advance(step)
	SUBQ(U32(uint32(step)), n)
	JMP(LabelRef("one"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	if bytes == 64 {
		mw := w
		mw.mask = tailMask(n)
		op.body(mw, vecs(mw, 0), scalars, consts)
	} else {
		sw := w
		sw.single = true
		low := map[string]VecVirtual{}
		for s, r := range scalars {
			low[s] = xmm(r)
		}
		Label("element")
		op.body(sw, vecs(sw, 0), low, consts)
		advance(1)
		DECQ(n)
		JNZ(LabelRef("element"))
	}
	Label("done")
	VZEROUPPER()
	RET()
}

// xmm is the low lane of a register.
func xmm(r VecVirtual) VecVirtual { return r.AsX().(VecVirtual) }

// tailMask returns a mask of the n < 16 low lanes.
func tailMask(n Register) Register {
	bits := GP64()
	MOVQ(U32(0xffff), bits)
	BZHIQ(n, bits, bits)
	k := K()
	KMOVW(bits.(GPVirtual).As32(), k)
	return k
}

// dot sums products in four vectors of lanes, then joins them: (0+1)+(2+3), then the upper
// half to the lower until one is left. With rows, it does so for each row of a matrix.
func dot(bytes int, rows bool) {
	name, doc, signature := "dot", " returns the sum of a·b.", "func(a, b *float32, n int) float32"
	if rows {
		name, doc, signature = "dots", " adds the dot product of each of m contiguous rows of a with b to c.", "func(c, a, b *float32, m, n int)"
	}
	if bytes == 64 {
		name += "512"
	} else {
		name += "256"
	}
	w := width{bytes: bytes}
	TEXT(name, NOSPLIT, signature)
	Pragma("noescape")
	Doc(name + doc)
	a := Load(Param("a"), GP64())
	first := Load(Param("b"), GP64())
	length := Load(Param("n"), GP64())
	var c, m Register
	if rows {
		c = Load(Param("c"), GP64())
		m = Load(Param("m"), GP64())
	}
	b, n := GP64(), GP64()
	Label("row")
	MOVQ(first, b)
	MOVQ(length, n)
	step := bytes / 4
	acc := make([]VecVirtual, 4)
	for i := range acc {
		acc[i] = zero(w)[0]
	}
	madd := func(w width, disp int, acc VecVirtual) {
		x := vec{w: w, at: Mem{Base: a, Disp: disp}}.load()
		y := vec{w: w, at: Mem{Base: b, Disp: disp}}.load()
		w.fma(y, x, acc)
	}
	Label("four")
	CMPQ(n, U32(uint32(4*step)))
	JL(LabelRef("one"))
	for i := range acc {
		madd(w, i*bytes, acc[i])
	}
	ADDQ(U32(uint32(4*bytes)), a)
	ADDQ(U32(uint32(4*bytes)), b)
	SUBQ(U32(uint32(4*step)), n)
	JMP(LabelRef("four"))
	Label("one")
	CMPQ(n, U32(uint32(step)))
	JL(LabelRef("tail"))
	madd(w, 0, acc[0])
	ADDQ(U32(uint32(bytes)), a)
	ADDQ(U32(uint32(bytes)), b)
	SUBQ(U32(uint32(step)), n)
	JMP(LabelRef("one"))
	Label("tail")
	rest := zero(width{bytes: 32, single: true})[0]
	TESTQ(n, n)
	JZ(LabelRef("join"))
	if bytes == 64 {
		mw := w
		mw.mask = tailMask(n)
		madd(mw, 0, acc[1])
		LEAQ(Mem{Base: a, Index: n, Scale: 4}, a)
	} else {
		sw := w
		sw.single = true
		Label("element")
		madd(sw, 0, rest)
		ADDQ(U32(4), a)
		ADDQ(U32(4), b)
		DECQ(n)
		JNZ(LabelRef("element"))
	}
	Label("join")
	VADDPS(acc[1], acc[0], acc[0])
	VADDPS(acc[3], acc[2], acc[2])
	VADDPS(acc[2], acc[0], acc[0])
	y := acc[0]
	if bytes == 64 {
		hi := YMM()
		VEXTRACTF64X4(U8(1), acc[0], hi)
		y = acc[0].AsY().(VecVirtual)
		VADDPS(hi, y, y)
	}
	hi := XMM()
	VEXTRACTF128(U8(1), y, hi)
	x := xmm(y)
	VADDPS(hi, x, x)
	VMOVHLPS(x, x, hi)
	VADDPS(hi, x, x)
	VMOVSHDUP(x, hi)
	VADDSS(hi, x, x)
	if bytes != 64 {
		VADDSS(rest, x, x)
	}
	if rows {
		VADDSS(Mem{Base: c}, x, x)
		VMOVSS(x, Mem{Base: c})
		ADDQ(U32(4), c)
		DECQ(m)
		JNZ(LabelRef("row"))
	} else {
		Store(x, ReturnIndex(0))
	}
	VZEROUPPER()
	RET()
}

func vectors512() {
	for _, op := range vectorOps {
		op.emit(64)
	}
	dot(64, false)
	dot(64, true)
}

func vectors256() {
	for _, op := range vectorOps {
		op.emit(32)
	}
	dot(32, false)
	dot(32, true)
}
