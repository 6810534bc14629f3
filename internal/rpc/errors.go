package rpc

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidemill/tidemill"
)

// kinds is the one map between the kinds of error and the wire: the code is for every gRPC
// client, the reason (in an ErrorInfo detail) tells kinds of the same code apart. The first
// that matches an error wins.
var kinds = []struct {
	kind   error
	code   codes.Code
	reason string
}{
	{tidemill.ErrFenced, codes.FailedPrecondition, "FENCED"},
	{tidemill.ErrCorrupt, codes.DataLoss, "CORRUPT"},
	{tidemill.ErrDenied, codes.PermissionDenied, "DENIED"},
	{tidemill.ErrInvalid, codes.InvalidArgument, "INVALID"},
	{tidemill.ErrNotFound, codes.NotFound, "NOT_FOUND"},
	{tidemill.ErrExists, codes.AlreadyExists, "EXISTS"},
	{tidemill.ErrConflict, codes.Aborted, "CONFLICT"},
	{tidemill.ErrFull, codes.ResourceExhausted, "FULL"},
	{tidemill.ErrNotReady, codes.Unavailable, "NOT_READY"},
	{tidemill.ErrUnavailable, codes.Unavailable, "UNAVAILABLE"},
}

// byCode gives a kind to statuses that carry no reason: gRPC's own and other servers'.
var byCode = map[codes.Code]error{
	codes.InvalidArgument:   tidemill.ErrInvalid,
	codes.OutOfRange:        tidemill.ErrInvalid,
	codes.Unimplemented:     tidemill.ErrInvalid,
	codes.NotFound:          tidemill.ErrNotFound,
	codes.AlreadyExists:     tidemill.ErrExists,
	codes.Aborted:           tidemill.ErrConflict,
	codes.DataLoss:          tidemill.ErrCorrupt,
	codes.ResourceExhausted: tidemill.ErrFull,
	codes.Unavailable:       tidemill.ErrUnavailable,
	codes.DeadlineExceeded:  tidemill.ErrUnavailable,
	codes.PermissionDenied:  tidemill.ErrDenied,
	codes.Unauthenticated:   tidemill.ErrDenied,
}

const (
	domain     = "tidemill"
	maxMessage = 1024 // characters of an error message on the wire
	internal   = "internal error; the log of the process that answered says more"
)

// ToStatus turns an error into the status that a server answers with. Kinds keep their
// identity; a context's end is Canceled or DeadlineExceeded; a status stays one; anything else
// becomes Internal without its text, which only the server's log may show. Messages hold at
// most 1024 characters and neither addresses nor directories. Nil stays nil.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			st := status.New(k.code, clean(err))
			if with, derr := st.WithDetails(&errdetails.ErrorInfo{Reason: k.reason, Domain: domain}); derr == nil {
				st = with
			}
			return st.Err()
		}
	}
	var carried interface{ GRPCStatus() *status.Status }
	switch {
	case errors.As(err, &carried) && carried.GRPCStatus().Code() != codes.OK:
		return status.Error(carried.GRPCStatus().Code(), clean(err))
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "cancelled by the caller")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "not done before the deadline")
	}
	return status.Error(codes.Internal, internal)
}

// Error is an error that came over the wire. errors.Is finds its kind, and
// context.Canceled or context.DeadlineExceeded where the code says so; status.Code finds the
// code.
type Error struct {
	Kind    error // one of package tidemill's, or nil
	Code    codes.Code
	Message string
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind and what the code means in this process.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	switch e.Code {
	case codes.Canceled:
		errs = append(errs, context.Canceled)
	case codes.DeadlineExceeded:
		errs = append(errs, context.DeadlineExceeded)
	}
	return errs
}

// GRPCStatus lets package status read the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// FromStatus turns what a call returned into an *Error. Nil, and errors that are no status
// (io.EOF at a stream's end), stay as they are.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	var done *Error
	if errors.As(err, &done) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return err
	}
	e := &Error{Kind: byCode[st.Code()], Code: st.Code(), Message: redact(st.Message())}
	if e.Message == "" {
		e.Message = strings.ToLower(st.Code().String())
	}
	for _, d := range st.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != domain {
			continue
		}
		for _, k := range kinds {
			// A code that does not fit was not written by ToStatus.
			if k.reason == info.GetReason() && k.code == st.Code() {
				e.Kind = k.kind
			}
		}
	}
	return e
}

// clean is the message of err as others may read it.
func clean(err error) string {
	msg := err.Error()
	var path *fs.PathError
	if errors.As(err, &path) && filepath.IsAbs(path.Path) {
		msg = strings.ReplaceAll(msg, path.Path, filepath.Base(path.Path))
	}
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.Name != "" {
		msg = strings.ReplaceAll(msg, dns.Name, hidden)
	}
	// Far more than is kept, far less than an error may have.
	msg = msg[:min(len(msg), 16*maxMessage)]
	return truncate(redact(strings.ToValidUTF8(msg, "\uFFFD")))
}

func truncate(s string) string {
	if utf8.RuneCountInString(s) <= maxMessage {
		return s
	}
	r := []rune(s)
	return string(r[:maxMessage-1]) + "…"
}

var (
	// ipv4 finds dotted quads with their port; ipv6 anything with colons that may be an address,
	// which netip then decides, so that times of day stay.
	ipv4 = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b`)
	ipv6 = regexp.MustCompile(`\[?[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[0-9A-Za-z_.-]+)?(?:\]:\d{1,5}|\])?`)
)

const hidden = "(address)"

// redact removes network addresses from a message.
func redact(s string) string {
	s = ipv4.ReplaceAllStringFunc(s, func(m string) string {
		host, _, _ := strings.Cut(m, ":")
		if _, err := netip.ParseAddr(host); err != nil {
			return m
		}
		return hidden
	})
	return ipv6.ReplaceAllStringFunc(s, func(m string) string {
		bare := strings.TrimRight(m, ":.")
		rest := m[len(bare):]
		host := strings.TrimPrefix(bare, "[")
		if i := strings.IndexByte(host, ']'); i >= 0 {
			host = host[:i]
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return hidden + rest
		}
		if _, err := netip.ParseAddr(m); err == nil { // ends in ::
			return hidden
		}
		return m
	})
}
