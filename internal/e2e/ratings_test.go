package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/produce"
)

// The ratings example, whole, through a node: progressive AUC over the second half of the
// one pass.
func TestRatings(t *testing.T) {
	data := filepath.FromSlash("../../../shared/data/ml-100k-events.csv")
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		t.Skip("MovieLens 100K as one file of events is not there; see examples/ratings/README.md")
	}
	if testing.Short() {
		t.Skip("100,000 rows take some seconds")
	}
	if raceDetector {
		t.Skip("100,000 rows take minutes under the race detector, and other tests take the same paths")
	}
	yaml, err := os.ReadFile("../../examples/ratings/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, t.TempDir(), node.Config{})
	if _, err := produce.Run(s.ctx, s.Stream(), produce.Config{Topic: "ratings", Files: []string{data}}); err != nil {
		t.Fatal(err)
	}
	s.submit(parse(t, yaml, nil))
	st := s.finish("ratings")
	if st.Examples != 100_000 {
		t.Errorf("%d examples", st.Examples)
	}
	second := st.Validation.Since(50_000)
	t.Logf("all %+v", st.Progress)
	t.Logf("second half %+v", second)
	if second.Examples != 50_000 || second.AUC < 0.765 {
		t.Errorf("AUC %.4f over %d examples, want at least 0.765 over 50,000", second.AUC, second.Examples)
	}
	versions, err := s.Trainer().Versions(s.ctx, "ratings", false)
	if err != nil {
		t.Fatal(err)
	}
	decisions := map[string]int{}
	for _, v := range versions {
		decisions[v.Decision]++
	}
	t.Logf("decisions %v, champion %d", decisions, st.Champion)
	if st.Champion == 0 {
		t.Error("the gate let nothing through")
	}
}
