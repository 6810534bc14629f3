package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/trainer"
)

// builtIn is a moment that no right clock is before.
var builtIn = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// skew is how far two clocks may be apart before it is worth a word. Nothing is decided by
// comparing clocks of two machines; times in records would only mislead people.
const skew = 2 * time.Second

// cluster asks a node for its leader, members and jobs.
func (e *exam) cluster(ctx context.Context) {
	addr := e.cfg.RPC
	switch {
	case addr != "":
	case e.running && e.known:
		addr = e.info.RPC
	default:
		e.note("node", Warn, "none runs in this data directory", "start one with `tidemill start`, or name one with --server")
		return
	}
	conn, err := e.cfg.Dial(addr)
	if err != nil {
		e.note("node", Fail, "it cannot be dialled: %v", "check --server and the certificates", err)
		return
	}
	defer conn.Close()
	cmd := trainer.NewCommander(conn)
	var jobs []trainer.JobStatus
	err = ask(ctx, cmd, trainer.VerbJobs, &jobs)
	switch {
	case err == nil:
	case errors.Is(err, tidemill.ErrNotReady):
		e.note("node", OK, "answers", "")
		e.note("leader", Fail, "there is none: %v", "wait a few seconds; if it stays so, start a node with role trainer", err)
		return
	case errors.Is(err, tidemill.ErrDenied):
		e.note("node", Warn, "it answers, and shows the cluster only to certificates with the role admin", "give one to look further: --tls-cert, --tls-key")
		return
	default:
		e.note("node", Fail, "no answer: %v", "check that it runs, its address (--server) and the certificates (--tls-ca)", err)
		return
	}
	e.note("node", OK, "answers", "")
	e.note("leader", OK, "a trainer leads", "")
	var members []trainer.Session
	if err := ask(ctx, cmd, trainer.VerbMembers, &members); err != nil {
		e.note("members", Warn, "they are not known: %v", "the nodes may be of another version", err)
		return
	}
	e.members(members)
	for _, j := range jobs {
		e.job(j, members)
	}
}

// head asks the node in the data directory for what it says of itself, its time among it.
func (e *exam) head(ctx context.Context) (*http.Response, error) {
	transport, scheme := &http.Transport{DisableKeepAlives: true}, "http"
	if e.cfg.Security.TLS() {
		config, err := e.cfg.Security.ClientTLS()
		if err != nil {
			return nil, err
		}
		if transport.TLSClientConfig, err = config(); err != nil {
			return nil, err
		}
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, scheme+"://"+e.info.HTTP+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(req)
}

// ask carries out a verb without arguments.
func ask(ctx context.Context, cmd trainer.Commander, verb string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	b, err := cmd.Command(ctx, "", verb, nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// members checks that every role is there.
func (e *exam) members(members []trainer.Session) {
	var roles []string
	for _, m := range members {
		roles = append(roles, m.Roles...)
	}
	var lacking []string
	for _, r := range []string{"worker", "ps", "serving"} {
		if !slices.Contains(roles, r) {
			lacking = append(lacking, r)
		}
	}
	if len(lacking) > 0 {
		e.note("members", Warn, "%d processes, none with role %s", "start a node with it", len(members), strings.Join(lacking, " or "))
		return
	}
	if spoken := protocols(members); len(spoken) > 1 {
		e.note("members", Warn, "%d processes, every role is there; they speak protocol versions %s", "finish the upgrade: restart the older ones with the newer program", len(members), strings.Join(spoken, " and "))
		return
	}
	e.note("members", OK, "%d processes, every role is there", "", len(members))
}

// protocols lists the different ranges of protocol versions that members speak.
func protocols(members []trainer.Session) []string {
	var out []string
	for _, m := range members {
		if s := m.Protocols.String(); m.Protocols.Known() && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// job checks that the owners of a job's partitions and shards are alive.
func (e *exam) job(j trainer.JobStatus, members []trainer.Session) {
	check := "job " + j.Job
	alive := func(id string) bool {
		return slices.ContainsFunc(members, func(m trainer.Session) bool { return m.ID == id })
	}
	switch j.State {
	case tidemill.JobFailed:
		e.note(check, Fail, "failed: %s", "submit it again under another model name once the reason is gone", j.Reason)
		return
	case tidemill.JobPaused:
		e.note(check, Warn, "paused: %s", fmt.Sprintf("go on with: tidemill job %s resume", j.Job), j.Reason)
		return
	case tidemill.JobRunning:
	default:
		e.note(check, OK, "%s", "", j.State)
		return
	}
	var gone []string
	for p, id := range j.Partitions {
		if !alive(id) {
			gone = append(gone, fmt.Sprintf("partition %d (%s)", p, id))
		}
	}
	for id, n := range j.Shards {
		if !alive(id) {
			gone = append(gone, fmt.Sprintf("%d shards (%s)", n, id))
		}
	}
	slices.Sort(gone)
	if len(gone) > 0 {
		e.note(check, Warn, "owners are gone: %s", "they are placed again within seconds; if it stays so, start nodes with roles worker and ps", strings.Join(gone, ", "))
		return
	}
	e.note(check, OK, "running; all owners are alive", "")
}

// clock checks the time of this machine, and against the node's when that answers.
func (e *exam) clock(ctx context.Context) {
	now := e.cfg.Now()
	if now.Before(builtIn) {
		e.note("clock", Fail, "it says %s", "set it, and keep it right with NTP", now.Format(time.RFC3339))
		return
	}
	if !e.running || e.info.HTTP == "" {
		e.note("clock", OK, "%s", "", now.Format(time.RFC3339))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	resp, err := e.head(ctx)
	if err != nil {
		e.note("clock", OK, "%s; the node's could not be compared", "", now.Format(time.RFC3339))
		return
	}
	resp.Body.Close()
	// The header has whole seconds.
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil && now.Sub(at).Abs() > skew+time.Second {
		e.note("clock", Warn, "%v away from the node's", "keep clocks right with NTP", now.Sub(at).Round(time.Second))
		return
	}
	e.note("clock", OK, "%s, as the node's", "", now.Format(time.RFC3339))
}
