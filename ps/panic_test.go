package ps

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
)

// A panic while an event of one job is applied is answered, to who asked and to who waits, and
// the job answers nothing more until it goes back to a cut. The process and its lock live.
func TestPanicBreaksTheJobAlone(t *testing.T) {
	both(t, func(t *testing.T, w *work, c *cluster) {
		p, asg := c.ps[0], c.asg
		var into wire.PullReply
		pull := func(round int64) error {
			return p.Pull(t.Context(), &wire.PullRequest{Header: c.header(0, round), IDs: make([][]uint64, len(w.model.Layout.Tables))}, &into)
		}
		must(t, pull(1))
		waits := waiting(c, 0, func() error { return pull(2) })
		j, err := c.servers[0].job(asg.Job)
		must(t, err)
		j.mu.Lock()
		j.record = func(string, *Event, []Effect) { panic("planted") }
		j.mu.Unlock()
		var push wire.PushRequest = *w.empty(c, 0, 1, tidemill.Range{First: 0, Next: 4})
		for what, err := range map[string]error{"the push": p.Push(t.Context(), &push), "the pull that waited": <-waits, "another pull": pull(1)} {
			if !errors.Is(err, tidemill.ErrCorrupt) || !strings.Contains(err.Error(), "planted") {
				t.Errorf("%s was answered with %v", what, err)
			}
		}
		j.mu.Lock() // would wait for ever
		j.record = nil
		j.mu.Unlock()
		asg.Generation++
		asg.Seq++
		c.assign(asg)
		must(t, pull(1))
	})
}
