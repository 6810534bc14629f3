package node

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/broker"
	"github.com/tidemill/tidemill/internal/rpc"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
)

// checkCertificate refuses to start with a certificate that the other nodes would refuse.
func (n *Node) checkCertificate() error {
	addrs := []string{n.info.RPC}
	if n.cfg.has(RoleStream) && n.cfg.StreamURL == "" {
		addrs = append(addrs, n.cfg.AdvertiseStream)
	}
	now := time.Now()
	if err := n.cfg.Security.CheckOwn(now, rpc.AdvertisedHosts(addrs...), n.cfg.Roles); err != nil {
		return err
	}
	if own, ok, err := n.cfg.Security.Own(); err == nil && ok && own.Expires.Sub(now) < rpc.Soon {
		n.log.Warn("the certificate expires soon; replace its files, no restart is needed", "on", own.Expires)
	}
	return nil
}

// What JetStream calls the streams behind the buckets.
const (
	recordsStream  = "KV_" + RecordsBucket
	sessionsStream = "KV_" + sessionsBucket
)

// streamPermissions says what a certificate may do on the embedded stream. Every node holds a
// session lease and reads leases and records; only those who train read rows; only trainers,
// and people who produce, write them.
func streamPermissions(state tls.ConnectionState) (broker.Permissions, error) {
	p := broker.Permissions{Subscribe: []string{"_INBOX.>"}}
	roles := rpc.StateRoles(state)
	rulesJobs, makesTopics := false, false
	for _, r := range roles {
		switch r {
		case RoleStream:
			return broker.Permissions{Publish: []string{">"}, Subscribe: []string{">"}}, nil
		case RoleTrainer:
			rulesJobs, makesTopics = true, true
			p.Publish = append(p.Publish, reads("*")...)
			p.Publish = append(p.Publish, "$KV."+RecordsBucket+".>", "$KV."+sessionsBucket+".>")
		case RoleWorker:
			p.Publish = append(p.Publish, reads("*")...)
			p.Publish = append(p.Publish, "$KV."+sessionsBucket+".members.>")
		case RolePS, RoleServing:
			p.Publish = append(p.Publish, reads(recordsStream)...)
			p.Publish = append(p.Publish, reads(sessionsStream)...)
			p.Publish = append(p.Publish, "$KV."+sessionsBucket+".members.>")
		case rpc.RoleAdmin:
			makesTopics = true
			p.Publish = append(p.Publish, reads("*")...)
		}
	}
	if len(p.Publish) == 0 {
		return p, fmt.Errorf("its certificate is for %q, and the stream is for nodes and for %s: %w", strings.Join(roles, ", "), rpc.RoleAdmin, tidemill.ErrDenied)
	}
	if makesTopics {
		p.Publish = append(p.Publish, natsource.Subjects, "$KV."+natsource.TopicsBucket+".>")
		for _, verb := range []string{"CREATE", "UPDATE", "PURGE", "DELETE"} {
			p.Publish = append(p.Publish, "$JS.API.STREAM."+verb+".*")
			if !rulesJobs {
				p.PublishDeny = append(p.PublishDeny, "$JS.API.STREAM."+verb+"."+recordsStream, "$JS.API.STREAM."+verb+"."+sessionsStream)
			}
		}
	}
	return p, nil
}

// reads are the requests by which a stream is read, here and by the client libraries.
func reads(stream string) []string {
	return []string{
		"$JS.API.INFO",
		"$JS.API.STREAM.INFO." + stream,
		"$JS.API.STREAM.MSG.GET." + stream,
		"$JS.API.DIRECT.GET." + stream,
		"$JS.API.DIRECT.GET." + stream + ".>",
		"$JS.API.CONSUMER.CREATE." + stream,
		"$JS.API.CONSUMER.CREATE." + stream + ".>",
		"$JS.API.CONSUMER.INFO." + stream + ".*",
		"$JS.API.CONSUMER.DELETE." + stream + ".*",
		"$JS.API.CONSUMER.MSG.NEXT." + stream + ".*",
		"$JS.FC." + stream + ".>",
	}
}
