package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidemill/tidemill/internal/node"
)

// The sum of a batch's losses has the gradient of their mean times the number of rows. By plain
// gradient descent and batches of 8, that is what a rate 8 times as large does, to the bit.
func TestReduction(t *testing.T) {
	const rows = 800 // batches of 8 in both partitions
	s := start(t, t.TempDir(), node.Config{Slots: 2})
	s.produce("meetings", 2, modelData(3, rows))
	const job = modelFeatures + "label: {column: match, positive: 1}\narchitecture: {kind: fm, dim: 4}\noptimizer: {sparse: {sgd: {lr: %g}}, dense: {sgd: {lr: %[3]g}}}\n"
	digest := map[string]string{}
	for _, c := range []struct {
		model, reduction string
		lr               float64
	}{{"plain", "", 0.25}, {"mean", "reduction: mean, ", 0.25}, {"sum", "reduction: sum, ", 0.25 / 8}, {"larger", "reduction: sum, ", 0.25}} {
		yaml := fmt.Sprintf("model: %s\n"+job, c.model, "", c.lr)
		s.submit(parse(t, []byte(strings.Replace(yaml, "batch: 8, ", "batch: 8, "+c.reduction, 1)), nil))
		st := s.finish(c.model)
		if st.Examples != rows {
			t.Fatalf("%s: %d examples", c.model, st.Examples)
		}
		digest[c.model] = st.Digest
	}
	if digest["mean"] != digest["plain"] || digest["sum"] != digest["plain"] || digest["larger"] == digest["plain"] {
		t.Errorf("digests %v", digest)
	}
}
