package spec

import (
	"errors"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

// Document is a spec with where each of its parts stands in the file.
type Document struct {
	Spec   *tidemill.Spec // checked, with all defaults filled in
	File   string
	places map[string]tidemill.Place
}

// maxBytes bounds a spec file; a vocabulary of ten thousand words stays far below.
const maxBytes = 1 << 20

// Parse reads one YAML document. The error joins one *tidemill.InputError per problem, in the
// order of the file; each wraps tidemill.ErrInvalid. file only names the place of problems.
func Parse(data []byte, file string) (*Document, error) {
	if len(data) > maxBytes {
		return nil, &tidemill.InputError{Place: tidemill.Place{File: file}, What: "the spec is larger than 1 MiB", Remedy: "learn long vocabularies with learn_rows"}
	}
	root, err := parseYAML(data, file)
	if err != nil {
		return nil, err
	}
	doc := &Document{Spec: &tidemill.Spec{}, File: file, places: map[string]tidemill.Place{"": {File: file, Line: 1, Column: 1}}}
	d := decoder{doc: doc}
	d.spec(root)
	problems := zeros(doc)
	Defaults(doc.Spec)
	problems = append(problems, check(doc.Spec, nil)...)
	for _, p := range problems {
		if !d.failedAt(p.Path) {
			d.errs = append(d.errs, doc.locate(p))
		}
	}
	if len(d.errs) > 0 {
		return nil, joined(d.errs)
	}
	return doc, nil
}

// Check checks the spec against the schema of its topic: that the columns exist and have
// types that their transforms can take. The error is like Parse's.
func (d *Document) Check(schema *arrow.Schema) error {
	var errs []*tidemill.InputError
	for _, p := range check(d.Spec, schema) {
		errs = append(errs, d.locate(p))
	}
	return joined(errs)
}

// Place returns where the part of the spec at path stands, e.g. "features[2].clip". For a
// part that the file leaves out it is the place of the nearest part around it.
func (d *Document) Place(path string) tidemill.Place {
	for {
		if at, ok := d.places[path]; ok {
			return at
		}
		path = parent(path)
	}
}

// Says reports whether the file itself has a part at path; defaults are not in the file.
func (d *Document) Says(path string) bool {
	_, ok := d.places[path]
	return ok
}

// parent cuts the last key or index off path.
func parent(path string) string {
	return path[:max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '['), 0)]
}

func (d *Document) locate(p problem) *tidemill.InputError {
	return &tidemill.InputError{Place: d.Place(p.Path), What: p.What, Remedy: p.Remedy}
}

// Check checks a spec that has no file, with or without (nil) the schema of its topic. Zero
// fields stand for their defaults; s is not changed. The error joins one
// *tidemill.InputError per problem, which names the part of the spec.
func Check(s *tidemill.Spec, schema *arrow.Schema) error {
	s = clone(s)
	Defaults(s)
	var errs []*tidemill.InputError
	for _, p := range check(s, schema) {
		errs = append(errs, &tidemill.InputError{What: p.Path + ": " + p.What, Remedy: p.Remedy})
	}
	return joined(errs)
}

// joined returns errs in the order of their places as one error, or nil.
func joined(errs []*tidemill.InputError) error {
	slices.SortStableFunc(errs, func(a, b *tidemill.InputError) int {
		if a.Place.Line != b.Place.Line {
			return a.Place.Line - b.Place.Line
		}
		return a.Place.Column - b.Place.Column
	})
	list := make([]error, len(errs))
	for i, e := range errs {
		list[i] = e
	}
	return errors.Join(list...)
}
