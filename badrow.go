package tidemill

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Causes for which a row is put aside instead of trained. Each would happen again: a failure
// that may pass puts nothing aside.
const (
	BadDecode   = "decode"   // what is stored is no row of the topic's schema
	BadValue    = "value"    // a feature's number is not finite or too large, or its text is not UTF-8
	BadLabel    = "label"    // null, not finite, or outside the set that the spec lists
	BadWeight   = "weight"   // not finite, or negative
	BadTime     = "time"     // the event time is written as text and cannot be read
	BadGradient = "gradient" // loss or gradient is not finite on the parameters of its round
)

// BadCauses lists the causes.
func BadCauses() []string {
	return []string{BadDecode, BadValue, BadLabel, BadWeight, BadTime, BadGradient}
}

// BadBudget is how many rows a job may put aside before it pauses: Rows of them, or a Fraction
// of those it has read. One of the two is 0. As JSON and YAML it is a number, or text such
// as "1%".
type BadBudget struct {
	Rows     int64
	Fraction float64 // in (0, 1]
}

// budgetBase is how many rows a fraction is taken of at least: one bad row among the first
// ten says little.
const budgetBase = 1000

// Allows reports whether bad rows of read ones are within the budget.
func (b BadBudget) Allows(bad, read int64) bool {
	if b.Fraction > 0 {
		return float64(bad) <= b.Fraction*float64(max(read, budgetBase))
	}
	return bad <= b.Rows
}

// IsZero reports whether b says nothing.
func (b BadBudget) IsZero() bool { return b == BadBudget{} }

func (b BadBudget) String() string {
	if b.Fraction > 0 {
		return strconv.FormatFloat(100*b.Fraction, 'g', 12, 64) + "%"
	}
	return strconv.FormatInt(b.Rows, 10)
}

// ParseBadBudget reads a number of rows, at least 1, or a percentage above 0 and at most 100.
// The error wraps ErrInvalid.
func ParseBadBudget(s string) (BadBudget, error) {
	const remedy = "write a number of rows such as 1000, or a share of them such as 1%"
	if share, ok := strings.CutSuffix(strings.TrimSpace(s), "%"); ok {
		f, err := strconv.ParseFloat(strings.TrimSpace(share), 64)
		if err != nil || !(f > 0 && f <= 100) {
			return BadBudget{}, Invalid("%q is no share of rows", remedy, s)
		}
		return BadBudget{Fraction: f / 100}, nil
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(strings.TrimSpace(s), "_", ""), 10, 64)
	if err != nil || n < 1 {
		return BadBudget{}, Invalid("%q is no number of rows", remedy, s)
	}
	return BadBudget{Rows: n}, nil
}

// MarshalJSON implements json.Marshaler.
func (b BadBudget) MarshalJSON() ([]byte, error) {
	if b.Fraction > 0 {
		return json.Marshal(b.String())
	}
	return json.Marshal(b.Rows)
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *BadBudget) UnmarshalJSON(data []byte) (err error) {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*b, err = ParseBadBudget(text)
		return err
	}
	*b = BadBudget{}
	if err := json.Unmarshal(data, &b.Rows); err != nil {
		return fmt.Errorf("a budget of bad rows: %w", err)
	}
	return nil
}
