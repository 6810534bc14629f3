package lease

import (
	"context"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
)

// Entry is one key at one revision.
type Entry struct {
	Key   string
	Value []byte // the receiver's own
	// Revision orders all writes of a store. Of a deleted entry it is the last one delivered.
	Revision uint64
	Deleted  bool // deleted or expired; only Watch delivers these
}

// Options opens a store.
type Options struct {
	// TTL after which an entry that is not written again expires; 0 means never. Whole seconds
	// (what JetStream can keep), from 1 s to a day; the same for all who open the store.
	TTL time.Duration
}

// Validate refuses a TTL that some store could not keep.
func (o Options) Validate() error {
	if o.TTL != 0 && (o.TTL < time.Second || o.TTL > 24*time.Hour || o.TTL%time.Second != 0) {
		return tidemill.Invalid("a lease store cannot keep a TTL of %v", "use whole seconds from 1s to 24h, or 0 for entries that stay", o.TTL)
	}
	return nil
}

// Store is a compare-and-set store of small values (at most 1 MiB). It is safe for concurrent
// use. A revision given to it is one that it gave out for that key. An error that is none of the kinds named here wraps tidemill.ErrUnavailable: the write
// may or may not have happened.
type Store interface {
	// Create writes a key that does not exist, or tidemill.ErrExists. It returns the entry's
	// revision.
	Create(ctx context.Context, key string, value []byte) (uint64, error)
	// Update replaces the entry whose current revision is rev, restarting its TTL, or returns
	// tidemill.ErrConflict: it was written, deleted or expired in between. It returns the new
	// revision.
	Update(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)
	// Delete removes the entry whose current revision is rev, or returns tidemill.ErrConflict.
	Delete(ctx context.Context, key string, rev uint64) error
	// Get reads an entry, or tidemill.ErrNotFound. On a replicated store it is a hint: decide
	// by a compare-and-set that succeeded, never by a read.
	Get(ctx context.Context, key string) (Entry, error)
	// List reads the entries whose keys begin with prefix, sorted by key; a hint like Get.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Watch delivers the present entries whose keys begin with prefix, then one Entry with
	// Key "" (caught up), then changes. Of several changes to one key a slow reader may get
	// only the last; a deletion or an expiry comes as Deleted, once, if the entry was
	// delivered before. It survives reconnects and a replaced store: what was missed is
	// delivered afterwards. The channel is closed when ctx or the store ends.
	Watch(ctx context.Context, prefix string) (<-chan Entry, error)
	// Incarnation names this life of the store's contents: it changes when they are lost and
	// the store starts empty again.
	Incarnation(ctx context.Context) (string, error)
	// TTL is what the store was opened with.
	TTL() time.Duration
	// Close ends all watches. It does not delete anything.
	Close() error
}

// maxKey bounds keys, so that they fit every store's limits with room for its prefix.
const maxKey = 256

// MaxValue is the largest value in bytes.
const MaxValue = 1 << 20

// Check refuses keys and values that some store could not keep: keys are 1 to 256 of
// [A-Za-z0-9-_=/.], with no empty part between dots, and do not begin with "_".
func Check(key string, value []byte) error {
	if err := checkKey(key); err != "" {
		return tidemill.Invalid("key %.80q %s", "use 1 to 256 of letters, digits, - _ = / and single dots inside", key, err)
	}
	if len(value) > MaxValue {
		return tidemill.Invalid("the value of %s has %d bytes, more than %d", "keep large data in the object store and its name here",
			key, len(value), MaxValue)
	}
	return nil
}

func checkKey(key string) string {
	switch {
	case key == "":
		return "is empty"
	case len(key) > maxKey:
		return "is too long"
	case key[0] == '_':
		return "begins with an underscore, which the store keeps to itself"
	case key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, ".."):
		return "has an empty part between dots"
	}
	for i := 0; i < len(key); i++ {
		c := key[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '-', c == '_', c == '=', c == '/', c == '.':
		default:
			return "has a character that is not allowed"
		}
	}
	return ""
}
