package main

import (
	"slices"
	"testing"
)

// TestReplacementsFit finds out at once, without building anything, when the table no longer
// fits the source.
func TestReplacementsFit(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if _, err := m.sources(root); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
	for _, name := range quick {
		if !slices.ContainsFunc(mutants, func(m mutant) bool { return m.name == name }) {
			t.Errorf("there is no variant %q", name)
		}
	}
}
