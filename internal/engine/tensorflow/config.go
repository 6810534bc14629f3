//go:build tensorflow

package tensorflow

import "google.golang.org/protobuf/encoding/protowire"

// Fields of tensorflow.ConfigProto and of the messages in it.
const (
	configIntraThreads = 2
	configInterThreads = 5
	configPerSession   = 9 // threads of its own for each session
	configGraphOptions = 10
	graphOptimizer     = 3
	graphRewrite       = 10
	optimizerLevel     = 3
	rewriteDisable     = 19
	optimizerLevelNone = -1
	inCallersThread    = -1
)

// configure returns a serialized ConfigProto for sessions with so many threads. Graphs run as they
// are written: what the optimizers would fuse depends on what is fetched, and a prediction would
// then have other bits than the same prediction beside its gradient.
func configure(threads int) []byte {
	varint := func(b []byte, field protowire.Number, v int64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
	}
	message := func(b []byte, field protowire.Number, m []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
	}
	inter := int64(threads)
	if threads == 1 {
		inter = inCallersThread
	}
	b := varint(nil, configIntraThreads, int64(threads))
	b = varint(b, configInterThreads, inter)
	b = varint(b, configPerSession, 1)
	options := message(nil, graphOptimizer, varint(nil, optimizerLevel, optimizerLevelNone))
	options = message(options, graphRewrite, varint(nil, rewriteDisable, 1))
	return message(b, configGraphOptions, options)
}
