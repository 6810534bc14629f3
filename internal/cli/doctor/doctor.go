package doctor

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/rpc"
)

// Status of a Finding.
type Status string

// Statuses: fail keeps a node from working, warn makes it work worse than it could.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// Config says where to look. DataDir is required.
type Config struct {
	DataDir string
	// RPC is the address of a node to ask about the cluster; "": that of the node which uses,
	// or last used, the data directory; without one the cluster is not asked.
	RPC string
	// Dial connects to a node.
	Dial func(addr string) (*grpc.ClientConn, error)
	// Security is what Dial shows and believes: the certificate to examine.
	Security rpc.Security
	// Now is the clock that is examined; nil is the machine's.
	Now func() time.Time
}

// askTimeout bounds each question to a node.
const askTimeout = 3 * time.Second

// Examine runs all checks. It returns early when ctx ends.
func Examine(ctx context.Context, cfg Config) []Finding {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &exam{cfg: cfg}
	e.engines()
	e.directory()
	e.disk(ctx)
	e.ports()
	e.certificate()
	e.cluster(ctx)
	e.clock(ctx)
	return e.found
}

// exam is an Examine under way.
type exam struct {
	cfg     Config
	found   []Finding
	info    node.Info // of the node that uses or used the data directory
	known   bool      // info is there
	usable  bool      // files can be made in the data directory
	running bool      // a process holds the data directory
}

func (e *exam) note(check string, s Status, detail, remedy string, args ...any) {
	e.found = append(e.found, Finding{Check: check, Status: s, Detail: fmt.Sprintf(detail, args...), Remedy: remedy})
}
