package trainer

import (
	"maps"
	"slices"
	"testing"
)

func TestAble(t *testing.T) {
	const flow = "tensorflow/x/go1/fast/2.21.0"
	offers := map[string][]string{"both": {fast, slow, flow}, "plain": {fast}, "silent": nil}
	for _, c := range []struct {
		engine string
		want   []string
		of     map[string][]string
	}{
		{"native", []string{"both", "plain", "silent"}, map[string][]string{"both": {fast, slow}, "plain": {fast}, "silent": nil}},
		{"tensorflow", []string{"both"}, map[string][]string{"both": {flow}}},
		{"other", nil, map[string][]string{}},
	} {
		workers := map[string]int{"both": 1, "plain": 2, "silent": 3}
		ps, of := able(c.engine, workers, []string{"both", "plain", "silent"}, offers)
		if got := slices.Sorted(maps.Keys(workers)); !slices.Equal(got, c.want) {
			t.Errorf("%s: workers %v, want %v", c.engine, got, c.want)
		}
		if !slices.Equal(ps, c.want) {
			t.Errorf("%s: ps %v, want %v", c.engine, ps, c.want)
		}
		if !maps.EqualFunc(of, c.of, slices.Equal[[]string]) {
			t.Errorf("%s: offers %v, want %v", c.engine, of, c.of)
		}
	}
	if len(offers["both"]) != 3 {
		t.Error("the offers themselves were changed")
	}
}
