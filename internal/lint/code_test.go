package lint

import (
	"go/ast"
	"path/filepath"
	"strings"
	"testing"
)

// calls that Go code here does not make. dirs may; tests may where tests is set.
var banned = []struct {
	pkg, name string // name "" is every one
	dirs      []string
	tests     bool
	why       string
}{
	{"time", "Sleep", nil, false, "wait for a condition, a timer beside ctx.Done(), or testing/synctest"},
	{"os", "Exit", []string{"cmd", "internal/cicheck", "internal/fuzz", "internal/sim/mutants", "internal/sim/schedules", "internal/engine/tensorflow/setup", "examples"}, true, "return an error; main alone ends the process"},
	{"slog", "Default", nil, false, "loggers come in by constructor"},
	{"slog", "SetDefault", nil, false, "loggers come in by constructor"},
	{"log", "Print", nil, false, "loggers come in by constructor"},
	{"log", "Printf", nil, false, "loggers come in by constructor"},
	{"log", "Println", nil, false, "loggers come in by constructor"},
	{"log", "Fatal", nil, false, "return an error"},
	{"log", "Fatalf", nil, false, "return an error"},
	{"log", "Fatalln", nil, false, "return an error"},
	{"prometheus", "DefaultRegisterer", nil, false, "registries come in by constructor"},
	{"prometheus", "MustRegister", nil, false, "registries come in by constructor"},
	{"context", "TO" + "DO", nil, false, "take a context"},
	{"http", "DefaultServeMux", nil, false, "handlers are returned, and mounted by who listens"},
	{"http", "HandleFunc", nil, false, "handlers are returned, and mounted by who listens"},
}

func TestCodeAvoids(t *testing.T) {
	fset, all := sources(t)
	for _, s := range all {
		if generated(s.file) {
			continue
		}
		imported := map[string]bool{}
		for _, p := range s.imports {
			imported[p[strings.LastIndexByte(p, '/')+1:]] = true
		}
		place := func(n ast.Node) string {
			p := fset.Position(n.Pos())
			return filepath.ToSlash(filepath.Dir(s.name)) + "/" + filepath.Base(p.Filename) + p.String()[len(p.Filename):]
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s: func init: nothing happens before main asks for it", place(n))
				}
			case *ast.GoStmt:
				if s.dir == "." {
					t.Errorf("%s: a goroutine in the vocabulary", place(n))
				}
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok || !imported[x.Name] {
					return true
				}
				for _, b := range banned {
					if b.pkg == x.Name && b.name == n.Sel.Name && !underAny(s.dir, b.dirs) && !(s.test && b.tests) {
						t.Errorf("%s: %s.%s: %s", place(n), b.pkg, b.name, b.why)
					}
				}
			}
			return true
		})
	}
}

func generated(f *ast.File) bool { return ast.IsGenerated(f) }

// Every package says on one page what it is for.
func TestPackagesHaveDoc(t *testing.T) {
	_, all := sources(t)
	documented, packages := map[string]bool{}, map[string]bool{}
	for _, s := range all {
		if s.test || under(s.dir, "examples") && s.dir != "examples" {
			continue
		}
		packages[s.dir] = true
		if s.file.Doc != nil && strings.TrimSpace(s.file.Doc.Text()) != "" {
			documented[s.dir] = true
		}
	}
	for dir := range packages {
		if !documented[dir] {
			t.Errorf("package %s has no package comment; write doc.go", dir)
		}
	}
}
