package snapshot

import (
	"errors"
	"testing"

	"gocloud.dev/blob/memblob"

	"github.com/tidemill/tidemill"
)

// A record that is missing is so at every look, unlike one that is removed during one.
func TestListFindsGaps(t *testing.T) {
	b := memblob.OpenBucket(nil)
	defer b.Close()
	ctx := t.Context()
	c := NewChain(b, "jobs/j/snapshot/", "/manifest.json")
	for n := int64(1); n <= 5; n++ {
		must(t, c.Append(ctx, n, []byte("x")))
	}
	must(t, b.Delete(ctx, c.Name(3)))
	if all, err := c.List(ctx, 1); !errors.Is(err, tidemill.ErrCorrupt) || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	if all, err := c.List(ctx, 4); err != nil || len(all) != 2 {
		t.Errorf("behind the gap: %v, %v", all, err)
	}
}
