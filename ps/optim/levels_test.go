package optim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidemill/tidemill/internal/kernel"
)

// leveled is what every rule is beside Rule.
type leveled interface {
	Rule
	apply(level kernel.Level, w, state, g []float32, scale float32)
}

// Every level has the bits of plain Go, on any values and for any length of a row, and writes
// nothing beside it. (Which NaN comes out is not said.)
func TestLevelsHaveTheSameBits(t *testing.T) {
	special := []float32{0, float32(math.Copysign(0, -1)), math.MaxFloat32, -math.MaxFloat32, 0x1p-126, -0x1p-127, 1e-30, 1e19, float32(math.NaN())}
	rapid.Check(t, func(t *rapid.T) {
		rule := drawRule(t).(leveled)
		dim := rapid.IntRange(0, 40).Draw(t, "dim")
		seed := rapid.Uint64().Draw(t, "seed")
		wild := rapid.Bool().Draw(t, "wild")
		var rows [][]float32
		for _, level := range kernel.Levels() {
			r := rand.New(rand.NewPCG(seed, 0))
			draw := func(v []float32) {
				for i := range v {
					v[i] = float32(r.NormFloat64())
					switch r.IntN(12) {
					case 0:
						v[i] = 0
					case 1:
						if wild {
							v[i] = special[r.IntN(len(special))]
						}
					}
				}
			}
			const guard = 77
			n := rule.StateLen(dim)
			row, g := make([]float32, dim+n+2), make([]float32, dim)
			row[dim], row[dim+1+n] = guard, guard
			w, state := row[:dim:dim], row[dim+1:dim+1+n:dim+1+n]
			draw(w)
			rule.Init(state, w)
			for range 4 {
				draw(g)
				rule.apply(level, w, state, g, r.Float32())
			}
			rows = append(rows, row)
		}
		for l, row := range rows[1:] {
			for i, v := range row {
				if want := rows[0][i]; math.Float32bits(v) != math.Float32bits(want) && (v == v || want == want) {
					t.Fatalf("%#v at %v, dim %d: value %d of weights, guard, state, guard is %v, plain Go has %v", rule, kernel.Levels()[l+1], dim, i, v, want)
				}
			}
		}
	})
}

func BenchmarkApplyByLevel(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	rules := []leveled{
		SGD{LR: 0.1}, Momentum{LR: 0.1, Momentum: 0.9}, Adagrad{LR: 0.1, Initial: 0.1, Epsilon: 1e-10},
		RMSProp{LR: 0.01, Rho: 0.9, Epsilon: 1e-8}, Adam{LR: 0.001, Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}, FTRL{Alpha: 0.1, Beta: 1, L1: 0.01},
	}
	for _, rule := range rules {
		for _, dim := range []int{1, 4, 17, 64, 1024} {
			for _, level := range kernel.Levels() {
				b.Run(fmt.Sprintf("%T/dim=%d/level=%v", rule, dim, level), func(b *testing.B) {
					// Rows in turn: a row that was just written would be waited for.
					const rows = 64
					n := rule.StateLen(dim)
					table, g := make([]float32, rows*(dim+n)), make([]float32, dim)
					for i := range g {
						g[i] = float32(r.NormFloat64())
					}
					for i := range rows {
						row := table[i*(dim+n):][:dim+n]
						rule.Init(row[dim:], row[:dim])
					}
					for i := 0; b.Loop(); i++ {
						row := table[i%rows*(dim+n):][:dim+n]
						rule.apply(level, row[:dim], row[dim:], g, 1)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*dim), "ns/value")
				})
			}
		}
	}
}
