//go:build !noasm

package kernel

// kernel512 runs the micro-kernel of an mr × 16·nv tile; mask is of its last vector.
func kernel512(mr, nv int, c, a, b *float32, k, ldc, ras, cas, ldb int, mask uint32) {
	switch nv<<4 | mr {
	case 1<<4 | 1:
		gemm512x1x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 2:
		gemm512x2x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 3:
		gemm512x3x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 4:
		gemm512x4x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 5:
		gemm512x5x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 6:
		gemm512x6x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 7:
		gemm512x7x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 8:
		gemm512x8x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 9:
		gemm512x9x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 10:
		gemm512x10x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 11:
		gemm512x11x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 12:
		gemm512x12x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 1:
		gemm512x1x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 2:
		gemm512x2x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 3:
		gemm512x3x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 4:
		gemm512x4x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 5:
		gemm512x5x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 6:
		gemm512x6x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 7:
		gemm512x7x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 8:
		gemm512x8x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 9:
		gemm512x9x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 10:
		gemm512x10x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 11:
		gemm512x11x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 12:
		gemm512x12x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 8<<4 | 1:
		gemm512x1x8(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 8<<4 | 2:
		gemm512x2x8(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 8<<4 | 3:
		gemm512x3x8(c, a, b, k, ldc, ras, cas, ldb, mask)
	default:
		panic("kernel: no such tile")
	}
}

// kernel512h runs that on pairs of bfloat16, k of them; mask is of its last vector.
func kernel512h(mr, nv int, c, a, b *float32, k, ldc, ras, cas, ldb int, mask uint32) {
	switch nv<<4 | mr {
	case 1<<4 | 1:
		gemm512x1x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 2:
		gemm512x2x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 3:
		gemm512x3x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 4:
		gemm512x4x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 5:
		gemm512x5x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 6:
		gemm512x6x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 7:
		gemm512x7x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 8:
		gemm512x8x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 9:
		gemm512x9x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 10:
		gemm512x10x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 11:
		gemm512x11x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 12:
		gemm512x12x1h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 1:
		gemm512x1x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 2:
		gemm512x2x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 3:
		gemm512x3x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 4:
		gemm512x4x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 5:
		gemm512x5x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 6:
		gemm512x6x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 7:
		gemm512x7x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 8:
		gemm512x8x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 9:
		gemm512x9x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 10:
		gemm512x10x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 11:
		gemm512x11x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 12:
		gemm512x12x2h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 8<<4 | 1:
		gemm512x1x8h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 8<<4 | 2:
		gemm512x2x8h(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 8<<4 | 3:
		gemm512x3x8h(c, a, b, k, ldc, ras, cas, ldb, mask)
	default:
		panic("kernel: no such tile")
	}
}

// kernel256 runs the micro-kernel of an mr × 8·nv tile; mask is of its last vector, nil when
// that is whole.
func kernel256(mr, nv int, c, a, b *float32, k, ldc, ras, cas, ldb int, mask *int32) {
	at := nv<<4 | mr
	if mask != nil {
		at |= 1 << 8
	}
	switch at {
	case 1<<4 | 1:
		gemm256x1x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 2:
		gemm256x2x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 3:
		gemm256x3x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 4:
		gemm256x4x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 5:
		gemm256x5x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<4 | 6:
		gemm256x6x1(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 1:
		gemm256x1x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 2:
		gemm256x2x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 3:
		gemm256x3x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 4:
		gemm256x4x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 5:
		gemm256x5x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 2<<4 | 6:
		gemm256x6x2(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 4<<4 | 1:
		gemm256x1x4(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 4<<4 | 2:
		gemm256x2x4(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 1<<4 | 1:
		gemm256x1x1m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 1<<4 | 2:
		gemm256x2x1m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 1<<4 | 3:
		gemm256x3x1m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 1<<4 | 4:
		gemm256x4x1m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 1<<4 | 5:
		gemm256x5x1m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 1<<4 | 6:
		gemm256x6x1m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 2<<4 | 1:
		gemm256x1x2m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 2<<4 | 2:
		gemm256x2x2m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 2<<4 | 3:
		gemm256x3x2m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 2<<4 | 4:
		gemm256x4x2m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 2<<4 | 5:
		gemm256x5x2m(c, a, b, k, ldc, ras, cas, ldb, mask)
	case 1<<8 | 2<<4 | 6:
		gemm256x6x2m(c, a, b, k, ldc, ras, cas, ldb, mask)
	default:
		panic("kernel: no such tile")
	}
}
