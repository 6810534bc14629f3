package lint

import (
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// wording is what no tracked text contains, and why. Patterns are written so that they do not
// find themselves.
var wording = []struct {
	pattern string
	why     string
}{
	{`/(?:[w]ork|[f]arm|[h]ome|[U]sers)/[A-Za-z0-9._]`, "a path of somebody's machine"},
	{`/[r]oot/[A-Za-z0-9._]`, "a path of somebody's machine"},
	{`[A-Z]:\\[U]sers\\`, "a path of somebody's machine"},
	{`[p]roxy\.golang\.org|[s]um\.golang\.org|[g]oproxy\.(?:io|cn)|[G]OPROXY=|[G]ONOSUMDB=|[G]OFLAGS=-mod`, "where modules come from is the machine's own business"},
	{`[p]ypi\.org|[f]iles\.pythonhosted\.org|[r]egistry\.npmjs\.org|--(?:extra-)?[i]ndex-url`, "where packages come from is the machine's own business"},
	{`\b(?:[T]ODO|[F]IXME|[X]XX)\b`, "unfinished work is finished, or named in the README's limits"},
	{`-----BEGIN (?:[A-Z]+ )?[P]RIVATE KEY-----\n[A-Za-z0-9+/]{16}`, "a private key"},
	{`[A]KIA[0-9A-Z]{16}`, "a cloud key"},
}

func TestWordsThatDoNotBelong(t *testing.T) {
	rules := make([]*regexp.Regexp, len(wording))
	for i, w := range wording {
		rules[i] = regexp.MustCompile(w.pattern)
	}
	hosts := proxyHosts()
	for _, name := range tracked(t) {
		if name == "go.sum" || strings.Contains("/"+name, "/testdata/fuzz/") {
			continue
		}
		b := text(t, name)
		for i, r := range rules {
			if at := r.FindIndex(b); at != nil {
				t.Errorf("%s:%d: %q: %s", name, line(b, at[0]), b[at[0]:at[1]], wording[i].why)
			}
		}
		for _, h := range hosts {
			if at := strings.Index(string(b), h); at >= 0 {
				t.Errorf("%s:%d: the host of this machine's module proxy", name, line(b, at))
			}
		}
	}
}

// proxyHosts returns the hosts that this machine gets modules from.
func proxyHosts() []string {
	out, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		return nil
	}
	var hosts []string
	for _, p := range strings.FieldsFunc(strings.TrimSpace(string(out)), func(r rune) bool { return r == ',' || r == '|' }) {
		if u, err := url.Parse(p); err == nil && strings.Contains(u.Hostname(), ".") {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

func line(b []byte, at int) int { return 1 + strings.Count(string(b[:at]), "\n") }
