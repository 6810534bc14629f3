package workload

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Numbers and Categories are the columns of Clicks beside its label and time.
const (
	Numbers    = 13
	Categories = 26
)

// cardinality of each category, as in the display advertising set that Criteo gave to Kaggle
// in 2014.
var cardinality = [Categories]int{
	1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
	27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
}

// pairs of categories that matter together beyond what each says by itself.
var pairs = [][2]int{{0, 4}, {1, 7}, {6, 8}, {10, 13}, {12, 16}, {17, 19}, {18, 21}, {14, 22}}

// Clicks is a click stream in the shape of Criteo's: 13 numbers with gaps and 26 categories,
// Zipf-distributed over up to ten million values. Whether a row was clicked is drawn from a
// logistic model with planted effects: linear ones of every value, pairwise ones of some
// categories, and, where Drift says so, ones that turn with time. The zero value but for its
// seed is ready.
type Clicks struct {
	Seed uint64
	// Drift is the share of the linear effects, from 0 to 1, that turns once in Period rows.
	Drift float64
	// Period in rows; 0 means 1,000,000.
	Period int64
}

// Schema is clicked (int8), ts (timestamp, one row a millisecond), i1 … i13 (int64, nullable),
// c1 … c26 (eight hexadecimal digits, nullable).
func (c *Clicks) Schema() *arrow.Schema {
	fields := []arrow.Field{
		{Name: "clicked", Type: arrow.PrimitiveTypes.Int8},
		{Name: "ts", Type: arrow.FixedWidthTypes.Timestamp_ms},
	}
	for i := range Numbers {
		fields = append(fields, arrow.Field{Name: fmt.Sprintf("i%d", i+1), Type: arrow.PrimitiveTypes.Int64, Nullable: true})
	}
	for i := range Categories {
		fields = append(fields, arrow.Field{Name: fmt.Sprintf("c%d", i+1), Type: arrow.BinaryTypes.String, Nullable: true})
	}
	return arrow.NewSchema(fields, nil)
}

// Start is the time of row 0, in Unix milliseconds.
const Start = 1_700_000_000_000

// Click is one row. A number below 0 and a category of rank -1 are missing.
type Click struct {
	Clicked     bool
	Probability float64
	Numbers     [Numbers]int64
	// Ranks of the category's values, 0 the most frequent.
	Ranks [Categories]int
}

// uniform returns the n-th number in [0, 1) of a row.
func uniform(key uint64, n int) float64 {
	return float64(tidemill.Mix(key+uint64(n)*0x9e3779b97f4a7c15)>>11) / (1 << 53)
}

// effect returns a roughly normal number with deviation 1 that belongs to a value.
func (c *Clicks) effect(kind, field, rank int) float64 { return effect(c.Seed, kind, field, rank) }

func effect(seed uint64, kind, field, rank int) float64 {
	h := tidemill.Mix(tidemill.Mix(seed+uint64(kind)<<32+uint64(field)) ^ uint64(rank)*0xd6e8feb86659fd93)
	// The sum of four uniform numbers of 16 bits has variance 1/3.
	sum := float64(h&0xffff) + float64(h>>16&0xffff) + float64(h>>32&0xffff) + float64(h>>48)
	return (sum/65536 - 2) * math.Sqrt(3)
}

// Kinds of effect.
const (
	linear = iota
	turned
	latent // and those that follow, one for each dimension
)

const dimensions = 3

// Row computes a row into dst.
func (c *Clicks) Row(row int64, dst *Click) {
	key := tidemill.Mix(c.Seed ^ tidemill.Mix(uint64(row)+1))
	score := -1.55
	for i := range Numbers {
		if uniform(key, 100+i) < 0.03*float64(i%7) {
			dst.Numbers[i] = -1
			continue
		}
		// Log-normal counts, as clicks and impressions are.
		z := (uniform(key, 200+i) + uniform(key, 300+i) + uniform(key, 400+i) - 1.5) * 2
		dst.Numbers[i] = int64(kernel.Exp(1 + 0.3*float64(i) + z))
		score += 0.16 * z * c.effect(linear, 1000+i, 0)
	}
	period := c.Period
	if period == 0 {
		period = 1_000_000
	}
	t := float64(row%period) / float64(period) * 2
	cos, sin := kernel.CosPi(t), kernel.CosPi(t-0.5)
	still := math.Sqrt(max(0, 1-c.Drift*c.Drift))
	for j, n := range cardinality {
		if uniform(key, 500+j) < 0.04*float64(j%5) {
			dst.Ranks[j] = -1
			continue
		}
		rank := min(n-1, int(kernel.Exp(uniform(key, j)*kernel.Log(float64(n)+1)))-1)
		dst.Ranks[j] = rank
		e := still * c.effect(linear, j, rank)
		if c.Drift > 0 {
			e += c.Drift * (cos*c.effect(linear, j+100, rank) + sin*c.effect(turned, j, rank))
		}
		score += 0.27 * e
	}
	for _, p := range pairs {
		a, b := dst.Ranks[p[0]], dst.Ranks[p[1]]
		if a < 0 || b < 0 {
			continue
		}
		for d := range dimensions {
			score += 0.2 * c.effect(latent+d, p[0], a) * c.effect(latent+d, p[1], b)
		}
	}
	dst.Probability = 1 / (1 + kernel.Exp(-score))
	dst.Clicked = uniform(key, 999) < dst.Probability
}

// Value returns the text of a category's value of a rank.
func (c *Clicks) Value(category, rank int) string {
	var b [8]byte
	c.value(&b, category, rank)
	return string(b[:])
}

func (c *Clicks) value(dst *[8]byte, category, rank int) {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], uint32(tidemill.Mix(c.Seed^uint64(category+1)<<40^uint64(rank))))
	hex.Encode(dst[:], raw[:])
}

// Batch returns rows [first, first+n); the caller releases it.
func (c *Clicks) Batch(first int64, n int) arrow.RecordBatch {
	b := array.NewRecordBuilder(memory.DefaultAllocator, c.Schema())
	defer b.Release()
	b.Reserve(n)
	var row Click
	var text [8]byte
	for i := range int64(n) {
		c.Row(first+i, &row)
		clicked := int8(0)
		if row.Clicked {
			clicked = 1
		}
		b.Field(0).(*array.Int8Builder).Append(clicked)
		b.Field(1).(*array.TimestampBuilder).Append(arrow.Timestamp(Start + first + i))
		for j, v := range row.Numbers {
			if f := b.Field(2 + j).(*array.Int64Builder); v < 0 {
				f.AppendNull()
			} else {
				f.Append(v)
			}
		}
		for j, r := range row.Ranks {
			f := b.Field(2 + Numbers + j).(*array.StringBuilder)
			if r < 0 {
				f.AppendNull()
				continue
			}
			c.value(&text, j, r)
			f.BinaryBuilder.Append(text[:])
		}
	}
	return b.NewRecordBatch()
}

// Rows is 0: there is no end.
func (c *Clicks) Rows() int64 { return 0 }

// Read is Batch.
func (c *Clicks) Read(first int64, n int) (arrow.RecordBatch, error) { return c.Batch(first, n), nil }

// BestAUC is the area under the curve that the true probabilities reach over rows
// [first, first+n).
func (c *Clicks) BestAUC(first int64, n int) float64 {
	scores, labels := make([]float64, n), make([]bool, n)
	var row Click
	for i := range n {
		c.Row(first+int64(i), &row)
		scores[i], labels[i] = row.Probability, row.Clicked
	}
	return AUC(scores, labels)
}
