package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// module is the path that go.mod declares.
const module = "github.com/tidemill/tidemill"

// root is the top of the repository, seen from this package.
const root = "../.."

// tracked returns the slash-separated paths of all tracked files, relative to the root.
func tracked(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root, "ls-files", "-z").Output()
	var names []string
	if err == nil && len(out) > 0 {
		names = strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	} else {
		names = walk(t)
	}
	kept := names[:0]
	for _, name := range names {
		if _, err := os.Stat(at(name)); err == nil { // deleted, and not yet committed
			kept = append(kept, name)
		}
	}
	if len(kept) < 100 {
		t.Fatalf("only %d files found: the rules would pass for want of anything to look at", len(kept))
	}
	return kept
}

// walk finds the files of a tree that is no git checkout.
func walk(t *testing.T) []string {
	var names []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, p)
		names = append(names, filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func at(name string) string { return filepath.Join(root, filepath.FromSlash(name)) }

// text returns a file's content, or nil where it is not text.
func text(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(at(name))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.IndexByte(b[:min(len(b), 8000)], 0) >= 0 {
		return nil
	}
	return b
}

// source is one Go file.
type source struct {
	name    string // "ps/core.go"
	dir     string // "ps"; "." is the root
	test    bool
	file    *ast.File
	imports []string
}

// sources parses all tracked Go files, for every platform and tag. Fixtures are left out.
func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	fset := token.NewFileSet()
	var all []source
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		f, err := parser.ParseFile(fset, at(name), nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s := source{name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), file: f}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			s.imports = append(s.imports, p)
		}
		all = append(all, s)
	}
	return fset, all
}

// local returns the folder of a package of this module, and whether p is one.
func local(p string) (string, bool) {
	if p == module {
		return ".", true
	}
	return strings.CutPrefix(p, module+"/")
}

// under reports whether dir is top or lies below it.
func under(dir, top string) bool { return dir == top || strings.HasPrefix(dir, top+"/") }

// underAny reports whether dir is one of tops or lies below one.
func underAny(dir string, tops []string) bool {
	for _, top := range tops {
		if under(dir, top) {
			return true
		}
	}
	return false
}
