package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
)

// policy says who may call what between nodes. What is not here is refused to everybody, and a
// test walks all methods there are: one that is added comes with its line.
func (n *Node) policy() rpc.Policy {
	return rpc.Policy{
		Plain: !n.cfg.Security.TLS(),
		Allow: map[string][]string{
			"/tidemill.store.v1.Store/Put":    {RolePS, RoleTrainer},                                         // see mayWrite
			"/tidemill.store.v1.Store/Get":    {RolePS, RoleTrainer, RoleServing, RoleWorker, rpc.RoleAdmin}, // see mayRead; rebuild reads
			"/tidemill.store.v1.Store/List":   {RolePS, RoleTrainer, RoleServing, rpc.RoleAdmin},
			"/tidemill.store.v1.Store/Stat":   {RolePS, RoleTrainer, RoleServing, rpc.RoleAdmin},
			"/tidemill.store.v1.Store/Delete": {RoleTrainer},

			"/tidemill.ps.v1.PS/Pull":     {RoleWorker},
			"/tidemill.ps.v1.PS/Push":     {RoleWorker},
			"/tidemill.ps.v1.PS/Fence":    {RoleWorker},
			"/tidemill.ps.v1.PS/Snapshot": {RoleTrainer},
			"/tidemill.ps.v1.PS/Status":   {RoleTrainer},
			"/tidemill.ps.v1.PS/Adopt":    {RoleTrainer},
			"/tidemill.ps.v1.PS/Copy":     {RolePS},

			"/tidemill.trainer.v1.Trainer/Link":    {RoleWorker},
			"/tidemill.trainer.v1.Trainer/Command": {rpc.RoleAdmin, RoleTrainer}, // trainers pass commands on to the leader
		},
	}
}

// predictionPolicy says who may call what on the port of predictions.
func (n *Node) predictionPolicy() rpc.Policy {
	who := []string{rpc.RoleClient, rpc.RoleAdmin}
	if n.cfg.OpenPredictions {
		who = []string{rpc.Anyone}
	}
	p := rpc.Policy{Plain: !n.cfg.Security.TLS(), Allow: map[string][]string{}}
	for _, m := range []string{
		"/inference.GRPCInferenceService/ServerLive",
		"/inference.GRPCInferenceService/ServerReady",
		"/inference.GRPCInferenceService/ModelReady",
		"/inference.GRPCInferenceService/ServerMetadata",
		"/inference.GRPCInferenceService/ModelMetadata",
		"/inference.GRPCInferenceService/ModelInfer",
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/List",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	} {
		p.Allow[m] = who
	}
	return p
}

// mayWrite decides on one blob that somebody puts into the store of this node or deletes.
func mayWrite(ctx context.Context, p rpc.Policy, name string) error {
	return p.Check(ctx, fmt.Sprintf("writing %.200q", name), writers(name))
}

// mayRead decides on one blob that somebody reads from the store of this node.
func mayRead(ctx context.Context, p rpc.Policy, name string) error {
	return p.Check(ctx, fmt.Sprintf("reading %.200q", name), readers(name))
}

// readers says who may read a blob: a worker the graphs that it trains, and nothing that training
// made.
func readers(name string) []string {
	all := []string{RolePS, RoleTrainer, RoleServing, rpc.RoleAdmin}
	if ok, _ := path.Match("graphs/*.graph", name); ok && path.Clean(name) == name {
		all = append(all, RoleWorker)
	}
	return all
}

// writers says who may write a blob: a parameter server its parts of snapshots, and nothing
// that makes them count.
func writers(name string) []string {
	if ok, _ := path.Match("jobs/*/snapshot/*/*", name); ok && path.Clean(name) == name && path.Base(name) != "manifest.json" {
		return []string{RoleTrainer, RolePS}
	}
	return []string{RoleTrainer}
}

// predictionRoles says who may ask for a path of predictions over HTTP. Health is for probes,
// which have no certificates.
func (n *Node) predictionRoles(r *http.Request) []string {
	if n.cfg.OpenPredictions || strings.HasPrefix(r.URL.Path, "/v2/health/") {
		return []string{rpc.Anyone}
	}
	return []string{rpc.RoleClient, rpc.RoleAdmin}
}

// guard lets through who has one of the roles that a request needs.
func (n *Node) guard(h http.Handler, roles func(*http.Request) []string) http.Handler {
	p := rpc.Policy{Plain: !n.cfg.Security.TLS()}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := p.CheckTLS(r.TLS, r.URL.Path, roles(r)); err != nil {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()}) // whoever has gone needs no answer
			return
		}
		h.ServeHTTP(w, r)
	})
}

// relay refuses to pass a command on under the name of a node that may not give commands.
func (n *Node) relay() error {
	if !n.cfg.Security.TLS() || n.cfg.has(RoleTrainer) {
		return nil
	}
	return fmt.Errorf("this node has no role trainer and may not pass commands on; give --server of one that has: %w", tidemill.ErrDenied)
}
