package source

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidemill/tidemill"
)

// MaxKeyLength bounds an append key, in bytes.
const MaxKeyLength = 1024

// ParseKey splits an append key at its last '/' into the prefix and the increasing decimal
// number, which must be written without sign or leading zeros.
func ParseKey(key string) (prefix string, n int64, err error) {
	if err := checkKeyLength(key); err != nil {
		return "", 0, err
	}
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return "", 0, tidemill.Invalid("append key %q has no '/'", keyRemedy, key)
	}
	if n, err = keyNumber(key, key[i+1:]); err != nil {
		return "", 0, err
	}
	return key[:i], n, nil
}

// FormatKey joins what ParseKey splits.
func FormatKey(prefix string, n int64) string {
	return prefix + "/" + strconv.FormatInt(n, 10)
}

// Key is an append key as Topic.Append takes it: PREFIX/NUMBER, or PREFIX/AFTER..NUMBER.
type Key struct {
	Prefix string
	Number int64 // -1: there is no key
	// After is the number of the last key under the prefix that the append may follow, 0 also
	// where there is none; -1: whatever it is. It is not stored.
	After int64
}

// AppendKey reads a key; "" is none.
func AppendKey(key string) (Key, error) {
	if key == "" {
		return Key{Number: -1, After: -1}, nil
	}
	if err := checkKeyLength(key); err != nil {
		return Key{}, err
	}
	k := Key{After: -1}
	stored := key
	if at := strings.LastIndexByte(key, '/') + 1; at > 0 {
		if after, number, ok := strings.Cut(key[at:], ".."); ok {
			var err error
			if k.After, err = keyNumber(key, after); err != nil {
				return Key{}, err
			}
			stored = key[:at] + number
		}
	}
	var err error
	k.Prefix, k.Number, err = ParseKey(stored)
	if err == nil && k.After >= k.Number {
		err = tidemill.Invalid("append key %q: its number is not above the one that it follows", keyRemedy, key)
	}
	return k, err
}

// Stored is how k is stored, and known again: PREFIX/NUMBER, or "" for none.
func (k Key) Stored() string {
	if k.Number < 0 {
		return ""
	}
	return FormatKey(k.Prefix, k.Number)
}

// String writes k as AppendKey reads it.
func (k Key) String() string {
	if k.After < 0 {
		return k.Stored()
	}
	return fmt.Sprintf("%s/%d..%d", k.Prefix, k.After, k.Number)
}

// Follows returns ErrConflict unless an append under k may follow one with number last, -1 for
// none, which is below k.Number.
func (k Key) Follows(topic string, p int, last int64) error {
	if k.Number < 0 || k.After < 0 || max(0, last) == k.After {
		return nil
	}
	return fmt.Errorf("topic %q partition %d: key %q does not follow the last one, %q: somebody else appends the same input with other bounds (read the last key again): %w",
		topic, p, k, FormatKey(k.Prefix, max(0, last)), tidemill.ErrConflict)
}

// OutOfOrder is the error of Append for a key that was never appended and is below last:
// ErrConflict where the key says what it follows, else ErrInvalid.
func (k Key) OutOfOrder(topic string, p int, last int64) error {
	if k.After >= 0 {
		return k.Follows(topic, p, last)
	}
	return tidemill.Invalid("topic %q partition %d: key %q comes after %q", "append the keys of one prefix in order", topic, p, k.Stored(), FormatKey(k.Prefix, last))
}

const keyRemedy = "write it as PREFIX/NUMBER, or PREFIX/AFTER..NUMBER"

func checkKeyLength(key string) error {
	if len(key) > MaxKeyLength {
		return tidemill.Invalid("an append key has %d bytes, more than %d", keyRemedy, len(key), MaxKeyLength)
	}
	return nil
}

func keyNumber(key, digits string) (int64, error) {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != digits {
		return 0, tidemill.Invalid("append key %q does not end in a decimal number", keyRemedy, key)
	}
	return n, nil
}
