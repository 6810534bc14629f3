package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill/internal/node"
	"github.com/tidemill/tidemill/internal/snapshot"
)

// release is set by the linker in released binaries (-X main.release=v1.2.3).
var release = ""

// build describes this binary.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a tree with changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Protocol int    `json:"protocol"` // between nodes
	Format   int    `json:"format"`   // of snapshots and versions
}

func buildVersion() build {
	b := build{
		Version: release, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Protocol: node.Protocol, Format: snapshot.Format,
	}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if b.Version == "" && info.Main.Version != "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "What this binary is, and which formats it speaks",
		Example: "  tidemill version --json",
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			b := buildVersion()
			return a.result(b, func(w io.Writer) {
				fmt.Fprintf(w, "tidemill %s (%s, %s)\n", b.Version, b.Go, b.Platform)
				if b.Commit != "" {
					fmt.Fprintf(w, "commit %s\n", b.Commit)
				}
				fmt.Fprintf(w, "node protocol %d, snapshot format %d\n", b.Protocol, b.Format)
			})
		},
	}
}
