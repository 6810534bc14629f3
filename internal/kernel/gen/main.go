// Command gen writes the assembly of package kernel:
//
//	go run . -pkg kernel -out ../asm_amd64.s -stubs ../asm_amd64.go
//
// It is a module of its own, so that nobody who builds Tidemill needs avo. The comments of the
// Go functions in package kernel are the specification; what is here only has to compute the
// same sums in the same order.
package main

import (
	. "github.com/mmcloughlin/avo/build"
)

func main() {
	ConstraintExpr("!noasm")
	for mr := 1; mr <= 12; mr++ {
		for _, half := range []bool{false, true} {
			gemm512(mr, 1, half)
			gemm512(mr, 2, half)
			if mr <= 3 {
				gemm512(mr, 8, half)
			}
		}
	}
	for mr := 1; mr <= 6; mr++ {
		for _, masked := range []bool{false, true} {
			gemm256(mr, 1, masked)
			gemm256(mr, 2, masked)
		}
		if mr <= 2 {
			gemm256(mr, 4, false)
		}
	}
	prefetches()
	pack512()
	pack256()
	transpose8()
	turnedDot()
	pairRows512()
	halve512()
	vectors512()
	vectors256()
	rowLoops()
	rowUpdates()
	Generate()
	if err := spell(); err != nil {
		panic(err)
	}
}
