package kernel

import "fmt"

// Level is an instruction level. Its methods are the package's inner loops at that level; the
// zero Level is Generic. Bits are equal within a level, and between levels the results agree
// within the rounding of their sums: AVX2 and AVX512 fuse the multiplication with the
// addition, and Dot uses more partial sums the wider the vectors are.
type Level uint8

// Levels. A build with the tag noasm, or for another processor than amd64, has Generic alone.
const (
	Generic Level = iota // plain Go
	AVX2                 // AVX2 and FMA
	AVX512               // AVX-512 F, and BMI2
)

var levelNames = [...]string{"generic", "avx2", "avx512"}

// String is the level's name in a numeric profile.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// ParseLevel is the inverse of String; ok is false for another name.
func ParseLevel(name string) (l Level, ok bool) {
	for l, s := range levelNames {
		if s == name {
			return Level(l), true
		}
	}
	return Generic, false
}

// Best is the highest level that this machine and build have. Each level below it is there
// too.
func Best() Level { return best() }

// Levels lists the levels of this machine and build, ascending, Generic first.
func Levels() []Level {
	all := []Level{Generic}
	for l := AVX2; l <= Best(); l++ {
		all = append(all, l)
	}
	return all
}
