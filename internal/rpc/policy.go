package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/tidemill/tidemill"
)

// Anyone, as a role in a Policy, is every peer that got a connection.
const Anyone = "*"

// Policy says who may call what; what it does not mention is refused.
type Policy struct {
	// Allow maps a full method ("/package.Service/Method") to the roles that may call it. There
	// is no rule for a whole service: a method that is added later is refused until it has one.
	Allow map[string][]string
	// Plain lets peers without TLS act as any role. Set it where the server itself has no
	// certificate: on loopback, or by --insecure.
	Plain bool
}

// Authorize is for ServerConfig.
func (p Policy) Authorize(ctx context.Context, fullMethod string) error {
	allowed, ok := p.Allow[fullMethod]
	if !ok {
		return fmt.Errorf("%s is not allowed to anyone on this server: %w", fullMethod, tidemill.ErrDenied)
	}
	return p.Check(ctx, fullMethod, allowed)
}

// Check decides as Authorize does by a list of roles that the caller has at hand; what names
// the thing that is asked for.
func (p Policy) Check(ctx context.Context, what string, allowed []string) error {
	if slices.Contains(allowed, Anyone) {
		return nil
	}
	roles, secure := peerRoles(ctx)
	if !secure && p.Plain {
		return nil
	}
	return permit(what, allowed, roles)
}

// CheckTLS is Check for a connection outside of gRPC; state is nil for plain text.
func (p Policy) CheckTLS(state *tls.ConnectionState, what string, allowed []string) error {
	switch {
	case slices.Contains(allowed, Anyone):
		return nil
	case state == nil && p.Plain:
		return nil
	case state == nil:
		return permit(what, allowed, nil)
	}
	return permit(what, allowed, StateRoles(*state))
}

func permit(what string, allowed, roles []string) error {
	for _, r := range roles {
		if slices.Contains(allowed, r) {
			return nil
		}
	}
	if len(roles) == 0 {
		return fmt.Errorf("%s needs a certificate for one of the roles %s, and the caller shows none: %w",
			what, strings.Join(allowed, ", "), tidemill.ErrDenied)
	}
	return fmt.Errorf("%s needs a certificate for one of the roles %s, and the caller's is for %s: %w",
		what, strings.Join(allowed, ", "), strings.Join(roles, ", "), tidemill.ErrDenied)
}

// PeerRole returns the first role in the certificate of the call's peer, "" when there is no
// certificate or it names none.
func PeerRole(ctx context.Context) string {
	if roles := PeerRoles(ctx); len(roles) > 0 {
		return roles[0]
	}
	return ""
}

// PeerRoles returns the roles in the verified certificate of the call's peer.
func PeerRoles(ctx context.Context) []string {
	roles, _ := peerRoles(ctx)
	return roles
}

// peerRoles also reports whether the connection has TLS at all.
func peerRoles(ctx context.Context) (roles []string, secure bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, false
	}
	return StateRoles(info.State), true
}

// StateRoles returns the roles in the verified certificate of a connection's peer.
func StateRoles(state tls.ConnectionState) []string {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	return certRoles(state.PeerCertificates[0])
}

// certRoles returns the roles that a certificate names.
func certRoles(cert *x509.Certificate) []string {
	var roles []string
	for _, u := range cert.URIs {
		if role, ok := strings.CutPrefix(u.Path, "/"); ok && u.Scheme == "tidemill" && u.Host == "role" && role != "" {
			roles = append(roles, role)
		}
	}
	return roles
}
