package workload

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/kernel"
)

// Sensor is readings of machines: channels that swing by the hour, machine by machine, and a load
// that is a function of them, of the machine and of the hour, with noise. A channel is missing now
// and then. The zero value but for its seed is ready.
type Sensor struct {
	Seed uint64
	// Machines is how many there are; 0 means 500.
	Machines int
}

// Channels is how many numbers a reading has beside its load.
const Channels = 8

// SensorNoise is the deviation of the noise in a load: no model has a smaller error.
const SensorNoise = 0.5

// sensorHour is how many rows of the stream an hour has.
const sensorHour = 10_000

// Schema is machine (int64), ts (timestamp, sensorHour rows an hour), x1 … x8 (float64, nullable),
// load (float64).
func (g *Sensor) Schema() *arrow.Schema {
	fields := []arrow.Field{{Name: "machine", Type: arrow.PrimitiveTypes.Int64}, {Name: "ts", Type: arrow.FixedWidthTypes.Timestamp_ms}}
	for i := range Channels {
		fields = append(fields, arrow.Field{Name: fmt.Sprintf("x%d", i+1), Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	return arrow.NewSchema(append(fields, arrow.Field{Name: "load", Type: arrow.PrimitiveTypes.Float64}), nil)
}

// Reading is one row; a channel whose Missing is set has no value.
type Reading struct {
	Machine int64
	X       [Channels]float64
	Missing [Channels]bool
	Load    float64
}

// Row computes a row into dst.
func (g *Sensor) Row(row int64, dst *Reading) {
	machines := g.Machines
	if machines == 0 {
		machines = 500
	}
	key := tidemill.Mix(g.Seed ^ tidemill.Mix(uint64(row)+1))
	m := int(uniform(key, 0) * float64(machines))
	dst.Machine = int64(m)
	day := kernel.CosPi(float64(row%(24*sensorHour)) / (12 * sensorHour))
	dst.Load = 10 + 1.5*day + 2*effect(g.Seed, 1, 0, m)
	for i := range dst.X {
		z := (uniform(key, 100+i) + uniform(key, 200+i) + uniform(key, 300+i) - 1.5) * 2
		dst.X[i] = effect(g.Seed, 2, i, m) + 0.5*day*float64(i%3) + z
		dst.Load += effect(g.Seed, 3, i, 0) * dst.X[i]
		dst.Missing[i] = uniform(key, 400+i) < 0.02
	}
	noise := (uniform(key, 1) + uniform(key, 2) + uniform(key, 3) - 1.5) * 2
	dst.Load += SensorNoise * noise
}

// Rows is 0: there is no end.
func (g *Sensor) Rows() int64 { return 0 }

// Read returns rows [first, first+n); the caller releases it.
func (g *Sensor) Read(first int64, n int) (arrow.RecordBatch, error) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, g.Schema())
	defer b.Release()
	b.Reserve(n)
	var row Reading
	for i := range int64(n) {
		g.Row(first+i, &row)
		b.Field(0).(*array.Int64Builder).Append(row.Machine)
		b.Field(1).(*array.TimestampBuilder).Append(arrow.Timestamp(Start + (first+i)*3_600_000/sensorHour))
		for j, x := range row.X {
			if f := b.Field(2 + j).(*array.Float64Builder); row.Missing[j] {
				f.AppendNull()
			} else {
				f.Append(x)
			}
		}
		b.Field(2 + Channels).(*array.Float64Builder).Append(row.Load)
	}
	return b.NewRecordBatch(), nil
}
