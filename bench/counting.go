package bench

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/tidemill/tidemill/internal/infer"
)

// The counting job learns how often each id was seen. It is an ordinary linear model whose
// gradient happens to be constant: under Huber's loss with delta 1 and a label beyond all
// predictions each row's gradient is −1/batch by each of its ids and by the bias, and with a
// learning rate of batch plain SGD adds exactly 1 to each. float32 holds such counts up to 2²⁴
// without an error. So the weight of a row's own id is how often that row was applied.
const (
	countsJob   = "counts"
	countsTopic = "counts"
	countsKeys  = 500     // distinct values of the second feature
	countsLabel = 1 << 26 // above three times countsMost, which no prediction exceeds
	countsFar   = 1 << 40 // the one label in sixteen
	countsMost  = 1 << 23 // rows
)

// countsSpec says how the counting job is run.
type countsSpec struct {
	staleness int
	batch     int    // rows; every partition gets a multiple of it
	every     string // cadence of snapshots
}

func (c countsSpec) yaml() string {
	return fmt.Sprintf(`model: %s
stream: {topic: %s, from: earliest}
label: {column: y, type: regression}
features:
  - {name: row, column: id, hash: {}}
  - {name: key, column: key, hash: {}}
architecture: {kind: linear, loss: huber, huber_delta: 1}
optimizer: {sparse: {sgd: {lr: %d}}, dense: {sgd: {lr: %d}}}
train: {batch: %d, linger: 1h, staleness: %d, snapshot: {every: %s, keep: 100000}}
gate: {margin: 0.01, alpha: 0.01, min_examples: 100}
`, countsJob, countsTopic, c.batch, c.batch, c.batch, c.staleness, c.every)
}

// writeCounts writes rows of the counting job to a CSV file: ids 0 to rows−1, keys at random.
func writeCounts(name string, rows int, r *rand.Rand) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := bufio.NewWriter(out)
	fmt.Fprintln(w, "id,key,y")
	for i := range rows {
		label := int64(countsLabel)
		if r.IntN(16) == 0 {
			label = countsFar
		}
		fmt.Fprintf(w, "%d,%d,%d\n", i, r.IntN(countsKeys), label)
	}
	return w.Flush()
}

// countsQuestions asks about rows below most. Every version of the counting job predicts whole
// counts, none above three times the rows there can be.
func countsQuestions(most int64) questions {
	columns := []string{"id", "key"}
	limits := []int64{most, countsKeys}
	return questions{
		model: countsJob, columns: columns,
		rows: func(r *rand.Rand) arrow.RecordBatch {
			return integers(columns, 1+r.IntN(4), func(c int) int64 { return r.Int64N(limits[c]) })
		},
		wrong: func(a infer.Answer, rows int) string {
			bad := len(a.Predictions) != rows
			for _, p := range a.Predictions {
				x := float64(p)
				bad = bad || x < 0 || x > 3*countsMost || x != math.Trunc(x)
			}
			if bad {
				return fmt.Sprintf("version %d predicts %v for %d rows; counts are whole numbers", a.Version, a.Predictions, rows)
			}
			return ""
		},
	}
}
