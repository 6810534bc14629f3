package source

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
)

// MaxNameLength bounds the name of a topic and of a holder, in bytes.
const MaxNameLength = 128

// CheckName returns tidemill.ErrInvalid unless name has 1 to MaxNameLength characters of
// A-Z a-z 0-9 _ . -, and is neither "." nor "..". what says whose name it is ("topic").
func CheckName(what, name string) error {
	const remedy = "use 1 to 128 characters of A-Z a-z 0-9 _ . -"
	if name == "" {
		return tidemill.Invalid("the %s has no name", remedy, what)
	}
	if len(name) > MaxNameLength {
		return tidemill.Invalid("the %s name has %d bytes", remedy, what, len(name))
	}
	for _, r := range name {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
		default:
			return tidemill.Invalid("the %s name %q holds %q", remedy, what, name, r)
		}
	}
	if name == "." || name == ".." {
		return tidemill.Invalid("the %s name %q is a folder's", remedy, what, name)
	}
	return nil
}

// NotFound is the error of Open for a topic that is not among topics.
func NotFound(topic string, topics []string) error {
	if near := tidemill.Nearest(topic, topics); near != "" {
		return fmt.Errorf("topic %q: %w (did you mean %q?)", topic, tidemill.ErrNotFound, near)
	}
	if len(topics) == 0 {
		return fmt.Errorf("topic %q: %w (the stream has no topics yet)", topic, tidemill.ErrNotFound)
	}
	const few = 5
	shown := topics[:min(few, len(topics))]
	more := ""
	if len(topics) > few {
		more = fmt.Sprintf(" and %d more", len(topics)-few)
	}
	return fmt.Errorf("topic %q: %w (there are: %s%s)", topic, tidemill.ErrNotFound, strings.Join(shown, ", "), more)
}

// MaxPartitions bounds the partitions of a topic.
const MaxPartitions = 1024

// CheckPartitions returns tidemill.ErrInvalid unless a topic may have n partitions; 0 means
// the default.
func CheckPartitions(topic string, n int) error {
	if n < 0 || n > MaxPartitions {
		return tidemill.Invalid("topic %q: %d partitions", "use 1 to 1024", topic, n)
	}
	return nil
}

// CheckExisting returns tidemill.ErrInvalid when an existing topic has another number of
// partitions than want; 0 means whatever it has.
func CheckExisting(topic string, has, want int) error {
	if want != 0 && has != want {
		remedy := "keep its number, or use another topic"
		if want > has {
			remedy = "raise its number with `tidemill topic " + topic + " --partitions " + strconv.Itoa(want) + "`"
		}
		return tidemill.Invalid("topic %q has %d partitions, not %d", remedy, topic, has, want)
	}
	return nil
}

// CheckPartition returns tidemill.ErrInvalid unless p is one of a topic's n partitions.
func CheckPartition(topic string, p, n int) error {
	if p < 0 || p >= n {
		return tidemill.Invalid("topic %q has no partition %d", "", topic, p)
	}
	return nil
}

// CheckOffset returns tidemill.ErrInvalid unless a reader may start at offset.
func CheckOffset(topic string, p int, offset, first, next int64) error {
	if offset < first || offset > next {
		remedy := "start within what the topic holds"
		if offset < first {
			remedy = "the older rows were dropped; start at the first one held"
		}
		return tidemill.Invalid("topic %q partition %d holds offsets [%d,%d), and offset %d was asked for", remedy, topic, p, first, next, offset)
	}
	return nil
}

// CheckGrow returns tidemill.ErrInvalid unless a topic of has partitions may grow to want.
func CheckGrow(topic string, has, want int) error {
	if err := CheckPartitions(topic, want); err != nil {
		return err
	}
	if want < has {
		return tidemill.Invalid("topic %q has %d partitions, and %d are fewer", "partitions can only be added", topic, has, want)
	}
	return nil
}

// CheckCut returns tidemill.ErrInvalid unless cut has offsets for at most n partitions.
func CheckCut(topic string, cut tidemill.Cut, n int) error {
	if len(cut) > n {
		return tidemill.Invalid("topic %q has %d partitions and the cut %d", "give one offset per partition", topic, n, len(cut))
	}
	for p, o := range cut {
		if o < 0 {
			return tidemill.Invalid("the cut has offset %d for partition %d", "offsets begin at 0", o, p)
		}
	}
	return nil
}

// Dropped is the error for offset, which lies below the first one held.
func Dropped(topic string, p int, offset, first int64) error {
	return fmt.Errorf("topic %q partition %d: rows from offset %d on were dropped, the first one held is %d: %w", topic, p, offset, first, tidemill.ErrNotFound)
}
