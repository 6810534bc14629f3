package ps

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// FuzzPiece: whatever a piece of a shard holds, it is taken or refused as corrupt; what is
// taken has the shapes of the model.
func FuzzPiece(f *testing.F) {
	w := randomWork(f, 1, 0)
	f.Cleanup(w.release)
	seed := start(f, w.assignment(1), store(f), false)
	must(f, w.train(context.Background(), seed, 0, 2, false))
	for _, rest := range []bool{false, true} {
		req := &wire.CopyRequest{Job: seed.asg.Job, Generation: 1, Routes: seed.asg.Routes(), Rest: rest, Round: 2, Cut: w.cut(2)}
		if rest {
			req.Copy = 1
		}
		must(f, seed.ps[0].Copy(context.Background(), req, func(p *wire.Piece) error {
			m, err := pieceMessage(p)
			must(f, err)
			f.Add(marshal(f, m))
			return nil
		}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m pspb.Piece
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		p, err := pieceOf(&m)
		if err == nil {
			s := newShard(w.model, 0, w.spec.Shards)
			r := &arrival{model: w.model, shard: s, since: make([]*wire.Since, len(s.tables))}
			if err = r.take(p); err == nil {
				for i, tab := range s.tables {
					if r.since[i] != nil {
						tab.resume(r.since[i])
					}
				}
				for _, tab := range s.tables {
					for row := range tab.n {
						if tab.find(tab.id(row)) != row {
							t.Fatalf("row %d is not where its id is looked for", row)
						}
					}
				}
			}
		}
		if err != nil && !errors.Is(err, tidemill.ErrCorrupt) && !errors.Is(err, tidemill.ErrInvalid) {
			t.Fatalf("refused as %v", err)
		}
	})
}
