package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tidemill/tidemill"
)

func TestKindsRoundTrip(t *testing.T) {
	for _, k := range kinds {
		local := fmt.Errorf("shard 3: %w", fmt.Errorf("apply: %w", k.kind))
		wire := ToStatus(local)
		if status.Code(wire) != k.code {
			t.Errorf("%v: code %v, want %v", k.kind, status.Code(wire), k.code)
		}
		got := FromStatus(wire)
		for _, other := range kinds {
			if errors.Is(got, other.kind) != (other.kind == k.kind) {
				t.Errorf("%v came back as %v", k.kind, other.kind)
			}
		}
		if got.Error() != local.Error() {
			t.Errorf("message %q, want %q", got, local)
		}
		// A second hop, as when a node passes on what another answered.
		again := FromStatus(ToStatus(fmt.Errorf("asking ps2: %w", got)))
		if !errors.Is(again, k.kind) || status.Code(again) != k.code {
			t.Errorf("%v after two hops: %v", k.kind, again)
		}
	}
}

func TestToStatus(t *testing.T) {
	long := strings.Repeat("ü", 3000)
	path := &fs.PathError{Op: "open", Path: "/var/lib/tidemill/blobs/x.arrow", Err: fs.ErrNotExist}
	for _, c := range []struct {
		name string
		err  error
		code codes.Code
		msg  string
	}{
		{"nil", nil, codes.OK, ""},
		{"no kind", errors.New("secret"), codes.Internal, internal},
		{"cancelled", fmt.Errorf("x: %w", context.Canceled), codes.Canceled, "cancelled by the caller"},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "not done before the deadline"},
		{"status", status.Error(codes.Unimplemented, "no"), codes.Unimplemented, "rpc error: code = Unimplemented desc = no"},
		{"remote", &Error{Code: codes.Unimplemented, Message: "no"}, codes.Unimplemented, "no"},
		{"input", tidemill.Invalid("column x is missing", "add it"), codes.InvalidArgument, "column x is missing (add it)"},
		{"path", fmt.Errorf("%w: %w", tidemill.ErrCorrupt, path), codes.DataLoss, "corrupt: open x.arrow: file does not exist"},
		{"name", fmt.Errorf("%w: %w", tidemill.ErrUnavailable, &net.DNSError{Err: "no such host", Name: "ps1.local", Server: "10.0.0.1:53"}),
			codes.Unavailable, "unavailable: lookup (address) on (address): no such host"},
		{"long", fmt.Errorf("%w: %s", tidemill.ErrFull, long), codes.ResourceExhausted, "full: " + long[:2*(1024-7)] + "…"},
	} {
		st := status.Convert(ToStatus(c.err))
		if st.Code() != c.code || st.Message() != c.msg {
			t.Errorf("%s: got %v %q, want %v %q", c.name, st.Code(), st.Message(), c.code, c.msg)
		}
	}
}

func TestFromStatus(t *testing.T) {
	if err := FromStatus(nil); err != nil {
		t.Error(err)
	}
	if err := FromStatus(io.EOF); err != io.EOF {
		t.Error(err)
	}
	err := FromStatus(status.Error(codes.DeadlineExceeded, "late"))
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, tidemill.ErrUnavailable) {
		t.Errorf("a deadline became %v", err)
	}
	err = FromStatus(status.Error(codes.Canceled, ""))
	if !errors.Is(err, context.Canceled) || err.Error() != "canceled" {
		t.Errorf("a cancellation became %v", err)
	}
	for code, kind := range byCode {
		if err := FromStatus(status.Error(code, "x")); !errors.Is(err, kind) {
			t.Errorf("%v became %v", code, err)
		}
	}
	// A precondition that another server meant is not a fence of ours.
	if err := FromStatus(status.Error(codes.FailedPrecondition, "x")); errors.Is(err, tidemill.ErrFenced) {
		t.Error("a failed precondition became a fence")
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"dial tcp 127.0.0.1:7947: connect: connection refused":         "dial tcp (address): connect: connection refused",
		"read tcp 10.1.2.3:4->10.1.2.4:5: broken pipe":                 "read tcp (address)->(address): broken pipe",
		"dial tcp [::1]:80: i/o timeout":                               "dial tcp (address): i/o timeout",
		"from fe80::1%eth0 and 2001:db8::ff:1":                         "from (address) and (address)",
		"at 12:34:56 the gate held 1.5 of 3":                           "at 12:34:56 the gate held 1.5 of 3",
		"spec.yaml:12:3: unknown key":                                  "spec.yaml:12:3: unknown key",
		"999.1.1.1 is no address":                                      "999.1.1.1 is no address",
		"shard 3: epoch 1795366051597428 is older: lookup of a: fine":  "shard 3: epoch 1795366051597428 is older: lookup of a: fine",
		"peer ::1: gone, [2001:db8::1]: gone":                          "peer (address): gone, (address): gone",
		"00:1b:44:11:3a:b7 is a card, not in the list a:b:c:d:e:f:g:h": "00:1b:44:11:3a:b7 is a card, not in the list a:b:c:d:e:f:g:h",
	} {
		if got := redact(in); got != want {
			t.Errorf("%q\n became %q\n    want %q", in, got, want)
		}
	}
}

func FuzzMessages(f *testing.F) {
	for _, s := range []string{"", "dial tcp 127.0.0.1:1: x", "[::1]:2", "\xff", strings.Repeat("1.2.3.4 ", 400), "::::", "a:b::c%d]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		wire := ToStatus(fmt.Errorf("%s%w", s, tidemill.ErrFenced))
		msg := status.Convert(wire).Message()
		if !utf8.ValidString(msg) || utf8.RuneCountInString(msg) > maxMessage {
			t.Fatalf("%q became %q", s, msg)
		}
		for _, quad := range ipv4.FindAllString(msg, -1) {
			host, _, _ := strings.Cut(quad, ":")
			if net.ParseIP(host) != nil {
				t.Fatalf("%q kept the address %s", s, quad)
			}
		}
		if got := FromStatus(wire); !errors.Is(got, tidemill.ErrFenced) {
			t.Fatalf("%q became %v", s, got)
		}
	})
}

// FuzzFromStatus reads statuses of any bytes.
func FuzzFromStatus(f *testing.F) {
	for _, k := range kinds {
		b, err := proto.Marshal(status.Convert(ToStatus(k.kind)).Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p spb.Status
		if proto.Unmarshal(b, &p) != nil || p.GetCode() == 0 {
			return
		}
		err := FromStatus(status.FromProto(&p).Err())
		var e *Error
		if !errors.As(err, &e) || e.Error() == "" {
			t.Fatalf("%v became %v", &p, err)
		}
		if again := FromStatus(ToStatus(err)); e.Kind != nil && !errors.Is(again, e.Kind) {
			t.Fatalf("%v became %v, then %v", &p, err, again)
		}
	})
}
