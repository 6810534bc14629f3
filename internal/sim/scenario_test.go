package sim

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts of the scenarios anew")

// TestScenarios plays the scenarios in testdata. A file is blocks apart by empty lines: lines of
// a Script, a line of dashes, and what the world tells meanwhile.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d scenarios: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			s := &Script{}
			defer s.Close()
			for n, block := range strings.Split(strings.Trim(string(data), "\n"), "\n\n") {
				if n > 0 {
					out.WriteString("\n")
				}
				lines, want, _ := strings.Cut(block+"\n", "----\n")
				out.WriteString(lines)
				var told []string
				asked := false
				for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
					asked = asked || line != "" && line[0] != '#'
					more, err := s.Play(line)
					told = append(told, more...)
					if err != nil {
						t.Fatalf("%s: %v\n%s", line, err, strings.Join(told, "\n"))
					}
				}
				if !asked {
					continue // a remark
				}
				got := ""
				if len(told) > 0 {
					got = strings.Join(told, "\n") + "\n"
				}
				out.WriteString("----\n" + got)
				if !*rewrite && strings.TrimSpace(got) != strings.TrimSpace(want) {
					t.Errorf("%s\ntells\n%s\nand should tell\n%s\n(if that is right: go test ./internal/sim -run Scenarios -rewrite)", strings.TrimSpace(lines), got, want)
				}
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
