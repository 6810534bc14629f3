package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Loops over rows have the bits of the loops over one row that their comments name, at each level.
func TestRowsAreTheirParts(t *testing.T) {
	for _, level := range Levels() {
		r := rand.New(rand.NewPCG(5, 5))
		for dim := range 70 {
			for _, n := range []int{0, 1, 5} {
				const table = 4
				stride := dim + r.IntN(3)
				v, vGuard := guarded(r, table*stride+dim)
				grads, gGuard := guarded(r, len(v))
				rows := Rows{V: v, Stride: stride, Dim: dim}
				for range n {
					rows.Index = append(rows.Index, int32(r.IntN(table))) // some twice
					rows.X = append(rows.X, float32(r.NormFloat64()))
				}
				dst, dGuard := guarded(r, n*dim)
				sum, sGuard := guarded(r, dim)
				squares, qGuard := guarded(r, dim)
				dstride := dim + 2
				d, _ := guarded(r, n*dstride)
				const scale = 0.37

				wantDst := make([]float32, n*dim)
				wantSum, wantSquares := append([]float32(nil), sum...), append([]float32(nil), squares...)
				for j := range n {
					level.Axpy(wantDst[j*dim:(j+1)*dim], rows.X[j], rows.row(j))
					level.AxpySquares(wantSum, wantSquares, rows.X[j], rows.row(j))
				}
				was := append([]float32(nil), sum...)
				wasSquares := append([]float32(nil), squares...)
				level.SumFactors(sum, squares, nil, rows)
				sameBits(t, level, "sum", sum, wantSum)
				sameBits(t, level, "squares", squares, wantSquares)
				copy(sum, was)
				copy(squares, wasSquares)
				level.SumFactors(sum, squares, dst, rows)
				sameBits(t, level, "sum beside gathering", sum, wantSum)
				sameBits(t, level, "squares beside gathering", squares, wantSquares)
				sameBits(t, level, "gathered beside sums", dst, wantDst)
				clear(dst)
				level.GatherRows(dst, rows)
				sameBits(t, level, "gathered", dst, wantDst)

				for _, form := range []string{"rows", "factors", "both"} {
					want := append([]float32(nil), grads...)
					for j := range n {
						g := want[int(rows.Index[j])*stride:][:dim]
						if form != "rows" {
							level.FactorGrad(g, rows.row(j), sum, float32(scale*rows.X[j]), rows.X[j])
						}
						if form != "factors" {
							level.Axpy(g, rows.X[j], d[j*dstride:][:dim])
						}
					}
					switch form {
					case "rows":
						level.ScatterRows(grads, rows, d, dstride)
					case "factors":
						level.ScatterFactors(grads, rows, sum, scale, nil, 0)
					default:
						level.ScatterFactors(grads, rows, sum, scale, d, dstride)
					}
					sameBits(t, level, "scattered "+form, grads, want)
				}
				for _, intact := range []func(*testing.T){vGuard, gGuard, dGuard, sGuard, qGuard} {
					intact(t)
				}
			}
		}
	}
}

func sameBits(t *testing.T, level Level, what string, got, want []float32) {
	t.Helper()
	for i, v := range want {
		if math.Float32bits(got[i]) != math.Float32bits(v) {
			t.Fatalf("%v, %s: value %d of %d is %v, want %v", level, what, i, len(want), got[i], v)
		}
	}
}

func TestRowsAreChecked(t *testing.T) {
	v, x := make([]float32, 6), []float32{1, 1}
	for name, f := range map[string]func(l Level){
		"beyond":   func(l Level) { l.GatherRows(make([]float32, 4), Rows{v, []int32{0, 3}, x, 2, 2}) },
		"negative": func(l Level) { l.GatherRows(make([]float32, 4), Rows{v, []int32{0, -1}, x, 2, 2}) },
		"factors":  func(l Level) { l.GatherRows(make([]float32, 4), Rows{v, []int32{0, 1}, x[:1], 2, 2}) },
		"sum":      func(l Level) { l.SumFactors(v[:1], v[:2], nil, Rows{v, []int32{0, 1}, x, 2, 2}) },
		"grads":    func(l Level) { l.ScatterFactors(v[:4], Rows{v, []int32{0, 1}, x, 2, 2}, v[:2], 1, nil, 0) },
		"d":        func(l Level) { l.ScatterRows(v, Rows{nil, []int32{0, 1}, x, 2, 2}, v[:3], 2) },
	} {
		for _, level := range Levels() {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s at %v: not refused", name, level)
					}
				}()
				f(level)
			}()
		}
	}
}
