package ps

import (
	"google.golang.org/grpc"

	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/ps/pspb"
)

// Register offers p over gRPC, as Server.Register does for a Server; a process whose Server
// changes with its session registers something that stands in for the present one.
func Register(r grpc.ServiceRegistrar, p wire.PS) { pspb.RegisterPSServer(r, &service{ps: p}) }
