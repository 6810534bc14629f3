package enginetest

import (
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
		r.perceptron(z, i, "embeddings", 0, a.Dim, func(int) bool { return true })
	case tidemill.WideDeep:
		r.linear(z, i, "wide")
		r.perceptron(z, i, "embeddings", 0, a.Dim, func(f int) bool { return !r.shape.IsCross[f] })
	case tidemill.DeepFM:
		r.linear(z, i, "factors")
		r.pairs(z, i)
		r.perceptron(z, i, "factors", k, k*a.Dim, func(int) bool { return true })
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

func (r *reference) perceptron(z []float64, i int, table string, skip, dim int, uses func(f int) bool) {
	var h []float64
	for f := range r.in.Fields {
		if !uses(f) {
			continue
		}
		sum := make([]float64, dim)
		r.occurrences(i, f, func(j int32, x float64) {
			for d := range sum {
				sum[d] += x * r.row(table, j)[skip+d]
			}
		})
		h = append(h, sum...)
	}
	for w := range r.in.Width {
		h = append(h, float64(r.in.Dense[i*r.in.Width+w]))
	}
	for _, name := range []string{"hidden1", "hidden2"} {
		y := append([]float64{}, r.tensor(name+"_bias")...)
		weights := r.tensor(name)
		for u := range y {
			for l := range h {
				y[u] += h[l] * weights[l*len(y)+u]
			}
			y[u] = max(0, y[u])
		}
		h = y
	}
	for c := range z {
		for l := range h {
			z[c] += h[l] * r.tensor("head")[l*len(z)+c]
		}
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

// total returns Σ wᵢ·lossᵢ / N.
func (r *reference) total() float64 {
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
