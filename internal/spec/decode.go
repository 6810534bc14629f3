package spec

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/tidemill/tidemill"
)

// decoder fills a Spec from nodes by its yaml tags, notes the place of everything, and
// carries on after problems.
type decoder struct {
	doc     *Document
	errs    []*tidemill.InputError
	failed  []string // paths whose value could not be read
	anchors map[string]ast.Node
	nodes   int
}

var (
	typeDuration  = reflect.TypeFor[time.Duration]()
	typeInterval  = reflect.TypeFor[tidemill.Interval]()
	typeBudget    = reflect.TypeFor[tidemill.BadBudget]()
	typeOptimizer = reflect.TypeFor[tidemill.OptimizerChoice]()
	typeTables    = reflect.TypeFor[map[string]tidemill.OptimizerChoice]()
	typeChoices   = reflect.TypeFor[map[string]tidemill.TableChoice]()
	typeGate      = reflect.TypeFor[tidemill.GateSpec]()
)

func (d *decoder) spec(root ast.Node) {
	if isNull(root) {
		d.fail("", d.doc.Place(""), "the file is empty", "start with model: NAME")
		return
	}
	d.value("", root, reflect.ValueOf(d.doc.Spec).Elem())
}

// fail reports a problem and keeps checks of path quiet from now on.
func (d *decoder) fail(path string, at tidemill.Place, what, remedy string) {
	d.errs = append(d.errs, &tidemill.InputError{Place: at, What: what, Remedy: remedy})
	d.failed = append(d.failed, path)
}

// failedAt reports whether path, a part of it or something around it could not be read, so
// that a further problem there would only be noise.
func (d *decoder) failedAt(path string) bool {
	for _, f := range d.failed {
		if inside(path, f) || inside(f, path) {
			return true
		}
	}
	return false
}

// inside reports whether path is outer or a part of it.
func inside(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || outer == "" || rest[0] == '.' || rest[0] == '[')
}

func (d *decoder) place(n ast.Node) tidemill.Place { return placeOf(n.GetToken(), d.doc.File) }

// wrong reports a value of the wrong type.
func (d *decoder) wrong(path string, n ast.Node, want, remedy string) {
	d.fail(path, d.doc.Place(path), fmt.Sprintf("%s must be %s, not %s", label(path), want, kindOf(n)), remedy)
}

// label names a path in a message.
func label(path string) string {
	if path == "" {
		return "the spec"
	}
	return path
}

// resolve follows anchors, aliases and tags. ok is false when it reported a problem.
func (d *decoder) resolve(path string, n ast.Node) (out ast.Node, ok bool) {
	for range maxDepth {
		switch t := n.(type) {
		case *ast.AnchorNode:
			if d.anchors == nil {
				d.anchors = make(map[string]ast.Node)
			}
			if s, named := scalarOf(t.Name); named {
				d.anchors[s.text] = t.Value
			}
			n = t.Value
		case *ast.AliasNode:
			s, _ := scalarOf(t.Value)
			target, known := d.anchors[s.text]
			if !known {
				d.fail(path, d.place(t), fmt.Sprintf("unknown alias *%s", s.text), "define the anchor above it")
				return nil, false
			}
			n = target
		case *ast.TagNode:
			n = t.Value
		default:
			return n, true
		}
	}
	d.fail(path, d.doc.Place(path), "aliases of aliases without end", "")
	return nil, false
}

// value reads n into v. The caller has noted the place of path.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if d.nodes++; d.nodes > maxNodes || strings.Count(path, ".")+strings.Count(path, "[") > maxDepth {
		if d.nodes == maxNodes+1 {
			d.fail("", d.doc.Place(path), "aliases expand without end", "")
		}
		return
	}
	n, ok := d.resolve(path, n)
	if !ok {
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		if v = v.Elem(); isNull(n) && v.Kind() == reflect.Struct {
			return // "standardize:" is as good as "standardize: {}"
		}
	}
	if isNull(n) {
		d.fail(path, d.doc.Place(path), label(path)+" has no value", "give one, or leave the key out")
		return
	}
	switch {
	case v.Type() == typeDuration:
		d.duration(path, n, v)
	case v.Type() == typeInterval:
		d.interval(path, n, v.Addr().Interface().(*tidemill.Interval))
	case v.Type() == typeBudget:
		d.budget(path, n, v.Addr().Interface().(*tidemill.BadBudget))
	case v.Type() == typeOptimizer:
		d.optimizer(path, n, v.Addr().Interface().(*tidemill.OptimizerChoice))
	case v.Type() == typeTables:
		d.tables(path, n, v.Addr().Interface().(*map[string]tidemill.OptimizerChoice))
	case v.Type() == typeChoices:
		d.choices(path, n, v.Addr().Interface().(*map[string]tidemill.TableChoice))
	case v.Kind() == reflect.Struct:
		d.mapping(path, n, v, nil)
		if v.Type() == typeGate {
			onOff(v.Addr().Interface().(*tidemill.GateSpec))
		}
	case v.Kind() == reflect.Slice:
		d.list(path, n, v)
	default:
		d.scalar(path, n, v)
	}
}

// onOff accepts what YAML 1.1 makes of a bare on or off.
func onOff(g *tidemill.GateSpec) {
	switch g.Mode {
	case "true":
		g.Mode = tidemill.GateOn
	case "false":
		g.Mode = tidemill.GateOff
	}
}

// key returns the YAML key of a struct field, or "" where the file cannot set it.
func key(f reflect.StructField) string {
	k := f.Tag.Get("yaml")
	if k == "-" && f.Type == typeInterval {
		return strings.ToLower(f.Name)
	}
	if k == "-" {
		return ""
	}
	return k
}

// mapping reads a mapping into the struct v; only, where not nil, are the keys allowed.
func (d *decoder) mapping(path string, n ast.Node, v reflect.Value, only []string) {
	pairs, ok := entries(n)
	if !ok {
		d.wrong(path, n, "a mapping", "write keys and values")
		return
	}
	fields := make(map[string]int)
	var keys []string
	for i := range v.NumField() {
		if k := key(v.Type().Field(i)); k != "" {
			fields[k] = i
			if only == nil {
				keys = append(keys, k)
			}
		}
	}
	if only != nil {
		keys = only
	}
	d.pairs(path, pairs, keys, func(k, at string, n ast.Node) { d.value(at, n, v.Field(fields[k])) })
}

// pairs calls read for each pair whose key is allowed (keys nil: any), after noting its place, and reports
// the others. A key that occurs twice was refused by the parser.
func (d *decoder) pairs(path string, pairs []*ast.MappingValueNode, keys []string, read func(k, path string, n ast.Node)) {
	for _, pair := range pairs {
		s, ok := scalarOf(pair.Key)
		if !ok {
			what := "a key must be a plain word"
			if pair.Key.IsMergeKey() {
				what = "merge keys (<<) are not supported"
			}
			d.fail(path+".?", d.place(pair.Key), what, "write the keys out")
			continue
		}
		at := s.text
		if path != "" {
			at = path + "." + s.text
		}
		known := keys == nil
		for _, k := range keys {
			known = known || k == s.text
		}
		if !known {
			remedy, instead := suggest(s.text, keys), at
			if near := tidemill.Nearest(s.text, keys); near != "" {
				// Whatever this key was meant to be is not missing as well.
				instead = strings.TrimSuffix(at, s.text) + near
			}
			where := ""
			if path != "" {
				where = " in " + path
			}
			d.fail(instead, d.place(pair.Key), fmt.Sprintf("unknown key %q%s", s.text, where), remedy)
			continue
		}
		d.doc.places[at] = d.valuePlace(pair)
		read(s.text, at, pair.Value)
	}
}

// valuePlace is where a problem with a pair's value is shown: the value when it stands on the
// key's line, else the key.
func (d *decoder) valuePlace(pair *ast.MappingValueNode) tidemill.Place {
	at := d.place(pair.Key)
	if isNull(pair.Value) {
		return at
	}
	if v := d.place(pair.Value); v.Line == at.Line {
		switch pair.Value.(type) {
		case *ast.MappingValueNode: // its token is the colon
		default:
			return v
		}
	}
	return at
}

func (d *decoder) list(path string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	elem := v.Type().Elem()
	if !ok {
		if _, isScalar := scalarOf(n); isScalar && elem.Kind() == reflect.String {
			item := reflect.New(elem).Elem()
			d.scalar(path, n, item)
			v.Set(reflect.Append(v, item))
			return
		}
		d.wrong(path, n, "a list", "write [a, b]")
		return
	}
	// Not nil even when empty: an empty list is not the same as no list.
	v.Set(reflect.MakeSlice(v.Type(), 0, min(len(seq.Values), 1024)))
	for i, item := range seq.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.doc.places[at] = d.itemPlace(path, item)
		e := reflect.New(elem).Elem()
		d.value(at, item, e)
		v.Set(reflect.Append(v, e))
		if d.nodes > maxNodes {
			return
		}
	}
}

// itemPlace is the place of a list's item; of a mapping, that of its first key.
func (d *decoder) itemPlace(path string, item ast.Node) tidemill.Place {
	if item == nil {
		return d.doc.Place(path)
	}
	if pairs, ok := entries(item); ok && len(pairs) > 0 {
		return d.place(pairs[0].Key)
	}
	return d.place(item)
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	s, ok := scalarOf(n)
	want := map[reflect.Kind]string{
		reflect.String: "text", reflect.Bool: "true or false", reflect.Float64: "a number",
		reflect.Int: "a whole number", reflect.Int64: "a whole number", reflect.Uint64: "a whole number ≥ 0",
	}[v.Kind()]
	if !ok {
		d.wrong(path, n, want, "")
		return
	}
	remedy := ""
	if !s.plain && v.Kind() != reflect.String {
		d.wrong(path, n, want, "write it without quotes")
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s.text)
		return
	case reflect.Bool:
		switch strings.ToLower(s.text) {
		case "true", "yes", "on":
			v.SetBool(true)
			return
		case "false", "no", "off":
			v.SetBool(false)
			return
		}
	case reflect.Float64:
		if f, ok := number(s.text); ok {
			v.SetFloat(f)
			return
		}
	case reflect.Int, reflect.Int64:
		if i, ok := whole(s.text); ok {
			v.SetInt(i)
			return
		}
	case reflect.Uint64:
		if u, err := strconv.ParseUint(digits(s.text), 10, 64); err == nil {
			v.SetUint(u)
			return
		}
		if i, ok := whole(s.text); ok && i >= 0 {
			v.SetUint(uint64(i))
			return
		}
	}
	d.wrong(path, n, want, remedy)
}

func digits(s string) string { return strings.ReplaceAll(s, "_", "") }

// number reads a finite decimal number.
func number(s string) (float64, bool) {
	f, err := strconv.ParseFloat(digits(s), 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

// whole reads a whole number, also one written as 1e6.
func whole(s string) (int64, bool) {
	if i, err := strconv.ParseInt(digits(s), 10, 64); err == nil {
		return i, true
	}
	f, ok := number(s)
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

func (d *decoder) duration(path string, n ast.Node, v reflect.Value) {
	const want, remedy = "a duration", "write a number with its unit: 200ms, 5s, 1m30s, 2h"
	s, ok := scalarOf(n)
	if !ok {
		d.wrong(path, n, want, remedy)
		return
	}
	t, err := time.ParseDuration(s.text)
	if err != nil {
		d.wrong(path, n, want, remedy)
		return
	}
	v.SetInt(int64(t))
}

var rowsPattern = regexp.MustCompile(`^([0-9][0-9_]*)\s*rows?$`)

// interval reads {every: 2s} or {every: 500 rows}, and keep: N beside it.
func (d *decoder) interval(path string, n ast.Node, v *tidemill.Interval) {
	pairs, ok := entries(n)
	if !ok {
		d.wrong(path, n, "a mapping", "write {every: 2s} or {every: 500 rows}")
		return
	}
	if len(pairs) == 0 {
		d.fail(path, d.doc.Place(path), path+" says nothing", "write {every: 2s} or {every: 500 rows}")
		return
	}
	d.pairs(path, pairs, []string{"every", "keep"}, func(key, at string, n ast.Node) {
		n, ok := d.resolve(at, n)
		if !ok {
			return
		}
		s, _ := scalarOf(n)
		if key == "keep" {
			if keep, ok := whole(s.text); ok && keep > 0 && keep <= 100_000 {
				v.Keep = int(keep)
				return
			}
			d.wrong(at, n, "a number of snapshots", "write a whole number from 1 to 100000")
			return
		}
		if m := rowsPattern.FindStringSubmatch(s.text); m != nil {
			if rows, ok := whole(m[1]); ok && rows > 0 {
				v.Rows = rows
				return
			}
		} else if t, err := time.ParseDuration(s.text); err == nil && t > 0 {
			v.Time = t
			return
		}
		d.wrong(at, n, "a duration above 0 or a number of rows", "write 2s or 500 rows")
	})
}

// budget reads a number of rows, or a share of them such as 1%.
func (d *decoder) budget(path string, n ast.Node, v *tidemill.BadBudget) {
	const remedy = "write a number of rows such as 1000, or a share of them such as 1%"
	s, ok := scalarOf(n)
	if !ok {
		d.wrong(path, n, "a number of rows or a share", remedy)
		return
	}
	b, err := tidemill.ParseBadBudget(s.text)
	if err != nil {
		d.wrong(path, n, "a number of rows of at least 1, or a share above 0% and at most 100%", remedy)
		return
	}
	*v = b
}

// tables reads {TABLE: OPTIMIZER, …}.
func (d *decoder) tables(path string, n ast.Node, v *map[string]tidemill.OptimizerChoice) {
	pairs, ok := entries(n)
	if !ok {
		d.wrong(path, n, "a mapping", "write {wide: {ftrl: {alpha: 0.1}}}")
		return
	}
	*v = map[string]tidemill.OptimizerChoice{}
	d.pairs(path, pairs, nil, func(table, at string, n ast.Node) {
		n, ok := d.resolve(at, n)
		if !ok {
			return
		}
		var c tidemill.OptimizerChoice
		d.optimizer(at, n, &c)
		(*v)[table] = c
	})
}

// choices reads {TABLE: {admit: …}, …}.
func (d *decoder) choices(path string, n ast.Node, v *map[string]tidemill.TableChoice) {
	pairs, ok := entries(n)
	if !ok {
		d.wrong(path, n, "a mapping", "write {embeddings: {admit: {after: 3}}}")
		return
	}
	*v = map[string]tidemill.TableChoice{}
	d.pairs(path, pairs, nil, func(table, at string, n ast.Node) {
		var c tidemill.TableChoice
		d.value(at, n, reflect.ValueOf(&c).Elem())
		(*v)[table] = c
	})
}

// optimizer reads {KIND: {PARAMETERS}}, or KIND alone.
func (d *decoder) optimizer(path string, n ast.Node, v *tidemill.OptimizerChoice) {
	kinds := optimizerKinds()
	if s, ok := scalarOf(n); ok {
		if _, known := optimizerKeys[s.text]; !known {
			d.fail(path, d.doc.Place(path), fmt.Sprintf("unknown optimizer %q", s.text), suggest(s.text, kinds))
			return
		}
		v.Kind = s.text
		return
	}
	pairs, ok := entries(n)
	if !ok {
		d.wrong(path, n, "a mapping", "write {adam: {lr: 0.001}}")
		return
	}
	if len(pairs) != 1 {
		d.fail(path, d.doc.Place(path), fmt.Sprintf("%s must name exactly one optimizer, not %d", path, len(pairs)), "write {adam: {lr: 0.001}}")
		return
	}
	d.pairs(path, pairs, kinds, func(kind, at string, n ast.Node) {
		v.Kind = kind
		n, ok := d.resolve(at, n)
		if !ok || isNull(n) {
			return
		}
		d.mapping(at, n, reflect.ValueOf(v).Elem(), optimizerKeys[kind])
	})
}
