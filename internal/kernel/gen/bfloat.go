package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The bfloat16 instructions, which neither avo nor the Go assembler knows. Each is written as
// another of the same operands that nothing here needs, and spell replaces that by its bytes.

// dotPairs adds to each lane of acc the product of the odd bfloat16 of x and y, then that of the
// even ones, each by a fused multiply-add: VDPBF16PS.
func dotPairs(x, y, acc VecVirtual) { VFNMSUB231PS(x, y, acc) }

// toHalf rounds low to the lower 16 lanes of dst, high to the upper 16: VCVTNE2PS2BF16.
func toHalf(low, high, dst VecVirtual) { VSCALEFPS(low, high, dst) }

var stands = regexp.MustCompile(`(?m)^\t(VFNMSUB231PS|VSCALEFPS) +Z(\d+), Z(\d+), Z(\d+)$`)

// spell replaces what stands for bfloat16 instructions in the file of flag -out.
func spell() error {
	path, err := outFlag()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, other := range []string{"VFNMSUB231PS", "VSCALEFPS"} {
		if n := strings.Count(string(text), other); n != len(regexp.MustCompile(`\t`+other+` +Z\d+, Z\d+, Z\d+\n`).FindAllString(string(text), -1)) {
			return fmt.Errorf("%s: %s with other operands than three 512-bit registers", path, other)
		}
	}
	out := stands.ReplaceAllStringFunc(string(text), func(line string) string {
		m := stands.FindStringSubmatch(line)
		var r [3]int
		for i := range r {
			r[i], _ = strconv.Atoi(m[i+2])
		}
		name, opcode, prefix := "VDPBF16PS", 0x52, 2 // prefix F3
		if m[1] == "VSCALEFPS" {
			name, opcode, prefix = "VCVTNE2PS2BF16", 0x72, 3 // prefix F2
		}
		var b strings.Builder
		fmt.Fprintf(&b, "\t// %s Z%d, Z%d, Z%d\n\t", name, r[0], r[1], r[2])
		for i, v := range evex(opcode, prefix, r[2], r[1], r[0]) {
			if i > 0 {
				b.WriteString("; ")
			}
			fmt.Fprintf(&b, "BYTE $0x%02x", v)
		}
		return b.String()
	})
	return os.WriteFile(path, []byte(out), 0o644)
}

// evex encodes an instruction of opcode map 0F38 on 512-bit registers, W 0, unmasked: reg is the
// destination, vvvv the first source, rm the second.
func evex(opcode, prefix, reg, vvvv, rm int) []int {
	not := func(v, bit int) int { return 1 - v>>bit&1 }
	return []int{
		0x62,
		not(reg, 3)<<7 | not(rm, 4)<<6 | not(rm, 3)<<5 | not(reg, 4)<<4 | 2,
		(^vvvv&15)<<3 | 4 | prefix,
		2<<5 | not(vvvv, 4)<<3,
		opcode,
		0xc0 | reg&7<<3 | rm&7,
	}
}

// outFlag is the value of -out, which avo does not tell.
func outFlag() (string, error) {
	path := ""
	set := flag.NewFlagSet("spell", flag.ContinueOnError)
	set.StringVar(&path, "out", "", "")
	for _, name := range []string{"pkg", "stubs"} {
		set.String(name, "", "")
	}
	if err := set.Parse(os.Args[1:]); err != nil || path == "" {
		return "", errors.New("gen: give -pkg, -out and -stubs, nothing else")
	}
	return path, nil
}

// pairRows512 rounds two rows to bfloat16 and joins them value by value: the first row's in the
// lower half of each 32 bits. Up to 32 columns, as the masks say; zeros beyond.
func pairRows512() {
	TEXT("pairRows512", NOSPLIT, "func(dst, src *float32, pairs, dstStride, srcStride int, mask0, mask1 uint32)")
	Pragma("noescape")
	Doc("pairRows512 writes a row of pairs of bfloat16 for each two rows of up to 32 values; strides in bytes, of dst's rows and of one of src's.",
		"Where mask1 is 0, only 16 columns are written.")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	n := Load(Param("pairs"), GP64())
	ds := Load(Param("dstStride"), GP64())
	ss := Load(Param("srcStride"), GP64())
	k0, k1 := K(), K()
	m0 := Load(Param("mask0"), GP32())
	m1 := Load(Param("mask1"), GP32())
	KMOVW(m0, k0)
	KMOVW(m1, k1)
	order := ZMM()
	VMOVDQU16(zipped(), order)
	half := func(disp int, mask Register) {
		x, y := ZMM(), ZMM()
		VMOVUPS_Z(Mem{Base: src, Disp: disp}, mask, x)
		VMOVUPS_Z(Mem{Base: src, Disp: disp, Index: ss, Scale: 1}, mask, y)
		toHalf(x, y, x)
		VPERMW(x, order, x)
		VMOVUPS(x, Mem{Base: dst, Disp: disp})
	}
	for _, wide := range []bool{true, false} {
		label := "narrow"
		if wide {
			label = "wide"
			TESTL(m1, m1)
			JZ(LabelRef("narrow"))
		}
		Label(label)
		half(0, k0)
		if wide {
			half(64, k1)
		}
		LEAQ(Mem{Base: src, Index: ss, Scale: 2}, src)
		ADDQ(ds, dst)
		DECQ(n)
		JNZ(LabelRef(label))
		VZEROUPPER()
		RET()
	}
}

// zipped is the order that joins lanes 0…15 with lanes 16…31.
func zipped() Mem {
	m := GLOBL("zipped", RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(uint32(i)|uint32(i+16)<<16))
	}
	return m
}

// halve512 rounds values to bfloat16, two by two in place of one value each.
func halve512() {
	TEXT("halve512", NOSPLIT, "func(dst, src *float32, n int)")
	Pragma("noescape")
	Doc("halve512 rounds n values to bfloat16 and writes them one after the other, zeros to the next multiple of 2.")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	n := Load(Param("n"), GP64())
	Label("whole")
	CMPQ(n, U32(32))
	JL(LabelRef("tail"))
	x, y := ZMM(), ZMM()
	VMOVUPS(Mem{Base: src}, x)
	VMOVUPS(Mem{Base: src, Disp: 64}, y)
	toHalf(x, y, x)
	VMOVUPS(x, Mem{Base: dst})
	ADDQ(U32(128), src)
	ADDQ(U32(64), dst)
	SUBQ(U32(32), n)
	JMP(LabelRef("whole"))
	Label("tail")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	// Bits below n of 32, then those of the pairs.
	ones, low := GP64(), GP64()
	MOVQ(I32(-1), ones)
	BZHIQ(n, ones, low)
	k0, k1, k2 := K(), K(), K()
	KMOVW(low.As32(), k0)
	SHRQ(U8(16), low)
	KMOVW(low.As32(), k1)
	INCQ(n)
	SHRQ(U8(1), n)
	BZHIQ(n, ones, low)
	KMOVW(low.As32(), k2)
	VMOVUPS_Z(Mem{Base: src}, k0, x)
	VMOVUPS_Z(Mem{Base: src, Disp: 64}, k1, y)
	toHalf(x, y, x)
	VMOVUPS(x, k2, Mem{Base: dst})
	Label("done")
	VZEROUPPER()
	RET()
}
