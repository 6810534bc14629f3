package ps

import (
	"encoding/json"

	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// maxFacts bounds what a piece says of snapshots beside ids, in bytes: some hundred blobs.
const maxFacts = 1 << 20

// sinceMessage returns a message that reads the memory of s.
func sinceMessage(s *wire.Since) (*pspb.Since, error) {
	facts, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	m := &pspb.Since{Rows: rawOf(s.Rows), Gone: rawOf(s.Gone), Facts: facts}
	if s.Tried != nil {
		m.TriedRows, m.TriedGone = rawOf(s.Tried.Rows), rawOf(s.Tried.Gone)
	}
	return m, nil
}

// sinceOf takes the bytes of m.
func sinceOf(m *pspb.Since) (*wire.Since, error) {
	ids := [...][]byte{m.GetRows(), m.GetGone(), m.GetTriedRows(), m.GetTriedGone()}
	for _, b := range ids {
		if !whole[uint64](b) || len(b)/8 > mostCompared {
			return nil, broken("copy", "has %d bytes of ids that changed", len(b))
		}
	}
	if len(m.GetFacts()) > maxFacts {
		return nil, broken("copy", "has %d bytes about snapshots", len(m.GetFacts()))
	}
	s := &wire.Since{}
	if err := json.Unmarshal(m.GetFacts(), s); err != nil {
		return nil, broken("copy", "has facts about snapshots that are not the JSON they should be (%v)", err)
	}
	s.Rows, s.Gone = valuesOf[uint64](ids[0]), valuesOf[uint64](ids[1])
	if s.Tried != nil {
		s.Tried.Rows, s.Tried.Gone = valuesOf[uint64](ids[2]), valuesOf[uint64](ids[3])
	}
	return s, nil
}
