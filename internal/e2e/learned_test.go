package e2e

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tidemill/tidemill/internal/node"
)

const learnedRows = 4000

// learnedJob has every transform that learns from rows: running moments, edges and words.
const learnedJob = `
model: learned
stream: {topic: learned}
label: {column: y, positive: 1}
features:
  - {name: a, column: a, standardize: {}}
  - {name: b, column: b, bucketize: {quantiles: 8, learn_rows: 1000}}
  - {name: word, column: word, vocabulary: {learn_rows: 600, max_size: 12}}
  - {name: moving, column: b, standardize: {}, bucketize: {uniform: [-2, 2, 9]}}
  - {cross: [b, word]}
architecture: {kind: deepfm, dim: 4, hidden: [8]}
optimizer: {sparse: {ftrl: {alpha: 0.1}}, dense: {adam: {lr: 0.005}}, average: {decay: 0.99}}
train: {batch: 8, linger: 20ms, snapshot: {every: 300 rows}}
gate: {min_examples: 400}
`

func learnedData(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b bytes.Buffer
	b.WriteString("a,b,word,y\n")
	for range n {
		x, z, w := 100+20*r.NormFloat64(), math.Exp(r.NormFloat64()), int(20*r.Float64()*r.Float64())
		y := 0
		if 0.05*(x-100)+z-1+0.3*float64(w%3-1)+0.3*r.NormFloat64() > 0 {
			y = 1
		}
		fmt.Fprintf(&b, "%g,%g,w%d,%d\n", x, z, w, y)
	}
	return b.Bytes()
}

// What transforms have learned belongs to the snapshot: stopping before it is frozen, and
// after, changes no bit.
func TestLearnedStateSurvives(t *testing.T) {
	const seed = 20
	t.Logf("seed %d", seed)
	csv := learnedData(seed, learnedRows)
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d partitions", partitions), func(t *testing.T) {
			s := start(t, t.TempDir(), node.Config{Slots: 2})
			s.produce("learned", partitions, csv)
			s.submit(parse(t, []byte(learnedJob), nil))
			want := s.finish("learned")
			s.stop()
			if want.Progress.Examples != learnedRows || want.Recent.Loss > 0.8*want.Recent.PriorLoss {
				t.Errorf("learned too little: %+v", want.Recent)
			}
			// The first stop comes before anything is frozen, the second after the words and
			// before the edges, the third after both.
			got := stopped(t, partitions, csv, "learned", parse(t, []byte(learnedJob), nil), 1, 500, 900)
			if got.Digest != want.Digest || got.Progress != want.Progress {
				t.Errorf("stopped: digest %s, %+v\nwhole: digest %s, %+v", got.Digest, got.Progress, want.Digest, want.Progress)
			}
		})
	}
}
