package lint

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// roles are the folders of the four roles with code of their own.
var roles = []string{"ps", "worker", "trainer", "serving"}

// joiners may import roles: they put them together.
var joiners = []string{"cmd", "internal/cli", "bench", "internal/node", "internal/sim", "internal/demo", "internal/e2e", "internal/rebuild"}

// roleOf returns the role that a folder belongs to, or "". Optimizers and generated messages
// are leaves that everybody may use.
func roleOf(dir string) string {
	if dir == "ps/optim" || strings.HasSuffix(dir, "pb") {
		return ""
	}
	for _, r := range roles {
		if under(dir, r) {
			return r
		}
	}
	return ""
}

// A role declares the methods it calls (internal/wire has those of the protocol), and a joiner
// connects them. So each role can be read, tested and replaced alone.
func TestRolesDoNotKnowEachOther(t *testing.T) {
	_, all := sources(t)
	seen := map[string]bool{}
	for _, s := range all {
		seen[roleOf(s.dir)] = true
		for _, p := range s.imports {
			dir, ok := local(p)
			if !ok {
				continue
			}
			to := roleOf(dir)
			switch from := roleOf(s.dir); {
			case to == "" || to == from:
			case from != "":
				t.Errorf("%s imports %s: role %s must not know role %s; declare what it calls, or put it in internal/wire", s.name, p, from, to)
			case !underAny(s.dir, joiners):
				t.Errorf("%s imports %s: only %s join roles", s.name, p, strings.Join(joiners, ", "))
			}
		}
	}
	for _, r := range roles {
		if !seen[r] {
			t.Errorf("no file of role %s was found", r)
		}
	}
}

// The vocabulary stands alone: everybody imports it, it imports nobody but a leaf that computes,
// and it neither starts a goroutine nor does I/O.
func TestVocabularyStandsAlone(t *testing.T) {
	_, all := sources(t)
	forbidden := []string{"context", "io", "io/fs", "log", "log/slog", "net", "net/http", "os", "os/exec", "path/filepath", "sync", "sync/atomic"}
	for _, s := range all {
		if s.dir != "." || s.test {
			continue
		}
		for _, p := range s.imports {
			if dir, ok := local(p); ok && dir != "internal/kernel" || slices.Contains(forbidden, p) {
				t.Errorf("%s imports %s: the vocabulary does no I/O and imports nothing of the module but internal/kernel", s.name, p)
			}
		}
	}
}

// heavy libraries have one door each. Tests may come through the window.
var heavy = []struct {
	module string
	doors  []string
	why    string
}{
	{"github.com/nats-io/nats-server", []string{"internal/broker"}, "one place starts, stops and repairs the embedded server"},
	// cmd only passes the connection that internal/broker dials on to internal/source/nats.
	{"github.com/nats-io/nats.go", []string{"internal/broker", "internal/source/nats", "internal/lease/natskv", "internal/node", "cmd"}, "another stream or lease store replaces packages, not code all over"},
	{"github.com/twmb/franz-go", []string{"internal/source/kafka"}, "Kafka is one stream among others; who reads it does not know its client"},
	{"github.com/hashicorp/memberlist", []string{"internal/cluster"}, "gossip never decides, so nobody else may ask it"},
	{"github.com/goccy/go-yaml", []string{"internal/spec"}, "one place reads specs and knows positions in them"},
	{"github.com/spf13", []string{"cmd"}, "flags are the command's; libraries take structs"},
	{"github.com/rogpeppe/go-internal", []string{"cmd"}, "scripts test the command"},
	{"golang.org/x/term", []string{"cmd"}, "only the command talks to a person"},
	{"github.com/prometheus/client_golang", []string{"serving", "internal/node", "cmd"}, "metrics sit in one struct per owner; libraries report events"},
	{"github.com/apache/arrow-go/v18/parquet", []string{"internal/source/file/parquet"}, "27 MB that only programs which read Parquet should carry"},
	{module + "/internal/source/file/parquet", []string{"cmd"}, "it is passed in as file.Options.Parquet, so that the core does not carry it"},
	{"github.com/apache/arrow-go/v18/arrow/compute", nil, "17 MB; typed loops over Arrow's slices do"},
	{"github.com/tensorflow/tensorflow", []string{"internal/engine/tensorflow"}, "cgo and a library of 800 MB, which only programs built with the tag tensorflow carry"},
	{"gocloud.dev/blob/memblob", []string{"internal/snapshot"}, "stores are opened from a URL"},
}

func TestHeavyLibrariesHaveOneDoor(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test {
			continue
		}
		for _, p := range s.imports {
			for _, h := range heavy {
				if under(p, h.module) && !underAny(s.dir, h.doors) {
					t.Errorf("%s imports %s, which belongs to %s: %s", s.name, p, orNobody(h.doors), h.why)
				}
			}
		}
	}
}

func orNobody(doors []string) string {
	if len(doors) == 0 {
		return "nobody"
	}
	return strings.Join(doors, ", ")
}

// What a library imports counts as well: the roles and the node must not come to carry the
// compute or Parquet code by a way round.
func TestCoreIsLight(t *testing.T) {
	if testing.Short() {
		t.Skip("asks the go command")
	}
	args := []string{"list", "-deps", "."}
	for _, r := range append(slices.Clone(roles), "internal/node", "internal/source/file") {
		args = append(args, "./"+r)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	for p := range strings.Lines(string(out)) {
		p = strings.TrimSpace(p)
		for _, banned := range []string{"github.com/apache/arrow-go/v18/arrow/compute", "github.com/apache/arrow-go/v18/parquet", "github.com/spf13/cobra"} {
			if under(p, banned) {
				t.Errorf("roles and node depend on %s; find out by which way with: go mod why -m, go list -deps", p)
			}
		}
	}
}

// pure packages and files decide or compute: no clock, no randomness, no I/O, no goroutine's
// tools. The same input gives the same output, which simulation and replay rest on.
var pure = []struct {
	where   string // folder, or file
	imports []string
}{
	{"trainer/gate", []string{"fmt", "math", "slices", "sort", "strings", "errors", "."}},
	{"trainer/core.go", []string{"fmt", "slices", ".", "internal/wire"}},
	{"trainer/core_rounds.go", []string{"slices", "."}},
	{"trainer/core_profile.go", []string{"maps", "slices", "strings", "."}},
	{"trainer/place.go", []string{"slices", "."}},
	{"worker/core.go", []string{"errors", "fmt", "slices", ".", "internal/wire"}},
	{"ps/core.go", []string{"fmt", "slices", ".", "internal/wire"}},
	{"ps/optim", []string{"errors", "fmt", "math", "slices", ".", "internal/kernel"}},
	{"internal/kernel", []string{"fmt", "math", "math/bits", "unsafe", "golang.org/x/sys/cpu"}}, // the root imports it: nothing of the module; addresses to prefetch are pointers
}

func TestPureCodeIsPure(t *testing.T) {
	_, all := sources(t)
	for _, rule := range pure {
		found := false
		for _, s := range all {
			if s.test || s.name != rule.where && s.dir != rule.where {
				continue
			}
			found = true
			for _, p := range s.imports {
				if dir, ok := local(p); ok {
					p = dir
				}
				if !slices.Contains(rule.imports, p) {
					t.Errorf("%s imports %s: it decides or computes from its arguments alone and may import only %s", s.name, p, strings.Join(rule.imports, ", "))
				}
			}
		}
		if !found {
			t.Errorf("%s does not exist: mend the rule", rule.where)
		}
	}
}

// edges are the only files that see generated messages.
var edges = []string{"client.go", "server.go", "grpc.go", "grpc_handover.go", "register.go"}

// elsewhere lists the other places, each with its reason.
var elsewhere = map[string]string{
	"internal/infer/infer.go": "the whole package is a client",
	"internal/node/node.go":   "registers the object store's server",
}

func TestWireTypesStopAtTheEdge(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test || strings.HasSuffix(s.dir, "pb") {
			continue
		}
		for _, p := range s.imports {
			dir, ok := local(p)
			if !ok || !strings.HasSuffix(dir, "pb") {
				continue
			}
			if _, known := elsewhere[s.name]; !known && !slices.Contains(edges, path.Base(s.name)) {
				t.Errorf("%s imports %s: generated messages are converted in %s", s.name, p, strings.Join(edges, ", "))
			}
		}
	}
}

// Every module that is imported has a line with its reason.
func TestDependenciesHaveReasons(t *testing.T) {
	const page = "docs/design/0011-dependencies.md"
	reasons := string(text(t, page))
	_, all := sources(t)
	missing := map[string]string{}
	for _, s := range all {
		for _, p := range s.imports {
			first, _, _ := strings.Cut(p, "/")
			if !strings.Contains(first, ".") || p == module || strings.HasPrefix(p, module+"/") {
				continue
			}
			named := false
			for q := p; q != "." && !named; q = path.Dir(q) {
				named = strings.Contains(reasons, "`"+q+"`") || strings.Contains(reasons, "`"+q+"/v")
			}
			if !named {
				missing[p] = s.name
			}
		}
	}
	for p, where := range missing {
		t.Errorf("%s imports %s, and %s gives no reason for it", where, p, page)
	}
}
