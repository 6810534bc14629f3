//go:build !noasm

package kernel

func updateAt(l Level, u Update, w, s0, s1, g []float32, all *[16]float32) {
	n := len(w)
	wide := l == AVX512
	switch u {
	case SGDUpdate:
		if wide {
			sgd512(&w[0], &g[0], &all[0], n)
		} else {
			sgd256(&w[0], &g[0], &all[0], n)
		}
	case MomentumUpdate:
		if wide {
			momentum512(&w[0], &s0[0], &g[0], &all[0], n)
		} else {
			momentum256(&w[0], &s0[0], &g[0], &all[0], n)
		}
	case AdagradUpdate:
		if wide {
			adagrad512(&w[0], &s0[0], &g[0], &all[0], n)
		} else {
			adagrad256(&w[0], &s0[0], &g[0], &all[0], n)
		}
	case RMSPropUpdate:
		if wide {
			rmsprop512(&w[0], &s0[0], &g[0], &all[0], n)
		} else {
			rmsprop256(&w[0], &s0[0], &g[0], &all[0], n)
		}
	case AdamUpdate:
		if wide {
			adam512(&w[0], &s0[0], &s1[0], &g[0], &all[0], n)
		} else {
			adam256(&w[0], &s0[0], &s1[0], &g[0], &all[0], n)
		}
	case FTRLUpdate:
		if wide {
			ftrl512(&w[0], &s0[0], &s1[0], &g[0], &all[0], n)
		} else {
			ftrl256(&w[0], &s0[0], &s1[0], &g[0], &all[0], n)
		}
	}
}
