package enginetest

import (
	"fmt"
	"math"
	"testing"
)

// near reports a value further than tolerance from what is wanted.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s is %v, want %v within %.2g", what, got, want, tolerance)
	}
}

// nearAll compares values with a tolerance relative to the largest of them.
func nearAll(t *testing.T, what string, got []float32, want []float64, relative float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d values, want %d", what, len(got), len(want))
		return
	}
	var scale float64
	for _, w := range want {
		scale = max(scale, math.Abs(w))
	}
	for i := range got {
		near(t, fmt.Sprintf("%s, value %d", what, i), float64(got[i]), want[i], relative*max(scale, 1e-2))
	}
}

// same reports the first value whose bits differ.
func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Errorf("%s: value %d is %v, want the bits of %v", what, i, got[i], want[i])
			return
		}
	}
}

// sameValues reports the first value that differs; 0 and -0 do not.
func sameValues(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d values, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: value %d is %v, want %v", what, i, got[i], want[i])
			return
		}
	}
}

func sameResult(t *testing.T, got, want result) {
	t.Helper()
	same(t, "predictions", got.predictions, want.predictions)
	same(t, "losses", got.losses, want.losses)
	for i := range want.rowGrads {
		same(t, "gradient of a table", got.rowGrads[i], want.rowGrads[i])
	}
	for i := range want.denseGrads {
		same(t, "gradient of a tensor", got.denseGrads[i], want.denseGrads[i])
	}
}
