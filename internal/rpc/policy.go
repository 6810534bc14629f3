package rpc

import (
	"context"
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
	// Allow maps a full method ("/package.Service/Method") or a whole service
	// ("/package.Service/") to the roles that may call it. The method wins over its service.
	Allow map[string][]string
	// Plain lets peers without TLS act as any role. Set it where the server itself has no
	// certificate: on loopback, or by --insecure.
	Plain bool
}

// Authorize is for ServerConfig.
func (p Policy) Authorize(ctx context.Context, fullMethod string) error {
	allowed, ok := p.Allow[fullMethod]
	if !ok {
		allowed, ok = p.Allow[fullMethod[:strings.LastIndexByte(fullMethod, '/')+1]]
	}
	if !ok {
		return fmt.Errorf("%s is not allowed to anyone on this server: %w", fullMethod, tidemill.ErrDenied)
	}
	if slices.Contains(allowed, Anyone) {
		return nil
	}
	roles, secure := peerRoles(ctx)
	if !secure && p.Plain {
		return nil
	}
	for _, r := range roles {
		if slices.Contains(allowed, r) {
			return nil
		}
	}
	if len(roles) == 0 {
		return fmt.Errorf("%s needs a certificate for one of the roles %s, and the caller shows none: %w",
			fullMethod, strings.Join(allowed, ", "), tidemill.ErrDenied)
	}
	return fmt.Errorf("%s needs a certificate for one of the roles %s, and the caller's is for %s: %w",
		fullMethod, strings.Join(allowed, ", "), strings.Join(roles, ", "), tidemill.ErrDenied)
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
	if len(info.State.VerifiedChains) == 0 {
		return nil, true
	}
	for _, u := range info.State.PeerCertificates[0].URIs {
		if role, ok := strings.CutPrefix(u.Path, "/"); ok && u.Scheme == "tidemill" && u.Host == "role" && role != "" {
			roles = append(roles, role)
		}
	}
	return roles, true
}
