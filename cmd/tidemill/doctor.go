package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill/internal/cli/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var p peer
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine and the cluster for what keeps nodes from running well",
		Long: `Check the data directory, its disk, the default ports, the clock, the certificate
(--tls-cert) if one is given, and, where a node runs in the
data directory or --server names one, the leader, the members and every job's owners. Each check is
ok, warn or fail, with what to do about it. The exit code is 1 when one fails.`,
		Example: `  tidemill doctor
  tidemill doctor --server 10.0.0.5:7947 --json`,
		Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.security.Validate(); err != nil {
				return err
			}
			found := doctor.Examine(cmd.Context(), doctor.Config{DataDir: orDataDir(p.dataDir), RPC: p.server, Dial: p.dial, Security: p.security})
			fails := 0
			for _, f := range found {
				if f.Status == doctor.Fail {
					fails++
				}
				if a.json {
					if err := a.line(f); err != nil {
						return err
					}
				}
			}
			if !a.json {
				showFindings(a.out, found)
			}
			if fails > 0 {
				return fmt.Errorf("%d checks failed: %w", fails, errReported)
			}
			return nil
		},
	}
	p.flags(cmd)
	return cmd
}

func showFindings(w io.Writer, found []doctor.Finding) {
	for _, f := range found {
		fmt.Fprintf(w, "%-4s  %s: %s\n", f.Status, f.Check, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(w, "      → %s\n", f.Remedy)
		}
	}
}
