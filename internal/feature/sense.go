package feature

import (
	"fmt"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"

	"github.com/tidemill/tidemill"
)

// Sense is what a feature's ids or its number mean, written for people and for comparison: of
// two specs that say the same of a feature, one can use what was trained with the other.
type Sense struct {
	Name string `json:"name"`
	// Dense: the feature is one dense number; else its ids key the tables.
	Dense bool `json:"dense,omitempty"`
	// Means decides which id or number a value becomes: where one clause differs, an id of
	// the one spec stands for something else in the other.
	Means []string `json:"means"`
	// Merges decides which values share an id, or are left out; where it differs every id that
	// both use still stands for the same value.
	Merges string `json:"merges,omitempty"`
	// Learns is what the feature learns from rows, with its parameters; "" if nothing.
	Learns string `json:"learns,omitempty"`
}

// Differs returns how b differs from a in what ids or numbers mean, "" if it does not.
func (a Sense) Differs(b Sense) string {
	if a.Dense != b.Dense {
		if a.Dense {
			return "it was a dense number and becomes categories"
		}
		return "it was categories and becomes a dense number"
	}
	var was, is []string
	for _, m := range a.Means {
		if !slices.Contains(b.Means, m) {
			was = append(was, m)
		}
	}
	for _, m := range b.Means {
		if !slices.Contains(a.Means, m) {
			is = append(is, m)
		}
	}
	list := func(s []string) string {
		if len(s) == 0 {
			return "nothing of the kind"
		}
		return strings.Join(s, ", ")
	}
	if len(was)+len(is) == 0 {
		if !slices.Equal(a.Means, b.Means) {
			return "its parts come in another order"
		}
		return ""
	}
	return fmt.Sprintf("%s before, %s now", list(was), list(is))
}

// Senses returns the sense of every feature of s, in the order of s, for a topic of the given
// schema. It returns what Compile returns for a spec that does not fit.
func Senses(s *tidemill.Spec, schema *arrow.Schema) ([]Sense, error) {
	p, err := Compile(s, schema)
	if err != nil {
		return nil, err
	}
	var out []Sense
	for i := range s.Features {
		f := s.Features[i]
		f.Bucketize, f.Vocabulary, f.MultiHot = clone(f.Bucketize), clone(f.Vocabulary), clone(f.MultiHot)
		Defaults(&f)
		if len(f.Cross) > 0 {
			out = append(out, Sense{Name: f.Name, Means: []string{"cross of " + strings.Join(f.Cross, " and ")}})
			continue
		}
		c := classOf(schema.Field(findColumn(schema, f.Column, 0)).Type)
		out = append(out, senseOf(&f, c, p.denseName(f.Name)))
	}
	return out, nil
}

// DenseNames returns the names of the dense numbers, in the order of Inputs.Dense.
func (p *Plan) DenseNames() []string { return slices.Clone(p.denseNames) }

func (p *Plan) denseName(name string) bool { return slices.Contains(p.denseNames, name) }

// classNames are what is written of a column's type. Whole and other numbers of equal value
// have equal ids.
var classNames = map[class]string{
	classInt: "numbers", classFloat: "numbers", classBool: "booleans", classTime: "times", classText: "text", classList: "lists",
}

// senseOf is the sense of a feature that reads a column of class c.
func senseOf(f *tidemill.FeatureSpec, c class, dense bool) Sense {
	s := Sense{Name: f.Name, Dense: dense, Means: []string{fmt.Sprintf("column %s of %s", f.Column, classNames[c])}}
	add := func(format string, args ...any) { s.Means = append(s.Means, fmt.Sprintf(format, args...)) }
	if dense || f.Bucketize != nil {
		impute := 0.0
		if f.Impute != nil {
			impute = *f.Impute
		}
		switch {
		case f.Impute != nil, f.Bucketize == nil && f.Standardize == nil:
			add("impute: %v", impute)
		}
		if len(f.Clip) == 2 {
			add("clip: [%v, %v]", f.Clip[0], f.Clip[1])
		}
		if f.Log1p {
			add("log1p")
		}
		if f.Standardize != nil {
			add("standardize")
			s.Learns = "moments"
		}
	}
	switch b := f.Bucketize; {
	case b == nil:
	case b.Quantiles > 0:
		// Learned edges are part of the ids: those of other edges are other ids.
		add("learned buckets")
		s.Learns = strings.TrimPrefix(s.Learns+" and ", " and ") + fmt.Sprintf("%d quantiles of %d rows", b.Quantiles, b.LearnRows)
	default:
		edges := fixedEdges(b)
		add("%d bucket edges from %v to %v (%08x)", len(edges), edges[0], edges[len(edges)-1], uint32(hashEdges(edges)))
	}
	if dense || f.Bucketize != nil {
		return s
	}
	if f.Hash != nil && f.Hash.Buckets > 0 {
		add("hash into %d buckets", f.Hash.Buckets)
	}
	if v := f.Vocabulary; v != nil && v.LearnRows > 0 {
		s.Learns = fmt.Sprintf("a vocabulary of %d from %d rows", v.MaxSize, v.LearnRows)
	} else if v != nil {
		s.Merges = fmt.Sprintf("a vocabulary of %d values (%08x)", len(v.Values), uint32(xxh3.HashString(strings.Join(v.Values, "\x00"))))
	}
	if m := f.MultiHot; m != nil {
		add("several values a row")
		s.Merges = strings.TrimPrefix(s.Merges+", ", ", ") + fmt.Sprintf("split at %q, at most %d", m.Separator, m.Max)
	}
	return s
}

// CarryState returns the state of p's transforms with everything that was learned in from by
// features for which same returns true, which must mean what they meant, parameters of the
// learning included; the rest is as new. It returns the names of the features whose learned
// state came along, in p's order. from is not changed and shares nothing with the result.
func (p *Plan) CarryState(from *State, same func(name string) bool) (*State, []string, error) {
	if from.partial {
		return nil, nil, tidemill.Invalid("a transform state without samples cannot be carried over", "carry the state of its home")
	}
	to, old := p.NewState(), from.plan
	var names []string
	carried := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for i, name := range p.standardizedNames {
		if k := slices.Index(old.standardizedNames, name); k >= 0 && same(name) {
			to.moments[i] = from.moments[k]
			carried(name)
		}
	}
	for i := range p.quantiles {
		name := p.fields[p.quantiles[i].field].name
		for k := range old.quantiles {
			if old.fields[old.quantiles[k].field].name != name || !same(name) {
				continue
			}
			if q := &from.quantiles[k]; q.frozen {
				to.setEdges(i, slices.Clone(q.edges))
			} else {
				to.quantiles[i].samples = slices.Clone(q.samples)
			}
			carried(name)
		}
	}
	for i := range p.vocabs {
		name := p.fields[p.vocabs[i].field].name
		for k := range old.vocabs {
			if old.fields[old.vocabs[k].field].name != name || !same(name) {
				continue
			}
			if v := &from.vocabs[k]; v.frozen {
				to.setVocab(i, slices.Clone(v.known))
			} else {
				to.vocabs[i].rows = v.rows
				to.vocabs[i].counts = make(map[uint64]uint64, len(v.counts))
				for id, n := range v.counts {
					to.vocabs[i].counts[id] = n
				}
			}
			carried(name)
		}
	}
	return to, names, nil
}
