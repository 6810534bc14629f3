package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// prefetches is a loop over addresses, and for each over the cache lines that follow it.
func prefetches() {
	TEXT("prefetchLines", NOSPLIT, "func(at **byte, n, lines int)")
	Pragma("noescape")
	Doc("prefetchLines asks for lines cache lines from each of n addresses on.")
	at := Load(Param("at"), GP64())
	n := Load(Param("n"), GP64())
	lines := Load(Param("lines"), GP64())
	end := GP64()
	LEAQ(Mem{Base: at, Index: n, Scale: 8}, end)
	p, left := GP64(), GP64()
	Label("address")
	MOVQ(Mem{Base: at}, p)
	MOVQ(lines, left)
	Label("line")
	PREFETCHT0(Mem{Base: p})
	ADDQ(Imm(64), p)
	DECQ(left)
	JNZ(LabelRef("line"))
	ADDQ(Imm(8), at)
	CMPQ(at, end)
	JNE(LabelRef("address"))
	RET()
}
