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

func (g *Gemm) multiply([]float32, matrix, matrix, int, int, int) { panic(absent) }
