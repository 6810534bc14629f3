package lint

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	fence  = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$")
	inline = regexp.MustCompile("`[^`\n]*`")
	link   = regexp.MustCompile(`\]\(\s*([^)\s]+)[^)]*\)`)
	title  = regexp.MustCompile(`(?m)^#{1,6}\s+(.+?)\s*$`)
)

// pages returns the tracked Markdown files.
func pages(t *testing.T) []string {
	var md []string
	for _, name := range tracked(t) {
		if strings.HasSuffix(name, ".md") {
			md = append(md, name)
		}
	}
	return md
}

// prose is a page without its code.
func prose(b []byte) string {
	return inline.ReplaceAllString(fence.ReplaceAllString(string(b), ""), "``")
}

// targets returns the relative link targets of a page.
func targets(b []byte) []string {
	var out []string
	for _, m := range link.FindAllStringSubmatch(prose(b), -1) {
		if !strings.Contains(m[1], "://") && !strings.HasPrefix(m[1], "mailto:") {
			out = append(out, m[1])
		}
	}
	return out
}

func TestLinksLeadSomewhere(t *testing.T) {
	found := 0
	for _, page := range pages(t) {
		b := text(t, page)
		for _, target := range targets(b) {
			found++
			file, anchor, _ := strings.Cut(target, "#")
			to := page
			if file != "" {
				to = path.Join(path.Dir(page), file)
			}
			if strings.HasPrefix(to, "..") || path.IsAbs(file) {
				t.Errorf("%s: link %s leads out of the repository", page, target)
				continue
			}
			if _, err := os.Stat(at(to)); err != nil {
				t.Errorf("%s: link %s: there is no %s", page, target, to)
				continue
			}
			if anchor != "" && strings.HasSuffix(to, ".md") && !anchors(text(t, to))[anchor] {
				t.Errorf("%s: link %s: %s has no heading %q", page, target, to, anchor)
			}
		}
	}
	if found == 0 {
		t.Error("no link was found in any page")
	}
}

// anchors are the names that headings can be linked by, as GitHub makes them.
func anchors(b []byte) map[string]bool {
	names := map[string]bool{}
	for _, m := range title.FindAllStringSubmatch(fence.ReplaceAllString(string(b), ""), -1) {
		var s strings.Builder
		for _, r := range strings.ToLower(m[1]) {
			switch {
			case r == ' ':
				s.WriteByte('-')
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				s.WriteRune(r)
			}
		}
		names[s.String()] = true
	}
	return names
}

// Formats and decisions are found through their index.
func TestIndexesAreWhole(t *testing.T) {
	for _, dir := range []string{"docs/format", "docs/design"} {
		index := dir + "/README.md"
		named := map[string]bool{}
		for _, target := range targets(text(t, index)) {
			named[path.Join(dir, target)] = true
		}
		n := 0
		for _, page := range pages(t) {
			if path.Dir(page) == dir && page != index {
				n++
				if !named[page] {
					t.Errorf("%s does not name %s", index, page)
				}
			}
		}
		if n == 0 {
			t.Errorf("%s has no pages", dir)
		}
	}
}

// The checks themselves: a page with one of each.
func TestTargets(t *testing.T) {
	page := "# A title: its `code` & more\n[a](x.md) [b](https://example.com/y) [c](#a-title-its-code--more)\n" +
		"```\n[not](a.link)\n```\n`[nor](this)` ![picture](p.png \"words\")\n"
	got := strings.Join(targets([]byte(page)), " ")
	if want := "x.md #a-title-its-code--more p.png"; got != want {
		t.Errorf("targets = %q, want %q", got, want)
	}
	if !anchors([]byte(page))["a-title-its-code--more"] {
		t.Errorf("anchors = %v", anchors([]byte(page)))
	}
}

// Pages that comments in code send the reader to.
func TestPagesNamedInCodeExist(t *testing.T) {
	named := regexp.MustCompile(`docs/(?:[a-z0-9-]+/)*[A-Za-z0-9-]+\.md`)
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, ".proto") {
			continue
		}
		for _, page := range named.FindAllString(string(text(t, name)), -1) {
			if _, err := os.Stat(at(page)); err != nil && name != "internal/lint/links_test.go" {
				t.Errorf("%s names %s, which does not exist", name, page)
			}
		}
	}
}
