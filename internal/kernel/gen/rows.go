package main

import (
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// A rowsOp loops over rows of a table that an index names, for one vector of their columns after
// the other, so that sums over rows stay in registers. Pointers in each have the place of the row
// (rows), of the j-th row of a matrix (ranks), or of the columns alone (sums).
type rowsOp struct {
	name, doc         string
	rows, ranks, sums []string
	scale             bool // a parameter; sums are then only read
	ranksStride       bool // a parameter; else the rows of matrices follow one another
	body              func(w width, x, scale VecVirtual, sum map[string]VecVirtual, at func(name string) vec)
}

var rowsOps = []rowsOp{
	{
		name: "gatherRows", doc: "writes 0 + x·row for each row.", ranks: []string{"dst"}, rows: []string{"rows"},
		body: func(w width, x, _ VecVirtual, _ map[string]VecVirtual, at func(string) vec) {
			t := zero(w)[0]
			w.fma(at("rows").load(), x, t)
			at("dst").store(t)
		},
	},
	{
		name: "sumFactors", doc: "adds t = x·row to sum and t² to squares, for each row.", sums: []string{"sum", "squares"}, rows: []string{"rows"},
		body: func(w width, x, _ VecVirtual, sum map[string]VecVirtual, at func(string) vec) {
			t := at("rows").load()
			w.mul(t, x, t)
			w.add(t, sum["sum"], sum["sum"])
			w.fma(t, t, sum["squares"])
		},
	},
	{
		name: "gatherFactors", doc: "is gatherRows and sumFactors.", ranks: []string{"dst"}, sums: []string{"sum", "squares"}, rows: []string{"rows"},
		body: func(w width, x, _ VecVirtual, sum map[string]VecVirtual, at func(string) vec) {
			t := zero(w)[0]
			w.fma(at("rows").load(), x, t)
			at("dst").store(t)
			w.add(t, sum["sum"], sum["sum"])
			w.fma(t, t, sum["squares"])
		},
	},
	{
		name: "scatterRows", doc: "adds x·d to each row of grads.", rows: []string{"grads"}, ranks: []string{"d"}, ranksStride: true,
		body: func(w width, x, _ VecVirtual, _ map[string]VecVirtual, at func(string) vec) {
			g := at("grads").load()
			w.fma(at("d").load(), x, g)
			at("grads").store(g)
		},
	},
	{
		name: "scatterFactors", doc: "adds scale·x·(sum − x·row) to each row of grads.", rows: []string{"grads", "rows"}, sums: []string{"sum"}, scale: true,
		body: func(w width, x, scale VecVirtual, sum map[string]VecVirtual, at func(string) vec) {
			g := at("grads").load()
			factors(w, x, scale, sum["sum"], at("rows").load(), g)
			at("grads").store(g)
		},
	},
	{
		name: "scatterBoth", doc: "is scatterFactors, then scatterRows, of each row.", rows: []string{"grads", "rows"}, sums: []string{"sum"}, ranks: []string{"d"}, ranksStride: true, scale: true,
		body: func(w width, x, scale VecVirtual, sum map[string]VecVirtual, at func(string) vec) {
			g := at("grads").load()
			factors(w, x, scale, sum["sum"], at("rows").load(), g)
			w.fma(at("d").load(), x, g)
			at("grads").store(g)
		},
	},
}

// factors adds scale·x·(sum − x·row) to g.
func factors(w width, x, scale, sum, row, g VecVirtual) {
	t, both := w.reg(), w.reg()
	VMOVAPS(sum, t)
	VFNMADD231PS(row, x, t)
	w.mul(scale, x, both)
	w.fma(t, both, g)
}

// order lists an op's pointers as its parameters.
func (op rowsOp) order() []string {
	switch {
	case op.name == "gatherRows":
		return []string{"dst", "rows"}
	case op.name == "sumFactors":
		return []string{"sum", "squares", "rows"}
	case op.name == "gatherFactors":
		return []string{"dst", "sum", "squares", "rows"}
	case op.name == "scatterRows":
		return []string{"grads", "d"}
	case op.name == "scatterFactors":
		return []string{"grads", "rows", "sum"}
	}
	return []string{"grads", "rows", "sum", "d"}
}

func (op rowsOp) emit(bytes int) {
	name, maskType := op.name+"256", "*int32"
	if bytes == 64 {
		name, maskType = op.name+"512", "uint32"
	}
	signature := "func(" + strings.Join(op.order(), ", ") + " *float32, index *int32, x *float32, n, stride"
	if op.ranksStride {
		signature += ", dstride"
	}
	signature += ", dim int"
	if op.scale {
		signature += ", scale float32"
	}
	TEXT(name, NOSPLIT, signature+", mask "+maskType+")")
	Pragma("noescape")
	Doc(name+" "+op.doc, "Strides in bytes; mask is of the columns beyond the last whole vector.")
	w := width{bytes: bytes}
	ptr := map[string]Register{}
	for _, p := range op.order() {
		ptr[p] = Load(Param(p), GP64())
	}
	dim := Load(Param("dim"), GP64())
	var scale VecVirtual
	if op.scale {
		at, err := Param("scale").Resolve()
		if err != nil {
			panic(err)
		}
		scale = w.reg()
		VBROADCASTSS(at.Addr, scale)
	}
	// loop goes over all rows with one vector of columns.
	loop := func(label string, w width, lanes VecVirtual) {
		load := func(m Mem, to VecVirtual) {
			if lanes != nil {
				VMASKMOVPS(m, lanes, to)
			} else if w.mask != nil {
				VMOVUPS_Z(m, w.mask, to)
			} else {
				VMOVUPS(m, to)
			}
		}
		sum := map[string]VecVirtual{}
		for _, s := range op.sums {
			sum[s] = w.reg()
			load(Mem{Base: ptr[s]}, sum[s])
		}
		index := Load(Param("index"), GP64())
		xs := Load(Param("x"), GP64())
		n := Load(Param("n"), GP64())
		rank := map[string]Register{}
		for _, p := range op.ranks {
			r := GP64()
			MOVQ(ptr[p], r)
			rank[p] = r
		}
		Label(label)
		row := GP64()
		MOVLQSX(Mem{Base: index}, row)
		at, err := Param("stride").Resolve()
		if err != nil {
			panic(err)
		}
		IMULQ(at.Addr, row)
		x := w.reg()
		VBROADCASTSS(Mem{Base: xs}, x)
		op.body(w, x, scale, sum, func(p string) vec {
			v := vec{w: w, at: Mem{Base: ptr[p], Index: row, Scale: 1}, lanes: lanes}
			if r, ok := rank[p]; ok {
				v.at = Mem{Base: r}
			}
			return v
		})
		for _, p := range op.ranks {
			if op.ranksStride {
				at, err := Param("dstride").Resolve()
				if err != nil {
					panic(err)
				}
				ADDQ(at.Addr, rank[p])
				continue
			}
			by := Load(Param("dim"), GP64())
			LEAQ(Mem{Base: rank[p], Index: by, Scale: 4}, rank[p])
		}
		ADDQ(U32(4), index)
		ADDQ(U32(4), xs)
		DECQ(n)
		JNZ(LabelRef(label))
		for _, s := range op.sums {
			if op.scale {
				continue
			}
			m := Mem{Base: ptr[s]}
			switch {
			case lanes != nil:
				VMASKMOVPS(sum[s], lanes, m)
			case w.mask != nil:
				VMOVUPS(sum[s], w.mask, m)
			default:
				VMOVUPS(sum[s], m)
			}
		}
	}
	Label("columns")
	CMPQ(dim, U32(uint32(bytes/4)))
	JL(LabelRef("rest"))
	loop("row", w, nil)
	for _, p := range op.order() {
		ADDQ(U32(uint32(bytes)), ptr[p])
	}
	SUBQ(U32(uint32(bytes/4)), dim)
	JMP(LabelRef("columns"))
	Label("rest")
	TESTQ(dim, dim)
	JZ(LabelRef("done"))
	if bytes == 64 {
		bits := Load(Param("mask"), GP32())
		k := K()
		KMOVW(bits, k)
		w.mask = k
		loop("tail", w, nil)
	} else {
		at := Load(Param("mask"), GP64())
		lanes := YMM()
		VMOVDQU(Mem{Base: at}, lanes)
		loop("tail", w, lanes)
	}
	Label("done")
	VZEROUPPER()
	RET()
}

func rowLoops() {
	for _, op := range rowsOps {
		op.emit(64)
		op.emit(32)
	}
}
