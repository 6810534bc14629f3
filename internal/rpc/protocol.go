package rpc

import (
	"context"

	"google.golang.org/grpc/metadata"

	"github.com/tidemill/tidemill"
)

// protocolKey is the metadata of every call between processes of a cluster: the versions that
// the caller speaks.
const protocolKey = "tidemill-protocol"

// firstProtocol is what a caller speaks who does not say.
var firstProtocol = tidemill.Protocols{Min: 1, Max: 1}

// speak adds what this process speaks to an outgoing call.
func speak(ctx context.Context, p tidemill.Protocols) context.Context {
	if !p.Known() {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, protocolKey, p.String())
}

// understand refuses a caller who speaks no version that this process does.
func understand(ctx context.Context, own tidemill.Protocols) error {
	if !own.Known() {
		return nil
	}
	caller := firstProtocol
	if said := metadata.ValueFromIncomingContext(ctx, protocolKey); len(said) > 0 {
		var err error
		if caller, err = tidemill.ParseProtocols(said[0]); err != nil {
			return err
		}
	}
	return own.Meet("the caller", caller)
}
