package lint

import (
	"errors"
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// cores are the packages with a Core: the protocol's state of one role. All of it changes in
// core.go and core_*.go, by Step; what the simulator has tested is then what runs. Only cfg, which never
// changes, may be read elsewhere (recorders write down what a Core was made of).
var cores = []string{"ps", "worker", "trainer"}

// TestCoresOwnTheirState finds every use of a Core's fields outside core.go: not only writes,
// since a slice or map that is read can be changed too. Runners ask by methods.
func TestCoresOwnTheirState(t *testing.T) {
	fset, all := sources(t)
	for _, dir := range cores {
		var files []*ast.File
		for _, s := range all {
			if s.dir == dir && !s.test {
				files = append(files, s.file)
			}
		}
		// Imports are not followed: what is local to the package has its type anyway, and that
		// is all that is asked for.
		info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}, Types: map[ast.Expr]types.TypeAndValue{}}
		conf := types.Config{Importer: nobody{}, Error: func(error) {}}
		pkg, _ := conf.Check(module+"/"+dir, fset, files, info)
		obj := pkg.Scope().Lookup("Core")
		if obj == nil {
			t.Errorf("package %s has no Core: mend the rule", dir)
			continue
		}
		core := obj.Type()
		place := func(at token.Pos) string {
			p := fset.Position(at)
			return path.Join(dir, filepath.Base(p.Filename)) + ":" + p.String()[len(p.Filename)+1:]
		}
		inside, calls := 0, 0
		for _, f := range files {
			written := writes(f)
			own := strings.HasPrefix(filepath.Base(fset.Position(f.Pos()).Filename), "core")
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.SelectorExpr:
					sel := info.Selections[n]
					if sel == nil || !isCore(sel.Recv(), core) {
						return true
					}
					switch {
					case own:
						inside++
					case sel.Kind() == types.FieldVal && n.Sel.Name == "cfg" && !written[n]:
					case sel.Kind() == types.FieldVal:
						t.Errorf("%s: field %s of Core outside core.go: build an event and call Step, or add a method that answers", place(n.Sel.Pos()), n.Sel.Name)
					default:
						calls++
					}
				case *ast.CompositeLit:
					if tv, ok := info.Types[n]; ok && isCore(tv.Type, core) && !own {
						t.Errorf("%s: a Core made by hand: call NewCore", place(n.Pos()))
					}
				case *ast.AssignStmt:
					for _, l := range n.Lhs {
						star, ok := ast.Unparen(l).(*ast.StarExpr)
						if !ok {
							continue
						}
						if tv, ok := info.Types[star]; ok && isCore(tv.Type, core) && !own {
							t.Errorf("%s: a Core replaced in place: build an event and call Step", place(l.Pos()))
						}
					}
				}
				return true
			})
		}
		// The rule would pass if types were not found; then nothing else would be found either.
		if inside < 20 || calls < 3 {
			t.Errorf("package %s: %d uses of the core's fields in core.go and %d calls from outside were recognised, too few to trust the check", dir, inside, calls)
		}
	}
}

// writes returns the selectors of a file that are assigned to, counted up, or whose address is
// taken, whole or in part.
func writes(f *ast.File) map[ast.Expr]bool {
	found := map[ast.Expr]bool{}
	mark := func(e ast.Expr) {
		for e != nil {
			found[e] = true
			switch x := e.(type) {
			case *ast.SelectorExpr:
				e = x.X
			case *ast.IndexExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			default:
				e = nil
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for _, l := range n.Lhs {
				mark(l)
			}
		case *ast.IncDecStmt:
			mark(n.X)
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				mark(n.X)
			}
		}
		return true
	})
	return found
}

func isCore(t, core types.Type) bool {
	if p, ok := types.Unalias(t).(*types.Pointer); ok {
		t = p.Elem()
	}
	return types.Identical(t, core)
}

// nobody imports nothing.
type nobody struct{}

func (nobody) Import(string) (*types.Package, error) { return nil, errors.New("not followed") }
