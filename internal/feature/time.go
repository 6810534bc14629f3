package feature

import (
	"math"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
)

// EventTimes returns the least and greatest event time of rows in Unix milliseconds. ok is
// false where the spec names no time column, or no row has a time. A time column holds
// timestamps, dates, whole Unix milliseconds or RFC 3339 text; null and unreadable times are
// passed over.
func (p *Plan) EventTimes(rows arrow.RecordBatch) (min, max int64, ok bool) {
	if p.time < 0 {
		return 0, 0, false
	}
	arr, err := p.column(rows, p.time)
	if err != nil {
		return 0, 0, false
	}
	min, max = math.MaxInt64, math.MinInt64
	note := func(ms int64) {
		ok = true
		if ms < min {
			min = ms
		}
		if ms > max {
			max = ms
		}
	}
	switch classOf(arr.DataType()) {
	case classText:
		eachText(arr, func(_ int, text []byte) {
			if t, err := time.Parse(time.RFC3339, string(text)); err == nil {
				note(t.UnixMilli())
			}
		})
	case classTime, classInt:
		w := p.borrow()
		defer p.pool.Put(w)
		ms := grow(&w.millis, arr.Len())
		if !loadInts(ms, arr) {
			break
		}
		bitmap, off := nulls(arr)
		for i, v := range ms {
			if valid(bitmap, off, i) {
				note(v)
			}
		}
	}
	if !ok {
		return 0, 0, false
	}
	return min, max, true
}
