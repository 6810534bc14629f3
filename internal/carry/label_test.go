package carry

import (
	"testing"

	"github.com/tidemill/tidemill"
)

// Label values may be added where those before mean what they meant.
func TestLabelWidened(t *testing.T) {
	label := func(positive, negative []string) tidemill.LabelSpec {
		return tidemill.LabelSpec{Column: "y", Positive: positive, Negative: negative}
	}
	yes, no, both := []string{"yes"}, []string{"no"}, []string{"yes", "perhaps"}
	half := 0.5
	for _, c := range []struct {
		name string
		a, b tidemill.LabelSpec
		want bool
	}{
		{"one more positive", label(yes, no), label(both, no), true},
		{"one more negative", label(yes, no), label(yes, []string{"perhaps", "no"}), true},
		{"the same", label(yes, no), label(yes, no), false},
		{"one less", label(both, no), label(yes, no), false},
		{"moved", label(yes, no), label([]string{"yes", "no"}, []string{"never"}), false},
		{"others were negative", label(yes, nil), label(both, nil), false},
		{"others become negative", label(yes, no), label(both, nil), false},
		{"a threshold", label(yes, no), tidemill.LabelSpec{Column: "y", Positive: both, Negative: no, AtLeast: &half}, false},
	} {
		if got := widened(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
