package feature

import (
	"math"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
)

// NoTime is the event time of a row that has none.
const NoTime = math.MinInt64

// EventTimes returns the least and greatest event time of rows in Unix milliseconds. ok is
// false where the spec names no time column, or no row has a time. A time column holds
// timestamps, dates, whole Unix milliseconds or RFC 3339 text; null and unreadable times are
// passed over.
func (p *Plan) EventTimes(rows arrow.RecordBatch) (min, max int64, ok bool) {
	w := p.borrow()
	defer p.pool.Put(w)
	w.millis = p.Times(w.millis, rows)
	min, max = math.MaxInt64, math.MinInt64
	for _, ms := range w.millis {
		if ms == NoTime {
			continue
		}
		ok = true
		if ms < min {
			min = ms
		}
		if ms > max {
			max = ms
		}
	}
	if !ok {
		return 0, 0, false
	}
	return min, max, true
}

// Times returns the event times of rows in Unix milliseconds, NoTime where EventTimes would pass a
// row over, in dst's memory where that suffices. It is empty where the spec names no time column,
// or the rows lack it.
func (p *Plan) Times(dst []int64, rows arrow.RecordBatch) []int64 {
	dst = dst[:0]
	if p.time < 0 {
		return dst
	}
	arr, err := p.column(rows, p.time)
	if err != nil {
		return dst
	}
	switch classOf(arr.DataType()) {
	case classText:
		for range arr.Len() {
			dst = append(dst, NoTime)
		}
		eachText(arr, func(i int, text []byte) {
			if t, err := time.Parse(time.RFC3339, string(text)); err == nil {
				dst[i] = t.UnixMilli()
			}
		})
	case classTime, classInt:
		grow(&dst, arr.Len())
		if !loadInts(dst, arr) {
			return dst[:0]
		}
		fillNulls(dst, arr, NoTime)
	}
	return dst
}
