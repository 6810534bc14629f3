package doctor

import (
	"slices"
	"strings"

	"github.com/tidemill/tidemill/internal/rpc"
)

// certificate checks the certificate that was given, as another node would.
func (e *exam) certificate() {
	const check = "certificate"
	if !e.cfg.Security.TLS() {
		return
	}
	now := e.cfg.Now()
	if err := e.cfg.Security.CheckOwn(now, e.hosts(), nil); err != nil {
		e.note(check, Fail, "%v", "make another one, or correct --tls-cert, --tls-key and --tls-ca", err)
		return
	}
	own, ok, err := e.cfg.Security.Own()
	switch {
	case err != nil:
		e.note(check, Fail, "%v", "correct --tls-cert, --tls-key and --tls-ca", err)
	case !ok:
		e.note(check, OK, "none is shown; the other side's is checked by --tls-ca", "")
	case len(own.Roles) == 0:
		e.note(check, Warn, "it is for no role, so nothing is allowed to its holder", "use one of tidemill certs, or with URIs tidemill://role/ROLE")
	case own.Expires.Sub(now) < rpc.Soon:
		e.note(check, Warn, "for %s; it expires on %s", "replace its files; running nodes take the new ones", strings.Join(own.Roles, ", "), own.Expires.Format("2006-01-02"))
	default:
		e.note(check, OK, "for %s, until %s", "", strings.Join(own.Roles, ", "), own.Expires.Format("2006-01-02"))
	}
}

// hosts are what others dial the node in the data directory by, where the certificate is that
// node's and not a person's.
func (e *exam) hosts() []string {
	own, ok, err := e.cfg.Security.Own()
	if err != nil || !ok || !e.known || !slices.ContainsFunc(e.info.Roles, func(r string) bool { return slices.Contains(own.Roles, r) }) {
		return nil
	}
	return rpc.AdvertisedHosts(e.info.RPC)
}
