package bench

import "runtime/metrics"

// usage is what the process has used since it began.
type usage struct {
	cpu, gc            float64 // seconds
	mallocs, allocated uint64  // objects, bytes
}

func readUsage() usage {
	s := []metrics.Sample{
		{Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
		{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(s)
	return usage{cpuSeconds(), s[0].Value.Float64() - s[1].Value.Float64(), s[2].Value.Uint64(), s[3].Value.Uint64()}
}
