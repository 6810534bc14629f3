package workload

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Ratings is users' ratings of films, from 1 to 5 in halves: a mean, what a user and a film are
// like in general, how their tastes fit, and noise. The zero value but for its seed is ready.
type Ratings struct {
	Seed uint64
	// Users and Items are how many there are; 0 means 100,000 and 20,000.
	Users, Items int
}

// RatingNoise is the deviation of the noise in a rating before it is rounded and clipped: no model
// has a smaller error.
const RatingNoise = 0.7

const tastes = 4

// Schema is user, item (int64), ts (timestamp, one row a millisecond), rating (float64).
func (g *Ratings) Schema() *arrow.Schema {
	return arrow.NewSchema([]arrow.Field{
		{Name: "user", Type: arrow.PrimitiveTypes.Int64},
		{Name: "item", Type: arrow.PrimitiveTypes.Int64},
		{Name: "ts", Type: arrow.FixedWidthTypes.Timestamp_ms},
		{Name: "rating", Type: arrow.PrimitiveTypes.Float64},
	}, nil)
}

// Rating is one row.
type Rating struct {
	User, Item int64
	Rating     float64
}

// Row computes a row.
func (g *Ratings) Row(row int64) Rating {
	users, items := g.Users, g.Items
	if users == 0 {
		users = 100_000
	}
	if items == 0 {
		items = 20_000
	}
	key := tidemill.Mix(g.Seed ^ tidemill.Mix(uint64(row)+1))
	// Users and items come log-uniformly: a few often, most seldom.
	zipf := func(n, count int) int {
		return min(count-1, int(kernel.Exp(uniform(key, n)*kernel.Log(float64(count)+1)))-1)
	}
	user, item := zipf(0, users), zipf(1, items)
	score := 3.5 + 0.4*effect(g.Seed, 1, 0, user) + 0.5*effect(g.Seed, 1, 1, item)
	for d := range tastes {
		score += 0.25 * effect(g.Seed, 2+d, 0, user) * effect(g.Seed, 2+d, 1, item)
	}
	noise := (uniform(key, 2) + uniform(key, 3) + uniform(key, 4) - 1.5) * 2 // deviation 1
	score += RatingNoise * noise
	return Rating{int64(user), int64(item), min(5, max(1, float64(int(2*score+0.5))/2))}
}

// Rows is 0: there is no end.
func (g *Ratings) Rows() int64 { return 0 }

// Read returns rows [first, first+n); the caller releases it.
func (g *Ratings) Read(first int64, n int) (arrow.RecordBatch, error) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, g.Schema())
	defer b.Release()
	b.Reserve(n)
	for i := range int64(n) {
		row := g.Row(first + i)
		b.Field(0).(*array.Int64Builder).Append(row.User)
		b.Field(1).(*array.Int64Builder).Append(row.Item)
		b.Field(2).(*array.TimestampBuilder).Append(arrow.Timestamp(Start + first + i))
		b.Field(3).(*array.Float64Builder).Append(row.Rating)
	}
	return b.NewRecordBatch(), nil
}
