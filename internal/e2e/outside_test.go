package e2e

import (
	"testing"

	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/node"
)

// TestOutsideStream: a stream that is not the node's own gives the same digest; the node with
// role stream then carries the object store alone.
func TestOutsideStream(t *testing.T) {
	yaml, csv := power(t, 600)
	var digests []string
	for _, outside := range []bool{false, true} {
		var cfg node.Config
		if outside {
			b, err := broker.Start(broker.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			cfg.StreamURL = b.URL()
		}
		s := start(t, t.TempDir(), cfg)
		doc := parse(t, yaml, nil)
		s.produce(doc.Spec.Stream.Topic, 2, csv)
		s.submit(doc)
		st := s.finish(doc.Spec.Model)
		if st.Examples != 600 {
			t.Errorf("outside %v: %d examples", outside, st.Examples)
		}
		digests = append(digests, st.Digest)
		s.stop()
	}
	if digests[0] != digests[1] {
		t.Errorf("digest %s on its own stream, %s on an outside one", digests[0], digests[1])
	}
}
