//go:build !linux

package bench

// cpuSeconds is not known here.
func cpuSeconds() float64 { return 0 }

// resetPeak does nothing here.
func resetPeak() {}

// peakRSS is not known here.
func peakRSS() int64 { return 0 }
