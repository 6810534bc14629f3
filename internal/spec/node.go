package spec

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/tidemill/tidemill"
)

// Limits on the shape of a file, far above any spec, so that a hostile one cannot exhaust
// the stack (the parser is recursive) or expand aliases without end.
const (
	maxDepth   = 64
	maxPerLine = 1000 // nesting marks and tags on one line
	maxNodes   = 500_000
)

// parseYAML returns the root node of the only document; nil when it is empty.
func parseYAML(data []byte, file string) (root ast.Node, err error) {
	place := tidemill.Place{File: file, Line: 1, Column: 1}
	defer func() {
		// The parser is not ours, and users give it arbitrary bytes.
		if r := recover(); r != nil {
			err = &tidemill.InputError{Place: place, What: "the file is not valid YAML"}
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if at := tooDeep(tokens); at != nil {
		return nil, &tidemill.InputError{Place: placeOf(at, file), What: "the file nests too deeply"}
	}
	f, err := parser.Parse(tokens, 0)
	if err != nil {
		what := "the file is not valid YAML"
		var syntax interface {
			GetToken() *token.Token
			GetMessage() string
		}
		if errors.As(err, &syntax) {
			what = "not valid YAML: " + syntax.GetMessage()
			if t := syntax.GetToken(); t != nil && t.Position != nil {
				place = placeOf(t, file)
			}
		}
		return nil, &tidemill.InputError{Place: place, What: what}
	}
	for _, doc := range f.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			return nil, &tidemill.InputError{Place: placeOf(doc.Body.GetToken(), file), What: "a second YAML document", Remedy: "put one job in each file"}
		}
		root = doc.Body
	}
	return root, nil
}

// tooDeep returns the token at which nesting passes its limit, or nil.
func tooDeep(tokens token.Tokens) *token.Token {
	depth, line, marks := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, marks = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			marks++
		}
		if depth > maxDepth || marks > maxPerLine {
			return t
		}
	}
	return nil
}

func placeOf(t *token.Token, file string) tidemill.Place {
	if t == nil || t.Position == nil {
		return tidemill.Place{File: file, Line: 1, Column: 1}
	}
	return tidemill.Place{File: file, Line: max(t.Position.Line, 1), Column: max(t.Position.Column, 1)}
}

// scalar is a scalar node: its text, and whether it was written without quotes.
type scalar struct {
	text  string
	plain bool
}

// scalarOf returns n as a scalar; ok is false for mappings, sequences and nulls.
func scalarOf(n ast.Node) (s scalar, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return scalar{n.Value, n.Token.Type == token.StringType}, true
	case *ast.LiteralNode:
		return scalar{strings.TrimSuffix(n.Value.Value, "\n"), false}, true
	case *ast.IntegerNode:
		return scalar{fmt.Sprint(n.Value), true}, true // decimal, whatever was written
	case *ast.FloatNode:
		return scalar{strings.ReplaceAll(n.Token.Value, "_", ""), true}, true
	case *ast.BoolNode:
		return scalar{fmt.Sprint(n.Value), true}, true
	case *ast.InfinityNode:
		return scalar{fmt.Sprint(n.Value), true}, true
	case *ast.NanNode:
		return scalar{"NaN", true}, true
	}
	return scalar{}, false
}

// kindOf names what a node is, for messages.
func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case nil, *ast.NullNode:
		return "nothing"
	}
	if s, ok := scalarOf(n); ok {
		const most = 40
		if len(s.text) > most {
			s.text = s.text[:most] + "…"
		}
		return fmt.Sprintf("%q", s.text)
	}
	return "something else"
}

// entries returns the pairs of a mapping node.
func entries(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// isNull reports whether a key was given no value.
func isNull(n ast.Node) bool {
	if n == nil {
		return true
	}
	_, null := n.(*ast.NullNode)
	return null
}
