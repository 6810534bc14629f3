package broker

import (
	"log/slog"

	"crypto/tls"

	"github.com/nats-io/nats-server/v2/server"
)

// Permissions are what a connection may do, as subjects with wildcards. What Publish and
// Subscribe do not name is refused, and so is what the Deny lists do.
type Permissions struct {
	Publish, PublishDeny []string
	Subscribe            []string
}

// authority decides on each new connection.
type authority struct {
	allow func(tls.ConnectionState) (Permissions, error)
	log   *slog.Logger
}

// Check implements server.Authentication.
func (a *authority) Check(c server.ClientAuthentication) bool {
	state := c.GetTLSConnectionState()
	if state == nil {
		// The server demands TLS of everybody but this process itself.
		return true
	}
	p, err := a.allow(*state)
	if err != nil {
		a.log.Warn("a connection to the stream was refused", "why", err)
		return false
	}
	c.RegisterUser(&server.User{Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: p.Publish, Deny: p.PublishDeny},
		Subscribe: &server.SubjectPermission{Allow: p.Subscribe},
	}})
	return true
}
