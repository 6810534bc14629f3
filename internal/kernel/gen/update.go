package main

import (
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// An update is an optimizer's loop over the values of a row. No product is fused with a sum, so
// every level has the bits of the Go loop. Hyper-parameters come in an array, whose last four are
// those of limits.
type update struct {
	name, doc string
	ptrs      []string // beside w and grad
	body      func(u arithmetic)
}

// Places of limits among the hyper-parameters: the largest float32, that below zero, the smallest
// normal one, and the bits of a magnitude.
const (
	largest = 12 + iota
	lowest
	smallest
	magnitude
)

// arithmetic is what an update computes with: registers of one width.
type arithmetic struct {
	w      width
	ptr    map[string]Register
	params Register
	lanes  VecVirtual
}

func (u arithmetic) load(name string) VecVirtual {
	return vec{w: u.w, at: Mem{Base: u.ptr[name]}, lanes: u.lanes}.load()
}

func (u arithmetic) store(name string, x VecVirtual) {
	vec{w: u.w, at: Mem{Base: u.ptr[name]}, lanes: u.lanes}.store(x)
}

// p is a hyper-parameter in all lanes.
func (u arithmetic) p(i int) VecVirtual {
	r := u.w.reg()
	VBROADCASTSS(Mem{Base: u.params, Disp: 4 * i}, r)
	return r
}

func (u arithmetic) op(emit func(...Op), b, a VecVirtual) VecVirtual {
	r := u.w.reg()
	emit(b, a, r)
	return r
}

func (u arithmetic) add(a, b VecVirtual) VecVirtual { return u.op(VADDPS, b, a) }
func (u arithmetic) sub(a, b VecVirtual) VecVirtual { return u.op(VSUBPS, b, a) }
func (u arithmetic) mul(a, b VecVirtual) VecVirtual { return u.op(VMULPS, b, a) }
func (u arithmetic) div(a, b VecVirtual) VecVirtual { return u.op(VDIVPS, b, a) }

func (u arithmetic) sqrt(a VecVirtual) VecVirtual {
	r := u.w.reg()
	VSQRTPS(a, r)
	return r
}

// clip keeps x within the largest magnitudes; NaN, the second operand, stays.
func (u arithmetic) clip(x VecVirtual) VecVirtual {
	return u.op(VMAXPS, u.op(VMINPS, x, u.p(largest)), u.p(lowest))
}

// choose is a where a compares so with b, else other.
func (u arithmetic) choose(predicate uint8, a, b, yes, other VecVirtual) VecVirtual {
	r := u.w.reg()
	if u.w.bytes == 64 {
		k := K()
		VCMPPS(U8(predicate), b, a, k)
		VMOVAPS(other, r)
		VMOVAPS(yes, k, r)
		return r
	}
	m := YMM()
	VCMPPS(U8(predicate), b, a, m)
	VBLENDVPS(m, yes, other, r)
	return r
}

// Predicates of choose, all quiet.
const (
	less       = 0x11
	lessEqual  = 0x12
	greater    = 0x1e
	notEqualOr = 0x04 // or unordered
)

func (u arithmetic) and(a, b VecVirtual) VecVirtual {
	if u.w.bytes == 64 {
		return u.op(VPANDD, b, a)
	}
	return u.op(VANDPS, b, a)
}

func (u arithmetic) abs(x VecVirtual) VecVirtual { return u.and(x, u.p(magnitude)) }

// moment is clip(x), and 0 where x is smaller than any normal value.
func (u arithmetic) moment(x VecVirtual) VecVirtual {
	return u.choose(less, u.abs(x), u.p(smallest), zero(u.w)[0], u.clip(x))
}

// gradient is clip(g + l2·w), l2 being hyper-parameter 1.
func (u arithmetic) gradient(w VecVirtual) VecVirtual {
	return u.clip(u.add(u.load("grad"), u.mul(u.p(1), w)))
}

// step writes clip(w - eta·q), eta being hyper-parameter 0.
func (u arithmetic) step(w, q VecVirtual) {
	u.store("w", u.clip(u.sub(w, u.mul(u.p(0), q))))
}

var updates = []update{
	{
		name: "sgd", doc: "is optim.SGD: eta, L2.",
		body: func(u arithmetic) {
			w := u.load("w")
			u.step(w, u.gradient(w))
		},
	},
	{
		name: "momentum", doc: "is optim.Momentum: eta, L2, Momentum.", ptrs: []string{"v"},
		body: func(u arithmetic) {
			w := u.load("w")
			d := u.gradient(w)
			v := u.moment(u.add(u.mul(u.p(2), u.load("v")), d))
			u.store("v", v)
			u.step(w, v)
		},
	},
	{
		name: "adagrad", doc: "is optim.Adagrad: eta, L2, Epsilon.", ptrs: []string{"n"},
		body: func(u arithmetic) {
			w := u.load("w")
			d := u.gradient(w)
			n := u.clip(u.add(u.load("n"), u.mul(d, d)))
			u.store("n", n)
			u.step(w, u.clip(u.div(d, u.add(u.sqrt(n), u.p(2)))))
		},
	},
	{
		name: "rmsprop", doc: "is optim.RMSProp: eta, L2, Epsilon, Rho, 1-Rho.", ptrs: []string{"n"},
		body: func(u arithmetic) {
			w := u.load("w")
			d := u.gradient(w)
			n := u.moment(u.add(u.mul(u.p(3), u.load("n")), u.mul(u.p(4), u.clip(u.mul(d, d)))))
			u.store("n", n)
			u.step(w, u.clip(u.div(d, u.add(u.sqrt(n), u.p(2)))))
		},
	},
	{
		name: "adam", doc: "is optim.Adam: eta, L2, Epsilon, Beta1, 1-Beta1, Beta2, 1-Beta2, and what corrects m and v.", ptrs: []string{"m", "v"},
		body: func(u arithmetic) {
			w := u.load("w")
			d := u.gradient(w)
			m := u.moment(u.add(u.mul(u.p(3), u.load("m")), u.mul(u.p(4), d)))
			v := u.moment(u.add(u.mul(u.p(5), u.load("v")), u.mul(u.p(6), u.clip(u.mul(d, d)))))
			u.store("m", m)
			u.store("v", v)
			root := u.sqrt(u.clip(u.mul(v, u.p(8))))
			u.step(w, u.clip(u.div(u.clip(u.mul(m, u.p(7))), u.add(root, u.p(2)))))
		},
	},
	{
		name: "ftrl", doc: "is optim.FTRL: the scale, Alpha, Beta, L1, L2, -L1.", ptrs: []string{"z", "n"},
		body: func(u arithmetic) {
			w, z, n, g := u.load("w"), u.load("z"), u.load("n"), u.load("grad")
			ni := u.clip(u.add(n, u.mul(g, g)))
			root := u.sqrt(ni)
			sigma := u.clip(u.div(u.sub(root, u.sqrt(n)), u.p(1)))
			zi := u.clip(u.sub(u.clip(u.add(z, u.clip(u.mul(u.p(0), g)))), u.clip(u.mul(sigma, w))))
			none := zero(u.w)[0]
			u.store("n", u.choose(notEqualOr, g, none, ni, n))
			u.store("z", u.choose(notEqualOr, g, none, zi, z))
			d := u.clip(u.add(u.div(u.add(u.p(2), root), u.p(1)), u.p(4)))
			// -(z - sign(z)·L1)
			top := u.choose(greater, zi, u.p(3), u.sub(u.p(3), zi), u.sub(u.p(5), zi))
			next := u.clip(u.div(top, d))
			next = u.choose(lessEqual, u.abs(zi), u.p(3), none, next)
			u.store("w", u.choose(notEqualOr, g, none, next, w))
		},
	},
}

func (op update) emit(bytes int) {
	name := op.name + "256"
	if bytes == 64 {
		name = op.name + "512"
	}
	ptrs := append([]string{"w"}, append(append([]string{}, op.ptrs...), "grad")...)
	TEXT(name, NOSPLIT, "func("+strings.Join(ptrs, ", ")+", params *float32, count int)")
	Pragma("noescape")
	Doc(name + " " + op.doc)
	u := arithmetic{w: width{bytes: bytes}, ptr: map[string]Register{}}
	for _, p := range ptrs {
		u.ptr[p] = Load(Param(p), GP64())
	}
	u.params = Load(Param("params"), GP64())
	n := Load(Param("count"), GP64())
	Label("whole")
	CMPQ(n, U32(uint32(bytes/4)))
	JL(LabelRef("tail"))
	op.body(u)
	for _, p := range ptrs {
		ADDQ(U32(uint32(bytes)), u.ptr[p])
	}
	SUBQ(U32(uint32(bytes/4)), n)
	JMP(LabelRef("whole"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	if bytes == 64 {
		u.w.mask = tailMask(n)
	} else {
		at := GP64()
		LEAQ(laneTable, at)
		NEGQ(n)
		u.lanes = YMM()
		VMOVDQU(Mem{Base: at, Index: n, Scale: 4, Disp: 32}, u.lanes)
	}
	op.body(u)
	Label("done")
	VZEROUPPER()
	RET()
}

// laneTable selects, 4·(8-n) bytes from its beginning, n of 8 lanes.
var laneTable Mem

func rowUpdates() {
	laneTable = GLOBL("lanes", RODATA|NOPTR)
	for i := range 16 {
		ones := uint32(0)
		if i < 8 {
			ones = 0xffffffff
		}
		DATA(4*i, U32(ones))
	}
	for _, op := range updates {
		op.emit(64)
		op.emit(32)
	}
}
