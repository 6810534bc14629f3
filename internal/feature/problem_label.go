package feature

import (
	"fmt"

	"github.com/tidemill/tidemill"
)

func (c *checker) label() {
	l := &c.s.Label
	var cl class
	ok := false
	if l.Column == "" {
		c.add("label.column", "name the column to predict", "the label has no column")
	} else {
		cl, ok = c.column("label.column", l.Column)
	}
	if ok && (cl == classList || cl == classOther || cl == classTime) {
		c.add("label.column", "", "column %q is %s and cannot be a label", l.Column, cl)
		ok = false
	}
	ok = ok && cl != classUnknown
	kind := l.Type
	if kind == "" {
		kind = tidemill.Binary
	}
	if kind != tidemill.Binary {
		for _, k := range []struct {
			key string
			set bool
		}{{"positive", len(l.Positive) > 0}, {"negative", len(l.Negative) > 0}, {"at_least", l.AtLeast != nil}} {
			if k.set {
				c.add("label."+k.key, "leave it out, or set type: binary", "%s has no meaning for a %s label", k.key, kind)
			}
		}
	}
	if kind != tidemill.Multiclass && len(l.Classes) > 0 {
		c.add("label.classes", "leave it out, or set type: multiclass", "classes has no meaning for a %s label", kind)
	}
	switch kind {
	case tidemill.Binary:
		if l.AtLeast != nil {
			if len(l.Positive)+len(l.Negative) > 0 {
				c.add("label.at_least", "keep one of them", "at_least and lists of values exclude each other")
			}
			if !finite(*l.AtLeast) {
				c.add("label.at_least", "", "at_least must be a finite number")
			}
			if ok && !cl.number() {
				c.add("label.at_least", "list positive values instead", "column %q is %s, at_least needs a number", l.Column, cl)
			}
		} else if ok && cl == classText && len(l.Positive)+len(l.Negative) == 0 {
			c.add("label", "add positive: [values]", "column %q is text, so the positive values must be listed", l.Column)
		}
		seen := c.labelValues("label.positive", l.Positive, cl, ok, nil)
		c.labelValues("label.negative", l.Negative, cl, ok, seen)
	case tidemill.Regression:
		if ok && !cl.number() && cl != classBool {
			c.add("label.column", "use a numeric column, or type: multiclass", "column %q is %s, regression needs a number", l.Column, cl)
		}
	case tidemill.Multiclass:
		if len(l.Classes) < 2 {
			c.add("label.classes", "list them in output order", "a multiclass label needs at least two classes")
		}
		c.labelValues("label.classes", l.Classes, cl, ok, nil)
	default:
		c.add("label.type", nearest(kind, []string{tidemill.Binary, tidemill.Regression, tidemill.Multiclass}), "unknown label type %q", kind)
	}
}

// labelValues checks a list of label values against the column's class and each other.
func (c *checker) labelValues(path string, values []string, cl class, known bool, seen map[string]bool) map[string]bool {
	if seen == nil {
		seen = make(map[string]bool, len(values))
	}
	for i, v := range values {
		at := fmt.Sprintf("%s[%d]", path, i)
		key := v
		if known {
			canon, ok := labelCanon(v, cl)
			if !ok {
				c.add(at, "", "%q can never occur in column %q, which is %s", v, c.s.Label.Column, cl)
				continue
			}
			key = canon
		}
		if seen[key] {
			c.add(at, "keep one of them", "value %q is listed twice", v)
		}
		seen[key] = true
	}
	return seen
}

// labelCanon gives equal strings to label values that a column of class cl cannot tell apart.
func labelCanon(v string, cl class) (string, bool) {
	if cl == classText {
		return v, true
	}
	n, ok := canonLabel(v, cl)
	return fmt.Sprint(n), ok
}
