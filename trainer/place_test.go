package trainer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func names(prefix string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("%s%d", prefix, i))
	}
	return out
}

func loads(owners []string) map[string]int {
	l := map[string]int{}
	for _, o := range owners {
		l[o]++
	}
	return l
}

func TestPlaceIsBalancedStableAndComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "items")
		members := names("m", rapid.IntRange(1, 12).Draw(t, "members"))
		first := Place(n, members, nil, nil)
		for i, o := range first {
			if !slices.Contains(members, o) {
				t.Fatalf("item %d belongs to %q", i, o)
			}
		}
		check := func(owners []string, members []string) {
			l := loads(owners)
			for _, m := range members {
				if l[m] < n/len(members) || l[m] > (n+len(members)-1)/len(members) {
					t.Fatalf("%s has %d of %d items among %d members", m, l[m], n, len(members))
				}
			}
		}
		check(first, members)
		shuffled := rapid.Permutation(members).Draw(t, "order")
		if !slices.Equal(first, Place(n, shuffled, nil, nil)) {
			t.Fatal("the order in which members are named makes a difference")
		}
		if !slices.Equal(first, Place(n, members, nil, first)) {
			t.Fatal("items move although nothing changed")
		}
		// Somebody leaves: only what must move moves.
		if len(members) > 1 {
			gone := rapid.SampledFrom(members).Draw(t, "gone")
			left := slices.DeleteFunc(slices.Clone(members), func(m string) bool { return m == gone })
			next := Place(n, left, nil, first)
			check(next, left)
			for i := range next {
				if first[i] != gone && next[i] != first[i] {
					t.Fatalf("item %d moved from %s to %s although %s left", i, first[i], next[i], gone)
				}
			}
		}
		// Somebody joins: what moves goes to the one who joined.
		more := append(slices.Clone(members), "newcomer")
		next := Place(n, more, nil, first)
		check(next, more)
		for i := range next {
			if next[i] != first[i] && next[i] != "newcomer" {
				t.Fatalf("item %d moved from %s to %s although newcomer joined", i, first[i], next[i])
			}
		}
	})
}

func TestPlaceFollowsWeights(t *testing.T) {
	l := loads(Place(60, []string{"a", "b", "c"}, map[string]int{"a": 1, "b": 2, "c": 3}, nil))
	if l["a"] != 10 || l["b"] != 20 || l["c"] != 30 {
		t.Fatalf("loads %v", l)
	}
	if got := Place(3, nil, nil, nil); !slices.Equal(got, []string{"", "", ""}) {
		t.Fatalf("without members: %q", got)
	}
}
