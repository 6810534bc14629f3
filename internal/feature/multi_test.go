package feature

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill"
)

func TestMultiHotAndCross(t *testing.T) {
	schema := fields("w", arrow.BinaryTypes.String, "l", arrow.LargeListOf(arrow.BinaryTypes.String),
		"fix", arrow.FixedSizeListOf(2, arrow.PrimitiveTypes.Int32), "c", arrow.BinaryTypes.String, "y", arrow.PrimitiveTypes.Int8)
	p := compile(t, job(
		tidemill.FeatureSpec{Name: "w", Column: "w", MultiHot: &tidemill.MultiHot{Separator: "|", Max: 3}},
		tidemill.FeatureSpec{Name: "l", Column: "l", MultiHot: &tidemill.MultiHot{}, Vocabulary: &tidemill.Vocabulary{Values: []string{"x"}}},
		tidemill.FeatureSpec{Name: "fix", Column: "fix", MultiHot: &tidemill.MultiHot{}},
		tidemill.FeatureSpec{Name: "c", Column: "c"},
		tidemill.FeatureSpec{Cross: []string{"w", "c", "l"}},
		tidemill.FeatureSpec{Name: "lc", Cross: []string{"l", "c"}},
		tidemill.FeatureSpec{Name: "cl", Cross: []string{"c", "l"}},
	), schema)
	if names := p.Shape().FieldNames; names[4] != "w_x_c_x_l" || !p.Shape().IsCross[4] || p.Shape().IsCross[3] {
		t.Errorf("shape %+v", p.Shape())
	}
	rows := batch(t, schema,
		`{"w":"skip","l":["x"],"fix":[7,7],"c":"q"}`,
		`{"w":"a|b||a|c|d","l":["x","y","z","x"],"fix":[1,2],"c":"q"}`,
		`{"w":null,"l":null,"fix":null,"c":null}`,
		`{"w":"","l":[],"fix":[3,3],"c":"q"}`,
		`{"w":"a","l":[null,"x"],"fix":[null,3],"c":"q"}`)
	sub := rows.NewSlice(1, 5)
	defer sub.Release()
	in := inputs(t, p, sub, nil)
	w := func(s string) uint64 { return hashText(seedOf("w"), []byte(s)) }
	l := func(s string) uint64 { return hashText(seedOf("l"), []byte(s)) }
	n := func(f string, x uint64) uint64 { return hashNumber(seedOf(f), x) }
	null := func(f string) uint64 { return special(seedOf(f), tagNull) }
	other := special(seedOf("l"), tagOther)
	want := [][][]uint64{
		{{w("a"), w("b"), w("c")}, {l("x"), other}, {n("fix", 1), n("fix", 2)}},
		{{null("w")}, {null("l")}, {null("fix")}},
		{{}, {}, {n("fix", 3)}},
		{{w("a")}, {null("l"), l("x")}, {null("fix"), n("fix", 3)}},
	}
	for i, row := range want {
		for f, ids := range row {
			if !slices.Equal(at(in, i, f), ids) {
				t.Errorf("row %d field %d: %x, want %x", i, f, at(in, i, f), ids)
			}
		}
	}
	for i, count := range []int{6, 1, 0, 2} {
		if got := len(at(in, i, 4)); got != count {
			t.Errorf("row %d: the cross has %d ids, want %d", i, got, count)
		}
	}
	seed := special(seedOf("w_x_c_x_l"), tagCross)
	q := hashText(seedOf("c"), []byte("q"))
	if first := crossStep(crossStep(crossStep(seed, w("a")), q), l("x")); at(in, 0, 4)[0] != first {
		t.Error("the first combination is not of the first parts")
	}
	if slices.Equal(at(in, 0, 5), at(in, 0, 6)) {
		t.Error("a cross does not depend on the order of its parts")
	}

	// A row of too many combinations keeps the first ones.
	long := make([]string, 40)
	for i := range long {
		long[i] = fmt.Sprintf("%d", i)
	}
	schema = fields("a", arrow.BinaryTypes.String, "y", arrow.PrimitiveTypes.Int8)
	multi := &tidemill.MultiHot{}
	p = compile(t, job(tidemill.FeatureSpec{Name: "a", Column: "a", MultiHot: multi}, tidemill.FeatureSpec{Name: "b", Column: "a", MultiHot: multi},
		tidemill.FeatureSpec{Name: "x", Cross: []string{"a", "b"}}), schema)
	in = inputs(t, p, batch(t, schema, fmt.Sprintf(`{"a":%q}`, strings.Join(long, " "))), nil)
	x := at(in, 0, 2)
	if len(x) != maxCross || x[41] != crossStep(crossStep(special(seedOf("x"), tagCross), at(in, 0, 0)[1]), at(in, 0, 1)[1]) {
		t.Errorf("%d combinations", len(x))
	}
}
