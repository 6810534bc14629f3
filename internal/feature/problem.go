package feature

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

// Limits of a spec's features.
const (
	maxLearnRows = 1 << 20 // values buffered while edges or a vocabulary are learned
	maxMultiHot  = 1024    // entries of a row; distinct ones are found by scanning
	maxName      = 128
)

// Problem is one thing wrong with a spec's features, label, weight or time.
type Problem struct {
	// Path is where in the spec, e.g. "features[2].clip". The field need not be present.
	Path   string
	What   string // one clause
	Remedy string // may be empty
}

// Defaults fills in what f leaves out: its name and the parameters of its transforms.
func Defaults(f *tidemill.FeatureSpec) {
	if f.Name == "" {
		f.Name = f.Column
		if len(f.Cross) > 0 {
			f.Name = strings.Join(f.Cross, "_x_")
		}
	}
	if b := f.Bucketize; b != nil && b.Quantiles != 0 && b.LearnRows == 0 {
		b.LearnRows = 1000
	}
	if v := f.Vocabulary; v != nil && v.LearnRows != 0 && v.MaxSize == 0 {
		v.MaxSize = 10_000
	}
	if m := f.MultiHot; m != nil {
		if m.Separator == "" {
			m.Separator = " "
		}
		if m.Max == 0 {
			m.Max = 64
		}
	}
}

// role is what a feature becomes.
type role uint8

const (
	roleUnknown  role = iota // needs the schema to tell
	roleDense                // a dense number
	roleBucket               // a bucketized number
	roleCategory             // one category
	roleMulti                // several categories
	roleCross
)

func roleOf(f *tidemill.FeatureSpec, c class) role {
	switch {
	case len(f.Cross) > 0:
		return roleCross
	case f.MultiHot != nil:
		return roleMulti
	case f.Hash != nil || f.Vocabulary != nil:
		return roleCategory
	case f.Bucketize != nil:
		return roleBucket
	case f.Impute != nil || len(f.Clip) > 0 || f.Log1p || f.Standardize != nil:
		return roleDense
	case c == classUnknown:
		return roleUnknown
	case c == classText:
		return roleCategory
	}
	return roleDense
}

// Problems returns everything wrong with the features, label, weight and time of s. With a
// schema it also checks that the columns exist and have types that the transforms can take;
// without one (nil) only what the spec says by itself. It fills in no defaults and changes
// nothing.
func Problems(s *tidemill.Spec, schema *arrow.Schema) []Problem {
	c := checker{s: s, schema: schema}
	c.label()
	if s.Weight != "" {
		if cl, ok := c.column("weight", s.Weight); ok && cl != classUnknown && !cl.number() {
			c.add("weight", "", "column %q is %s and cannot be a weight", s.Weight, cl)
		}
	}
	if s.Time.Column != "" {
		if cl, ok := c.column("time.column", s.Time.Column); ok && cl != classUnknown && cl != classTime && cl != classInt && cl != classText {
			c.add("time.column", "use a timestamp, a date, whole Unix milliseconds or RFC 3339 text", "column %q is %s and cannot be a time", s.Time.Column, cl)
		}
	}
	c.features()
	return c.problems
}

type checker struct {
	s        *tidemill.Spec
	schema   *arrow.Schema
	problems []Problem
}

func (c *checker) add(path, remedy, what string, args ...any) {
	c.problems = append(c.problems, Problem{Path: path, What: fmt.Sprintf(what, args...), Remedy: remedy})
}

// column returns the class of the named column; ok is false where it does not exist.
func (c *checker) column(path, name string) (cl class, ok bool) {
	if c.schema == nil {
		return classUnknown, true
	}
	i := findColumn(c.schema, name, 0)
	if i >= 0 {
		return classOf(c.schema.Field(i).Type), true
	}
	names := make([]string, c.schema.NumFields())
	for i := range names {
		names[i] = c.schema.Field(i).Name
	}
	c.add(path, nearest(name, names), "topic %q has no column %q", c.s.Stream.Topic, name)
	return classUnknown, false
}

// nearest is the remedy for a name that does not exist.
func nearest(name string, valid []string) string {
	if n := tidemill.Nearest(name, valid); n != "" {
		return fmt.Sprintf("did you mean %q?", n)
	}
	const most = 12
	if len(valid) == 0 {
		return ""
	}
	if len(valid) > most {
		return fmt.Sprintf("there are %s and %d more", strings.Join(valid[:most], ", "), len(valid)-most)
	}
	return "there are " + strings.Join(valid, ", ")
}

func (c *checker) features() {
	s := c.s
	if len(s.Features) == 0 {
		c.add("features", "list at least one, e.g. - {column: price}", "the job has no features")
	}
	roles := make(map[string]role, len(s.Features))
	first := make(map[string]int, len(s.Features))
	names := make([]string, 0, len(s.Features))
	for i := range s.Features {
		f := s.Features[i]
		path := fmt.Sprintf("features[%d]", i)
		named := tidemill.FeatureSpec{Name: f.Name, Column: f.Column, Cross: f.Cross}
		Defaults(&named)
		name := named.Name
		r := c.feature(path, &f)
		if name == "" || len(f.Cross) == 1 {
			continue // reported already, and it names nothing
		}
		if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) {
			c.add(path+".name", fmt.Sprintf("use at most %d bytes of plain text", maxName), "invalid feature name %q", name)
		}
		if j, dup := first[name]; dup {
			c.add(path+".name", "give one of them a name: of its own", "feature %q is there already, as features[%d]", name, j)
			continue
		}
		first[name], roles[name] = i, r
		names = append(names, name)
	}
	for i := range s.Features {
		f := &s.Features[i]
		for k, part := range f.Cross {
			at := fmt.Sprintf("features[%d].cross[%d]", i, k)
			r, ok := roles[part]
			switch {
			case !ok:
				c.add(at, nearest(part, names), "cross of unknown feature %q", part)
			case r == roleCross:
				c.add(at, "name the features that it crosses", "feature %q is a cross itself", part)
			case r == roleDense:
				c.add(at, "bucketize or hash it", "feature %q is a plain number and cannot be crossed", part)
			}
		}
	}
}
