//go:build !amd64 || noasm

package kernel

func best() Level { return Generic }

const absent = "kernel: this build has the generic level alone"

func dotAt(Level, []float32, []float32) float32                             { panic(absent) }
func dotsAt(Level, []float32, []float32, []float32)                         { panic(absent) }
func axpyAt(Level, []float32, float32, []float32)                           { panic(absent) }
func axpySquaresAt(Level, []float32, []float32, float32, []float32)         { panic(absent) }
func factorGradAt(Level, []float32, []float32, []float32, float32, float32) { panic(absent) }
func addAt(Level, []float32, []float32)                                     { panic(absent) }
func reluAt(Level, []float32, []float32)                                    { panic(absent) }
func reluGradAt(Level, []float32, []float32)                                { panic(absent) }

func gatherRowsAt(Level, []float32, *Rows)                                         { panic(absent) }
func sumFactorsAt(Level, []float32, []float32, []float32, *Rows)                   { panic(absent) }
func scatterRowsAt(Level, *Rows, []float32, int)                                   { panic(absent) }
func scatterFactorsAt(Level, []float32, *Rows, []float32, float32, []float32, int) { panic(absent) }

func updateAt(Level, Update, []float32, []float32, []float32, []float32, *[16]float32) { panic(absent) }

func hasPairs() bool { return false }

func (p *Panels) putPanels(int, []float32, int) { panic(absent) }
func (p *Panels) turnPanels([]float32)          { panic(absent) }

func (g *Gemm) multiplyPanels([]float32, []float32, *Panels, int, []float32, bool, []float32) {
	panic(absent)
}
func (g *Gemm) transposedPanels([]float32, []float32, *Panels, int, int, int) { panic(absent) }

func (g *Gemm) turnedRow([]float32, []float32, []float32, int, int) { panic(absent) }

func (g *Gemm) multiply([]float32, matrix, matrix, int, int, int) { panic(absent) }
