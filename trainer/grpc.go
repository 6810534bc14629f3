package trainer

import (
	"context"
	"errors"
	"io"
	"maps"

	"google.golang.org/grpc"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/snapshot"
	"github.com/tidemill/tidemill/internal/wire"
	"github.com/tidemill/tidemill/trainer/trainerpb"
)

// Limits of one message, far above what a worker or an operator sends.
const (
	maxPartitions = 1 << 16
	maxOffers     = 1 << 16
	maxFault      = 1 << 14 // bytes
	maxArgs       = 64
	maxArg        = 1 << 21 // bytes of a name and its value; the largest is a spec
)

// Commander carries out what people tell the trainer to do; job may be empty where the verb is
// not about one, and args["by"] names who says so. The answer is JSON, its form depends on the
// verb.
//
// Errors: ErrInvalid for an unknown verb or bad arguments, ErrNotFound for a job or model that
// is not there, ErrNotReady where another trainer leads (ask that one).
type Commander interface {
	Command(ctx context.Context, job, verb string, args map[string]string) ([]byte, error)
}

// argBy is the argument that names who gives a command.
const argBy = "by"

// Register offers links to c and commands to cmd over gRPC. r is a server of internal/rpc,
// which gives errors their codes and decides who may call.
func Register(r grpc.ServiceRegistrar, c wire.Coordinator, cmd Commander) {
	trainerpb.RegisterTrainerServer(r, &grpcService{links: c, commands: cmd})
}

// grpcService converts messages to what the trainer's own twin takes, and back.
type grpcService struct {
	trainerpb.UnimplementedTrainerServer
	links    wire.Coordinator
	commands Commander
}

// Link implements trainerpb.TrainerServer. It ends when the worker goes, or when the
// coordinator ends the link.
func (s *grpcService) Link(stream grpc.BidiStreamingServer[trainerpb.Up, trainerpb.Down]) error {
	up, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	if up.GetHello() == nil {
		return tidemill.Invalid("a link begins with something else than its hello", "send the member's name first")
	}
	member := up.GetHello().GetMember()
	if err := snapshot.CheckName("member", member); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	link, err := s.links.Connect(ctx, member)
	if err != nil {
		return err
	}
	defer link.Close()
	// The headers tell the client that the link stands.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	// Only the end of this function ends stream.Recv, so the goroutine outlives it by a moment;
	// a link that is closed refuses what it still brings.
	ended := make(chan error, 1)
	go func() {
		ended <- takeReports(stream, link)
		cancel() // ends the link, and so Recv below
	}()
	for {
		g, err := link.Recv()
		if err == nil {
			err = stream.Send(&trainerpb.Down{Grant: encodeGrant(&g)})
		}
		if err == nil {
			continue
		}
		select {
		case first := <-ended: // the worker's end is why Recv failed
			return first
		default:
			return err
		}
	}
}

// takeReports delivers what the worker says until it has said everything.
func takeReports(stream grpc.BidiStreamingServer[trainerpb.Up, trainerpb.Down], link wire.Link) error {
	for {
		up, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		job, r, err := decodeReport(up.GetReport())
		if err != nil {
			return err
		}
		if err := link.Send(job, r); err != nil {
			return err
		}
	}
}

func decodeReport(m *trainerpb.Report) (job string, r *wire.Report, err error) {
	if m == nil {
		return "", nil, tidemill.Invalid("a link has a message that is no report", "send the hello once, then reports")
	}
	if err := snapshot.CheckName("job", m.GetJob()); err != nil {
		return "", nil, err
	}
	if p := m.GetPartition(); p < 0 || p >= maxPartitions {
		return "", nil, tidemill.Invalid("report on partition %d", "partitions are 0 to 65535", p)
	}
	if m.GetNext() < 0 || m.GetAcked() < 0 || m.GetEnd() < 0 {
		return "", nil, tidemill.Invalid("report with next %d, acknowledged %d and end %d", "offsets begin at 0", m.GetNext(), m.GetAcked(), m.GetEnd())
	}
	if len(m.GetOffers()) > maxOffers || len(m.GetFault()) > maxFault {
		return "", nil, tidemill.Invalid("report with %d offers and a fault of %d bytes", "send at most 65536 and 16384", len(m.GetOffers()), len(m.GetFault()))
	}
	r = &wire.Report{
		Generation: m.GetGeneration(), Partition: int(m.GetPartition()), Epoch: m.GetEpoch(),
		Joined: m.GetJoined(), Next: m.GetNext(), Acked: m.GetAcked(),
		AtEnd: m.GetAtEnd(), End: m.GetEnd(), Torn: m.GetTorn(), Fault: m.GetFault(),
		Routes: m.GetRoutes(),
	}
	for _, o := range m.GetOffers() {
		f := wire.Offer{First: o.GetFirst(), Step: o.GetStep(), Count: o.GetCount()}
		// The last test is First+Step·Count ≤ MaxInt64 without the overflow.
		if f.First < 0 || f.Step < 1 || f.Count < 0 || f.Count > (1<<63-1-f.First)/f.Step {
			return "", nil, tidemill.Invalid("offer of %d batches of %d from offset %d", "offsets are 0 to 9223372036854775807", f.Count, f.Step, f.First)
		}
		r.Offers = append(r.Offers, f)
	}
	return m.GetJob(), r, nil
}

func encodeGrant(g *wire.Grant) *trainerpb.Grant {
	m := &trainerpb.Grant{
		Job: g.Job, Generation: g.Generation, Partition: int32(g.Partition), Epoch: g.Epoch, Next: g.Next, Routes: g.Routes,
		Run: &trainerpb.Run{Round: g.Run.Round, Count: g.Run.Count},
	}
	for _, p := range g.Run.Parts {
		m.Run.Parts = append(m.Run.Parts, &trainerpb.PartRun{Partition: int32(p.Partition), First: p.First, Step: p.Step})
	}
	return m
}

// Command implements trainerpb.TrainerServer.
func (s *grpcService) Command(ctx context.Context, m *trainerpb.CommandRequest) (*trainerpb.CommandReply, error) {
	args, err := decodeCommand(m)
	if err != nil {
		return nil, err
	}
	data, err := s.commands.Command(ctx, m.GetJob(), m.GetVerb(), args)
	if err != nil {
		return nil, err
	}
	return &trainerpb.CommandReply{Json: data}, nil
}

// decodeCommand returns the arguments of a command that keeps to the limits.
func decodeCommand(m *trainerpb.CommandRequest) (map[string]string, error) {
	if m.GetJob() != "" { // some verbs are about none
		if err := snapshot.CheckName("job", m.GetJob()); err != nil {
			return nil, err
		}
	}
	if err := snapshot.CheckName("command", m.GetVerb()); err != nil {
		return nil, err
	}
	if len(m.GetArgs()) > maxArgs || len(m.GetBy()) > maxArg {
		return nil, tidemill.Invalid("a command with %d arguments, by a name of %d bytes", "give at most 64, and 2 MiB each", len(m.GetArgs()), len(m.GetBy()))
	}
	if _, twice := m.GetArgs()[argBy]; twice {
		return nil, tidemill.Invalid("a command with %q among its arguments", "name who gives it in the field of its own", argBy)
	}
	args := maps.Clone(m.GetArgs())
	if args == nil {
		args = map[string]string{}
	}
	for name, value := range args {
		if len(name)+len(value) > maxArg {
			return nil, tidemill.Invalid("a command has an argument of %d bytes", "give at most 2 MiB", len(name)+len(value))
		}
	}
	if m.GetBy() != "" {
		args[argBy] = m.GetBy()
	}
	return args, nil
}
