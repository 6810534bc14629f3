package feature

import (
	"fmt"
	"math"

	"github.com/tidemill/tidemill"
)

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// feature checks one feature by itself and against its column, and returns its role.
func (c *checker) feature(path string, f *tidemill.FeatureSpec) role {
	if f.Cross != nil {
		c.cross(path, f)
		return roleCross
	}
	cl := classUnknown
	known := false
	if f.Column == "" {
		c.add(path+".column", "add column: or cross:", "the feature names no column")
	} else {
		cl, known = c.column(path+".column", f.Column)
		if f.Column == c.s.Label.Column {
			c.add(path+".column", "leave it out: it is not known when predicting", "column %q is the label", f.Column)
		}
	}
	r := roleOf(f, cl)
	if f.Hash != nil && f.Vocabulary != nil {
		c.add(path+".vocabulary", "keep one of them", "hash and vocabulary exclude each other")
	}
	if r == roleCategory || r == roleMulti {
		for _, t := range []struct {
			key string
			set bool
		}{
			{"impute", f.Impute != nil}, {"clip", len(f.Clip) > 0}, {"log1p", f.Log1p},
			{"standardize", f.Standardize != nil}, {"bucketize", f.Bucketize != nil},
		} {
			if t.set {
				c.add(path+"."+t.key, "keep either the numeric or the categorical transforms", "%s has no meaning for categories", t.key)
			}
		}
	}
	c.numeric(path, f)
	c.categorical(path, f, cl)
	if !known || cl == classUnknown {
		return r
	}
	switch {
	case cl == classOther:
		c.add(path+".column", "convert it when producing", "column %q has type %s, which no transform takes", f.Column, c.schema.Field(findColumn(c.schema, f.Column, 0)).Type)
	case r == roleMulti && cl != classList && cl != classText:
		c.add(path+".multi_hot", "use hash: {}", "column %q is %s, multi_hot needs a list or text", f.Column, cl)
	case r != roleMulti && cl == classList:
		c.add(path+".column", "add multi_hot: {}", "column %q is a list", f.Column)
	case (r == roleDense || r == roleBucket) && cl == classText:
		c.add(path+".column", "use hash: {} or vocabulary: {…}", "column %q is text and has no numeric transforms", f.Column)
	}
	return r
}

func (c *checker) cross(path string, f *tidemill.FeatureSpec) {
	if len(f.Cross) < 2 {
		c.add(path+".cross", "name two features or more", "a cross needs at least two features")
	}
	if len(f.Cross) > 8 {
		c.add(path+".cross", "name eight features or fewer", "a cross of %d features", len(f.Cross))
	}
	if f.Column != "" {
		c.add(path+".column", "keep one of them", "column and cross exclude each other")
	}
	if f.Impute != nil || len(f.Clip) > 0 || f.Log1p || f.Standardize != nil || f.Bucketize != nil || f.Hash != nil || f.Vocabulary != nil || f.MultiHot != nil {
		c.add(path, "transform the features that it crosses", "a cross takes no transforms of its own")
	}
	seen := map[string]bool{}
	for k, part := range f.Cross {
		if seen[part] {
			c.add(fmt.Sprintf("%s.cross[%d]", path, k), "name each once", "feature %q is crossed with itself", part)
		}
		seen[part] = true
	}
}

func (c *checker) numeric(path string, f *tidemill.FeatureSpec) {
	if f.Impute != nil && !(math.Abs(*f.Impute) <= math.MaxFloat32) {
		c.add(path+".impute", "", "impute must be a finite 32-bit number")
	}
	if f.Clip != nil {
		switch {
		case len(f.Clip) != 2:
			c.add(path+".clip", "write clip: [low, high]", "clip takes two numbers, not %d", len(f.Clip))
		case !(math.Abs(f.Clip[0]) <= math.MaxFloat32 && math.Abs(f.Clip[1]) <= math.MaxFloat32):
			c.add(path+".clip", "", "clip bounds must be finite 32-bit numbers")
		case f.Clip[0] >= f.Clip[1]:
			c.add(path+".clip", "write clip: [low, high]", "clip's low %v is not below its high %v", f.Clip[0], f.Clip[1])
		}
	}
	if f.Bucketize != nil {
		c.bucketize(path+".bucketize", f)
	}
}

func (c *checker) bucketize(path string, f *tidemill.FeatureSpec) {
	b := f.Bucketize
	set := 0
	for _, on := range []bool{b.Edges != nil, b.Geometric != nil, b.Uniform != nil, b.Quantiles != 0} {
		if on {
			set++
		}
	}
	if set != 1 {
		c.add(path, "give one of edges, geometric, uniform, quantiles", "bucketize needs exactly one way to find its edges, not %d", set)
	}
	if b.Edges != nil {
		if len(b.Edges) == 0 || len(b.Edges) > maxEdges {
			c.add(path+".edges", "", "edges needs 1 to %d numbers, not %d", maxEdges, len(b.Edges))
		}
		for i, e := range b.Edges {
			if !finite(e) {
				c.add(fmt.Sprintf("%s.edges[%d]", path, i), "", "an edge must be a finite number")
			} else if i > 0 && e <= b.Edges[i-1] {
				c.add(fmt.Sprintf("%s.edges[%d]", path, i), "list edges in increasing order", "edge %v is not above the one before, %v", e, b.Edges[i-1])
			}
		}
	}
	c.range3(path+".geometric", b.Geometric, true)
	c.range3(path+".uniform", b.Uniform, false)
	if b.Quantiles != 0 {
		if b.Quantiles < 2 || b.Quantiles > maxEdges {
			c.add(path+".quantiles", "", "quantiles must be 2 to %d buckets, not %d", maxEdges, b.Quantiles)
		}
		if f.Standardize != nil {
			c.add(path[:len(path)-len("bucketize")]+"standardize", "leave it out", "standardizing does not change quantile buckets")
		}
		if b.LearnRows < 0 || b.LearnRows > maxLearnRows {
			c.add(path+".learn_rows", "", "learn_rows must be 1 to %d, not %d", maxLearnRows, b.LearnRows)
		} else if b.LearnRows != 0 && b.LearnRows < b.Quantiles {
			c.add(path+".learn_rows", "learn from at least one row per bucket", "%d rows cannot tell %d buckets apart", b.LearnRows, b.Quantiles)
		}
	} else if b.LearnRows != 0 {
		c.add(path+".learn_rows", "leave it out, or use quantiles", "learn_rows has no meaning where edges are given")
	}
}

// range3 checks [first, last, number of edges].
func (c *checker) range3(path string, r []float64, geometric bool) {
	if r == nil {
		return
	}
	if len(r) != 3 {
		c.add(path, "write [first, last, number of edges]", "it takes three numbers, not %d", len(r))
		return
	}
	if !finite(r[0]) || !finite(r[1]) {
		c.add(path, "", "edges must be finite numbers")
		return
	}
	if geometric && r[0] <= 0 {
		c.add(path+"[0]", "use uniform or edges, or log1p before uniform", "the first of geometric edges must be above 0, not %v", r[0])
		return
	}
	if r[0] >= r[1] {
		c.add(path+"[1]", "", "last edge %v is not above the first, %v", r[1], r[0])
		return
	}
	if r[2] != math.Trunc(r[2]) || r[2] < 2 || r[2] > maxEdges {
		c.add(path+"[2]", "", "the number of edges must be a whole number from 2 to %d, not %v", maxEdges, r[2])
		return
	}
	b := tidemill.Bucketize{Uniform: r}
	if geometric {
		b = tidemill.Bucketize{Geometric: r}
	}
	edges := fixedEdges(&b)
	for i := 1; i < len(edges); i++ {
		if !(edges[i] > edges[i-1]) {
			c.add(path+"[2]", "use fewer", "%d edges between %v and %v are too close to tell apart", len(edges), r[0], r[1])
			return
		}
	}
}

func (c *checker) categorical(path string, f *tidemill.FeatureSpec, cl class) {
	if v := f.Vocabulary; v != nil {
		at := path + ".vocabulary"
		switch {
		case len(v.Values) > 0 && v.LearnRows != 0:
			c.add(at, "keep one of them", "values and learn_rows exclude each other")
		case len(v.Values) == 0 && v.LearnRows == 0:
			c.add(at, "give values: [...] or learn_rows:", "the vocabulary has no values and learns none")
		}
		if v.LearnRows < 0 || v.LearnRows > maxLearnRows {
			c.add(at+".learn_rows", "", "learn_rows must be 1 to %d, not %d", maxLearnRows, v.LearnRows)
		}
		if v.MaxSize < 0 || v.MaxSize > maxLearnRows {
			c.add(at+".max_size", "", "max_size must be 1 to %d, not %d", maxLearnRows, v.MaxSize)
		} else if v.MaxSize > 0 && v.LearnRows == 0 {
			c.add(at+".max_size", "leave it out, or use learn_rows", "max_size has no meaning where values are given")
		}
		seen := make(map[string]bool, len(v.Values))
		for i, s := range v.Values {
			if seen[s] {
				c.add(fmt.Sprintf("%s.values[%d]", at, i), "keep one of them", "value %q is listed twice", s)
			}
			seen[s] = true
			if cl.number() || cl == classBool || cl == classTime {
				if _, ok := canonLabel(s, cl); !ok {
					c.add(fmt.Sprintf("%s.values[%d]", at, i), "", "%q can never occur in column %q, which is %s", s, f.Column, cl)
				}
			}
		}
	}
	if m := f.MultiHot; m != nil && (m.Max < 0 || m.Max > maxMultiHot) {
		c.add(path+".multi_hot.max", "", "max must be 1 to %d entries, not %d", maxMultiHot, m.Max)
	}
}
