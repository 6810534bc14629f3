package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
)

// methods lists every method of every service that is linked into this program.
func methods() []string {
	var all []string
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				all = append(all, "/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name()))
			}
		}
		return true
	})
	slices.Sort(all)
	return all
}

// Services of libraries, which nobody registers here.
var foreign = []string{"/grpc.channelz.", "/grpc.lookup.", "/google."}

// Every method there is has a rule, and every rule is of a method.
func TestEveryMethodHasARule(t *testing.T) {
	n := &Node{cfg: Config{Security: secured("x", "node")}}
	rules := map[string][]string{}
	for _, p := range []rpc.Policy{n.policy(), n.predictionPolicy()} {
		for m, roles := range p.Allow {
			if _, twice := rules[m]; twice {
				t.Errorf("%s has two rules", m)
			}
			rules[m] = roles
		}
	}
	for _, m := range methods() {
		if slices.ContainsFunc(foreign, func(f string) bool { return strings.HasPrefix(m, f) }) {
			continue
		}
		roles, ok := rules[m]
		if !ok || len(roles) == 0 {
			t.Errorf("%s has no rule; say in policy.go who may call it", m)
		}
		for _, r := range roles {
			if !slices.Contains(rpc.Roles(), r) {
				t.Errorf("%s is allowed to %q, which no certificate names", m, r)
			}
		}
		delete(rules, m)
	}
	for m := range rules {
		t.Errorf("there is a rule for %s, and no such method", m)
	}
}

// What the rules must never say, whatever else they say.
func TestLawsOfThePolicy(t *testing.T) {
	n := &Node{cfg: Config{Security: secured("x", "node")}}
	between, predictions := n.policy().Allow, n.predictionPolicy().Allow
	only := map[string][]string{
		"/tidemill.trainer.v1.Trainer/Command": {rpc.RoleAdmin, RoleTrainer}, // a worker publishes nothing
		"/tidemill.ps.v1.PS/Push":              {RoleWorker},                 // serving pushes nothing
		"/tidemill.ps.v1.PS/Fence":             {RoleWorker},
		"/tidemill.ps.v1.PS/Adopt":             {RoleTrainer}, // nobody else says who owns what
		"/tidemill.ps.v1.PS/Copy":              {RolePS},      // whole shards leave for other servers alone
		"/tidemill.trainer.v1.Trainer/Link":    {RoleWorker},
		"/tidemill.store.v1.Store/Put":         {RolePS, RoleTrainer},
		"/tidemill.store.v1.Store/Delete":      {RoleTrainer},
	}
	for m, want := range only {
		for _, r := range between[m] {
			if !slices.Contains(want, r) {
				t.Errorf("%s is allowed to %s", m, r)
			}
		}
	}
	for m, roles := range between {
		if slices.Contains(roles, rpc.RoleClient) || slices.Contains(roles, rpc.Anyone) {
			t.Errorf("%s is allowed to %v", m, roles)
		}
	}
	for m, roles := range predictions {
		if slices.Contains(roles, rpc.Anyone) {
			t.Errorf("%s is allowed to anyone, without --open-predictions", m)
		}
	}
	blob := func(role, name string) bool {
		return slices.Contains(writers(name), role)
	}
	for name, ps := range map[string]bool{
		"jobs/j/snapshot/000000003/g2-e5-a1-m-table-0.arrow": true,
		"jobs/j/snapshot/000000003/manifest.json":            false,
		"jobs/j/snapshot/manifest.json":                      false,
		"models/m/champion/000000003.json":                   false,
		"models/m/version/000000003/version.json":            false,
		"jobs/j/snapshot/../../../models/m/champion/1.json":  false,
	} {
		if blob(RolePS, name) != ps || !blob(RoleTrainer, name) || blob(RoleWorker, name) || blob(RoleServing, name) {
			t.Errorf("%s may be written by %v", name, writers(name))
		}
	}
}

func TestWhoReadsBlobs(t *testing.T) {
	for name, worker := range map[string]bool{
		"graphs/00ff.graph":                            true,
		"graphs/../jobs/j/snapshot/1/m.graph":          false,
		"graphs/a/b.graph":                             false,
		"jobs/j/snapshot/000000003/manifest.json":      false,
		"models/m/version/000000003/abc-tensors.arrow": false,
	} {
		who := readers(name)
		if slices.Contains(who, RoleWorker) != worker || !slices.Contains(who, RoleServing) || !slices.Contains(who, rpc.RoleAdmin) || slices.Contains(who, rpc.RoleClient) {
			t.Errorf("%s may be read by %v", name, who)
		}
	}
}

// call calls a method with an empty message and returns how it ended. A call that is let
// through may end in any way.
func call(t *testing.T, conn *grpc.ClientConn, method string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := s.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	return s.RecvMsg(&emptypb.Empty{})
}

// TestWhoMayCallWhat calls every method on every server of a cluster with a node for each
// role: without a certificate, with one of another authority, and with one of each role.
func TestWhoMayCallWhat(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if err := rpc.DevCA(d, nil); err != nil {
			t.Fatal(err)
		}
	}
	nodes := map[string]*Node{}
	for _, role := range []string{RoleStream, RoleTrainer, RolePS, RoleWorker, RoleServing} {
		cfg := localConfig(t, role)
		cfg.Security, cfg.GossipKey = secured(dir, role), []byte("0123456789abcdef")
		if role != RoleStream {
			cfg.Join = []string{nodes[RoleStream].Info().Gossip}
		}
		nodes[role], _ = start(t, cfg)
	}
	served := map[string]int{}
	for of, n := range nodes {
		servers := map[string]rpc.Policy{n.Info().RPC: n.policy()}
		if n.Info().GRPC != "" {
			servers[n.Info().GRPC] = n.predictionPolicy()
		}
		for addr, policy := range servers {
			dial := func(sec rpc.Security) *grpc.ClientConn {
				creds, err := sec.ClientCredentials()
				if err != nil {
					t.Fatal(err)
				}
				conn, err := rpc.Dial(addr, rpc.ClientConfig{Credentials: creds})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				return conn
			}
			open := addr == n.Info().GRPC // there TLS lets in who has no certificate, and the policy does not
			strangers := map[string]*grpc.ClientConn{
				"no certificate": dial(rpc.Security{CA: secured(dir, "ca").CA}),
				"plain text":     dial(rpc.Security{}),
			}
			foreigner := secured(other, RoleWorker)
			foreigner.CA = secured(dir, "ca").CA
			strangers["another authority's"] = dial(foreigner)
			conns := map[string]*grpc.ClientConn{}
			for _, role := range rpc.Roles() {
				conns[role] = dial(secured(dir, role))
			}
			for _, m := range methods() {
				who, there := policy.Allow[m]
				var admitted []string
				for _, role := range rpc.Roles() {
					err := call(t, conns[role], m)
					switch denied := errors.Is(err, tidemill.ErrDenied); {
					case status.Code(err) == codes.Unimplemented && strings.Contains(err.Error(), "unknown service"):
						continue
					case there && denied == slices.Contains(who, role):
						t.Errorf("%s of %s, asked by %s: %v; allowed are %v", m, of, role, err, who)
					case !there && !denied:
						t.Errorf("%s of %s has no rule, asked by %s: %v", m, of, role, err)
					case denied && (status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), m) || !strings.Contains(err.Error(), role)):
						t.Errorf("the refusal of %s to %s does not name both: %v", m, role, err)
					case !denied:
						admitted = append(admitted, role)
					}
				}
				if len(admitted) == 0 {
					continue // not served here
				}
				served[m]++
				for name, conn := range strangers {
					err := call(t, conn, m)
					want := tidemill.ErrUnavailable // no connection
					if open && name == "no certificate" {
						want = tidemill.ErrDenied
					}
					if !errors.Is(err, want) {
						t.Errorf("%s of %s, with %s: %v, want %v", m, of, name, err, want)
					}
				}
			}
		}
	}
	for _, m := range methods() {
		if !slices.ContainsFunc(foreign, func(f string) bool { return strings.HasPrefix(m, f) }) && served[m] == 0 {
			t.Errorf("%s was served by nobody", m)
		}
	}
	t.Logf("%d methods, served %v", len(served), served)
	testHTTP(t, dir, nodes)
}

// testHTTP: what is beside gRPC has the same rules.
func testHTTP(t *testing.T, dir string, nodes map[string]*Node) {
	for path, who := range map[string][]string{
		"/metrics":         rpc.Roles(),
		"/v2":              {rpc.RoleClient, rpc.RoleAdmin},
		"/v2/models/m":     {rpc.RoleClient, rpc.RoleAdmin},
		"/v2/health/live":  append(rpc.Roles(), "ca"),
		"/v2/health/ready": append(rpc.Roles(), "ca"),
	} {
		for _, role := range append(rpc.Roles(), "ca") {
			sec := secured(dir, role)
			if role == "ca" {
				sec.Cert, sec.Key = "", ""
			}
			config, err := sec.ClientTLS()
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := config()
			if err != nil {
				t.Fatal(err)
			}
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}, Timeout: time.Minute}
			resp, err := client.Get("https://" + nodes[RoleServing].Info().HTTP + path)
			if err != nil {
				t.Errorf("%s by %s: %v", path, role, err)
				continue
			}
			resp.Body.Close()
			if (resp.StatusCode == http.StatusForbidden) == slices.Contains(who, role) {
				t.Errorf("%s by %s: %s", path, role, resp.Status)
			}
		}
	}
}
