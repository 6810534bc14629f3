package enginetest

import (
	"fmt"
	"math"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/engine"
)

// reference computes engine.Plan's formulas in float64, naively: pairs of features one by
// one, parameters found by the names of their tables and tensors.
type reference struct {
	*subject
	in    *engine.Inputs
	look  []engine.Lookup
	rows  [][]float64
	dense [][]float64

	tables  []tidemill.TableSpec
	tensors []tidemill.TensorSpec

	dropping bool
}

func (x *subject) reference(b batch) *reference {
	r := &reference{subject: x, in: b.in, look: b.look, tables: x.m.Tables(), tensors: x.m.Tensors()}
	for _, v := range b.p.Rows {
		r.rows = append(r.rows, widen(v))
	}
	for _, v := range b.p.Dense {
		r.dense = append(r.dense, widen(v))
	}
	return r
}

func widen(s []float32) []float64 {
	w := make([]float64, len(s))
	for i, v := range s {
		w[i] = float64(v)
	}
	return w
}

// row returns the row of the named table that occurrence j uses.
func (r *reference) row(table string, j int32) []float64 {
	for t := range r.tables {
		if spec := &r.tables[t]; spec.Name == table {
			at := int(r.look[t].Index[j])
			return r.rows[t][at*spec.Dim : (at+1)*spec.Dim]
		}
	}
	panic("no table " + table)
}

// tensor returns the named tensor.
func (r *reference) tensor(name string) []float64 {
	for k := range r.tensors {
		if r.tensors[k].Name == name {
			return r.dense[k]
		}
	}
	panic("no tensor " + name)
}

// feature is one input of the factorisation machine: its value, factors [K × Dim].
type feature struct {
	x float64
	v []float64
}

// scores returns z of example i.
func (r *reference) scores(i int) []float64 {
	k := r.m.Outputs()
	z := append([]float64{}, r.tensor("bias")...)
	switch a := r.spec.Architecture; a.Kind {
	case tidemill.Linear, tidemill.Logistic, tidemill.Softmax:
		r.linear(z, i, "weights")
	case tidemill.FM:
		r.linear(z, i, "factors")
		r.pairs(z, i)
	case tidemill.MLP:
		r.perceptron(z, i, r.embedded(i, "embeddings", 0, a.Dim, func(int) bool { return true }))
	case tidemill.WideDeep:
		r.linear(z, i, "wide")
		r.perceptron(z, i, r.embedded(i, "embeddings", 0, a.Dim, func(f int) bool { return !r.shape.IsCross[f] }))
	case tidemill.DeepFM:
		r.linear(z, i, "factors")
		r.pairs(z, i)
		r.perceptron(z, i, r.embedded(i, "factors", k, k*a.Dim, func(int) bool { return true }))
	case tidemill.DLRM:
		r.perceptron(z, i, r.interactions(i))
	case tidemill.DCN:
		x := r.embedded(i, "embeddings", 0, a.Dim, func(int) bool { return true })
		r.perceptron(z, i, x)
		r.crossed(z, x)
	}
	return z
}

// occurrences calls f for each id of field of example i.
func (r *reference) occurrences(i, field int, f func(j int32, x float64)) {
	at := i*r.in.Fields + field
	for j := r.in.Offsets[at]; j < r.in.Offsets[at+1]; j++ {
		x := 1.0
		if len(r.in.Values) > 0 {
			x = float64(r.in.Values[j])
		}
		f(j, x)
	}
}

func (r *reference) linear(z []float64, i int, table string) {
	for f := range r.in.Fields {
		r.occurrences(i, f, func(j int32, x float64) {
			for c := range z {
				z[c] += x * r.row(table, j)[c]
			}
		})
	}
	for w := range r.in.Width {
		for c := range z {
			z[c] += float64(r.in.Dense[i*r.in.Width+w]) * r.tensor("dense")[w*len(z)+c]
		}
	}
}

func (r *reference) pairs(z []float64, i int) {
	k, dim := len(z), r.spec.Architecture.Dim
	var all []feature
	for f := range r.in.Fields {
		r.occurrences(i, f, func(j int32, x float64) {
			all = append(all, feature{x, r.row("factors", j)[k:]})
		})
	}
	for w := range r.in.Width {
		all = append(all, feature{float64(r.in.Dense[i*r.in.Width+w]), r.tensor("dense_factors")[w*k*dim : (w+1)*k*dim]})
	}
	for a := range all {
		for b := range a {
			for c := range k {
				for f := c * dim; f < (c+1)*dim; f++ {
					z[c] += all[a].x * all[b].x * all[a].v[f] * all[b].v[f]
				}
			}
		}
	}
}

// sum returns Σⱼ xⱼ·r[skip:skip+dim] of a field.
func (r *reference) sum(i, f int, table string, skip, dim int) []float64 {
	sum := make([]float64, dim)
	r.occurrences(i, f, func(j int32, x float64) {
		for d := range sum {
			sum[d] += x * r.row(table, j)[skip+d]
		}
	})
	return sum
}

// numbers returns the dense numbers of example i.
func (r *reference) numbers(i int) []float64 {
	return widen(r.in.Dense[i*r.in.Width : (i+1)*r.in.Width])
}

// embedded returns the input of a perceptron over embeddings and numbers.
func (r *reference) embedded(i int, table string, skip, dim int, uses func(f int) bool) []float64 {
	var h []float64
	for f := range r.in.Fields {
		if uses(f) {
			h = append(h, r.sum(i, f, table, skip, dim)...)
		}
	}
	return append(h, r.numbers(i)...)
}

// times returns h·W + b of the named tensors; an empty bias is none.
func (r *reference) times(h []float64, weight, bias string) []float64 {
	w := r.tensor(weight)
	y := make([]float64, len(w)/len(h))
	if bias != "" {
		copy(y, r.tensor(bias))
	}
	for u := range y {
		for l := range h {
			y[u] += h[l] * w[l*len(y)+u]
		}
	}
	return y
}

// interactions returns the input of DLRM's top layers.
func (r *reference) interactions(i int) []float64 {
	var vectors [][]float64
	var h []float64
	if r.in.Width > 0 {
		v := r.numbers(i)
		for n := range len(r.spec.Architecture.Bottom) + 1 {
			name := fmt.Sprintf("bottom%d", n+1)
			v = r.times(v, name, name+"_bias")
			for u := range v {
				v[u] = max(0, v[u])
			}
		}
		vectors, h = append(vectors, v), append(h, v...)
	}
	for f := range r.in.Fields {
		vectors = append(vectors, r.sum(i, f, "embeddings", 0, r.spec.Architecture.Dim))
	}
	for b := range vectors {
		for a := range b {
			var dot float64
			for d := range vectors[a] {
				dot += vectors[a][d] * vectors[b][d]
			}
			h = append(h, dot)
		}
	}
	return h
}

// crossed adds DCN's cross layers over x0.
func (r *reference) crossed(z, x0 []float64) {
	x := x0
	for l := range r.spec.Architecture.CrossLayers {
		name := fmt.Sprintf("cross%d", l+1)
		var t []float64
		if r.spec.Architecture.Rank == 0 {
			t = r.times(x, name, name+"_bias")
		} else {
			t = r.times(r.times(x, name+"_left", ""), name+"_right", name+"_bias")
		}
		next := make([]float64, len(x))
		for i := range next {
			next[i] = x0[i]*t[i] + x[i]
		}
		x = next
	}
	for c, v := range r.times(x, "cross_head", "") {
		z[c] += v
	}
}

func (r *reference) perceptron(z []float64, i int, h []float64) {
	a := &r.spec.Architecture
	for layer := range a.Hidden {
		name := fmt.Sprintf("hidden%d", layer+1)
		y := r.times(h, name, name+"_bias")
		if a.LayerNorm {
			var mean, variance float64
			for _, v := range y {
				mean += v / float64(len(y))
			}
			for _, v := range y {
				variance += (v - mean) * (v - mean) / float64(len(y))
			}
			for u, v := range y {
				y[u] = r.tensor(name + "_gain")[u]*(v-mean)/math.Sqrt(variance+engine.NormEpsilon) + r.tensor(name + "_shift")[u]
			}
		}
		for u := range y {
			y[u] = max(0, y[u])
			if r.dropping && a.Dropout > 0 {
				if !engine.Keep(r.in.Keys[i], layer, u, float32(a.Dropout)) {
					y[u] = 0
				}
				y[u] /= 1 - a.Dropout
			}
		}
		h = y
	}
	for c, v := range r.times(h, "head", "") {
		z[c] += v
	}
}

// example returns the predictions and the loss of example i.
func (r *reference) example(i int) (pred []float64, loss float64) {
	z := r.scores(i)
	y := float64(r.in.Labels[i])
	switch r.spec.Architecture.Loss {
	case engine.LossLogistic:
		p := 1 / (1 + math.Exp(-z[0]))
		return []float64{p}, -y*math.Log(p) - (1-y)*math.Log(1-p)
	case engine.LossSquared:
		return z, (z[0] - y) * (z[0] - y) / 2
	case engine.LossHuber:
		delta := float64(float32(r.spec.Architecture.HuberDelta))
		d := math.Abs(z[0] - y)
		if d <= delta {
			return z, d * d / 2
		}
		return z, delta * (d - delta/2)
	default:
		var sum float64
		for _, v := range z {
			sum += math.Exp(v)
		}
		for _, v := range z {
			pred = append(pred, math.Exp(v)/sum)
		}
		return pred, -math.Log(pred[int(y)])
	}
}

// total returns Σ wᵢ·lossᵢ / N as it is in training.
func (r *reference) total() float64 {
	r.dropping = true
	defer func() { r.dropping = false }()
	var sum float64
	for i := range r.in.N {
		_, loss := r.example(i)
		w := 1.0
		if len(r.in.Weights) > 0 {
			w = float64(r.in.Weights[i])
		}
		sum += w * loss
	}
	return sum / float64(r.in.N)
}

// gradient returns the derivatives of total by values, by central differences.
func (r *reference) gradient(values []float64) []float64 {
	const h = 1e-6
	g := make([]float64, len(values))
	for i, v := range values {
		values[i] = v + h
		up := r.total()
		values[i] = v - h
		g[i] = (up - r.total()) / (2 * h)
		values[i] = v
	}
	return g
}
