//go:build !noasm

package kernel

import "golang.org/x/sys/cpu"

func best() Level {
	switch {
	case !cpu.X86.HasAVX2 || !cpu.X86.HasFMA:
		return Generic
	case !cpu.X86.HasAVX512F || !cpu.X86.HasBMI2:
		return AVX2
	}
	return AVX512
}
