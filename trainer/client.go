package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/trainer/trainerpb"
)

// NewClient returns the trainer at the other end of conn, which stays the caller's, as workers
// see it. It is safe for concurrent use. tidemill.ErrNotReady means that another trainer
// leads, tidemill.ErrUnavailable that this one cannot be reached.
func NewClient(conn grpc.ClientConnInterface) wire.Coordinator {
	return &remote{trainerpb.NewTrainerClient(conn)}
}

// NewCommander returns the trainer at the other end of conn, which stays the caller's, as
// operators see it. It is safe for concurrent use. After tidemill.ErrUnavailable a command may
// or may not have been carried out.
func NewCommander(conn grpc.ClientConnInterface) Commander {
	return &remote{trainerpb.NewTrainerClient(conn)}
}

type remote struct{ trainer trainerpb.TrainerClient }

// Connect implements wire.Coordinator. It returns once the trainer has accepted the link.
func (c *remote) Connect(ctx context.Context, member string) (wire.Link, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.trainer.Link(ctx)
	if err != nil {
		cancel()
		return nil, callError("connect", err)
	}
	l := &remoteLink{stream: stream, cancel: cancel}
	if err := l.up(&trainerpb.Up{Kind: &trainerpb.Up_Hello{Hello: &trainerpb.Hello{Member: member}}}); err != nil && !errors.Is(err, io.EOF) {
		l.Close()
		return nil, callError("connect", err)
	}
	// A stream that was refused has neither headers nor an error here: Recv says why.
	head, err := stream.Header()
	if err == nil && head == nil {
		if _, err = stream.Recv(); err == nil || errors.Is(err, io.EOF) {
			err = fmt.Errorf("the trainer ended the link: %w", tidemill.ErrUnavailable)
		}
	}
	if err != nil {
		l.Close()
		return nil, callError("connect", err)
	}
	return l, nil
}

// remoteLink is a worker's end of a stream. Send may be called by several goroutines, Recv by one
// at a time.
type remoteLink struct {
	stream grpc.BidiStreamingClient[trainerpb.Up, trainerpb.Down]
	cancel context.CancelFunc
	mu     sync.Mutex // held while sending
}

func (l *remoteLink) up(m *trainerpb.Up) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream.Send(m)
}

// Send implements wire.Link. It returns once the report is on its way.
func (l *remoteLink) Send(job string, r *wire.Report) error {
	err := l.up(&trainerpb.Up{Kind: &trainerpb.Up_Report{Report: encodeReport(job, r)}})
	if errors.Is(err, io.EOF) { // Recv says why
		return fmt.Errorf("trainer: report: the link has ended: %w", tidemill.ErrUnavailable)
	}
	if err != nil {
		return callError("report", err)
	}
	return nil
}

// Recv implements wire.Link.
func (l *remoteLink) Recv() (wire.Grant, error) {
	m, err := l.stream.Recv()
	if errors.Is(err, io.EOF) {
		return wire.Grant{}, fmt.Errorf("trainer: the link has ended: %w", tidemill.ErrUnavailable)
	}
	if err != nil {
		return wire.Grant{}, callError("grant", err)
	}
	g, err := decodeGrant(m.GetGrant())
	if err != nil {
		l.cancel()
	}
	return g, err
}

// Close implements wire.Link.
func (l *remoteLink) Close() { l.cancel() }

func encodeReport(job string, r *wire.Report) *trainerpb.Report {
	m := &trainerpb.Report{
		Job: job, Generation: r.Generation, Partition: int32(r.Partition), Epoch: r.Epoch, Routes: r.Routes,
		Joined: r.Joined, Next: r.Next, Acked: r.Acked,
		AtEnd: r.AtEnd, End: r.End, Torn: r.Torn,
		// Said in part rather than not at all: a job must not hang for the length of its fault.
		Fault: strings.ToValidUTF8(r.Fault[:min(len(r.Fault), maxFault)], ""),
	}
	for _, o := range r.Offers {
		m.Offers = append(m.Offers, &trainerpb.Offer{First: o.First, Step: o.Step, Count: o.Count})
	}
	return m
}

func decodeGrant(m *trainerpb.Grant) (wire.Grant, error) {
	bad := func(what string) (wire.Grant, error) {
		return wire.Grant{}, fmt.Errorf("trainer: grant: %s: %w", what, tidemill.ErrCorrupt)
	}
	if m == nil {
		return bad("the message is empty")
	}
	g := wire.Grant{
		Job: m.GetJob(), Generation: m.GetGeneration(), Partition: int(m.GetPartition()), Epoch: m.GetEpoch(), Routes: m.GetRoutes(), Next: m.GetNext(),
		Run: tidemill.Run{Round: m.GetRun().GetRound(), Count: m.GetRun().GetCount()},
	}
	if g.Partition < 0 || g.Partition >= maxPartitions || g.Next < 0 || g.Run.Round < 0 || g.Run.Count < 0 || len(m.GetRun().GetParts()) > maxPartitions {
		return bad("a number is out of its range")
	}
	for i, p := range m.GetRun().GetParts() {
		q := tidemill.PartRun{Partition: int(p.GetPartition()), First: p.GetFirst(), Step: p.GetStep()}
		if q.Partition < 0 || q.Partition >= maxPartitions || i > 0 && q.Partition <= g.Run.Parts[i-1].Partition {
			return bad("the partitions of a round do not ascend")
		}
		if q.First < 0 || q.Step < 1 || g.Run.Count > (1<<63-1-q.First)/q.Step {
			return bad("a run leaves the range of offsets")
		}
		g.Run.Parts = append(g.Run.Parts, q)
	}
	return g, nil
}

// Command implements Commander.
func (c *remote) Command(ctx context.Context, job, verb string, args map[string]string) ([]byte, error) {
	m := &trainerpb.CommandRequest{Job: job, Verb: verb, Args: maps.Clone(args), By: args[argBy]}
	delete(m.Args, argBy)
	reply, err := c.trainer.Command(ctx, m)
	if err != nil {
		return nil, callError(verb, err)
	}
	return reply.GetJson(), nil
}

// callError gives an error of a call its kind; without a connection or after the context's end
// that is tidemill.ErrUnavailable.
func callError(op string, err error) error {
	err = rpc.FromStatus(err)
	if errors.Is(err, context.Canceled) && !errors.Is(err, tidemill.ErrUnavailable) {
		return fmt.Errorf("%s: %w: %w", op, tidemill.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}
