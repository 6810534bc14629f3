package carry

import (
	"slices"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
)

// A tensor whose columns belong to the inputs is carried whole or not at all; rows that belong
// to inputs follow these.
func TestTensorsOfInputs(t *testing.T) {
	for _, kind := range []string{tidemill.DCN, tidemill.DLRM} {
		make := func(change func(*tidemill.Spec)) *tidemill.Spec {
			s := base()
			s.Architecture = tidemill.Architecture{Kind: kind, Dim: 2, Hidden: []int{3}}
			change(s)
			return s
		}
		same := New(source(compile(t, make(func(*tidemill.Spec) {}))), target(compile(t, make(func(*tidemill.Spec) {}))))
		if l := same.Losses(); len(l) > 0 {
			t.Errorf("%s: the same spec loses %v", kind, l)
		}
		less := New(source(compile(t, make(func(*tidemill.Spec) {}))), target(compile(t, make(func(s *tidemill.Spec) { s.Features = s.Features[1:9] }))))
		lost := func(tensor string) bool {
			return slices.ContainsFunc(less.Losses(), func(i Item) bool { return i.What == "tensor "+tensor })
		}
		carried := func(tensor string) bool {
			return slices.ContainsFunc(less.With(Carried), func(i Item) bool {
				return i.What == "tensor "+tensor && strings.HasPrefix(i.Why, "row by row")
			})
		}
		if !carried("hidden1") {
			t.Errorf("%s: with fewer features hidden1 does not follow its inputs: %v", kind, less.Items)
		}
		if kind == tidemill.DCN && (!lost("cross1") || !lost("cross1_bias") || !carried("cross_head")) {
			t.Errorf("with fewer features DCN has %v", less.Items)
		}
		if kind == tidemill.DLRM && lost("bottom1") {
			t.Errorf("with the same numbers DLRM loses its bottom layer: %v", less.Items)
		}
	}
}
