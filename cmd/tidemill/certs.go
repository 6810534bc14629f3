package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/rpc"
)

func newCerts(a *app) *cobra.Command {
	cfg := rpc.CertConfig{}
	var days int
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make a development authority and certificates for a cluster's nodes and people",
		Long: `Make certificates, and the authority that signs them unless the directory has one already
(ca.pem and ca-key.pem). Without --role it is a whole cluster's set: one certificate for each
role of nodes, "node" for nodes with all of them, "admin" for those who give commands and
produce rows, "client" for those who ask for predictions. With --role it is one for each role
given, or, with --name, a single one for all of them.

NAME.pem and NAME-key.pem go with --tls-cert and --tls-key, ca.pem with --tls-ca. Keys can be read
by their owner alone. Nothing is overwritten. Keep ca-key.pem away from the nodes: whoever has it
can act as any role.`,
		Example: `  tidemill certs --dir certs --host 10.0.0.5 --host ps1.example
  tidemill certs --dir certs --role worker --name worker7 --host 10.0.0.7`,
		Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if days < 1 || days > 36500 {
				return tidemill.Invalid("--days %d", "give 1 or more", days)
			}
			cfg.Life = time.Duration(days) * 24 * time.Hour
			made, err := rpc.MakeCerts(cfg)
			if errors.Is(err, tidemill.ErrExists) {
				return refused{err}
			}
			if err != nil {
				return err
			}
			if a.json {
				for _, c := range made {
					if err := a.line(c); err != nil {
						return err
					}
				}
				return nil
			}
			showCerts(a.out, made)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&cfg.Dir, "dir", "certs", "directory of the files, made when missing")
	fl.StringSliceVar(&cfg.Roles, "role", nil, "roles to make certificates for: "+strings.Join(rpc.Roles(), ", ")+" (default: the whole set)")
	fl.StringVar(&cfg.Name, "name", "", "file name of a single certificate for all the roles given")
	fl.StringSliceVar(&cfg.Hosts, "host", nil, "names and IP addresses that nodes are dialled by, beside localhost, 127.0.0.1 and ::1")
	fl.IntVar(&days, "days", 365, "how long the certificates are valid")
	_ = cmd.MarkFlagDirname("dir")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(rpc.Roles(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func showCerts(w io.Writer, made []rpc.Certificate) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range made {
		roles := strings.Join(c.Roles, ", ")
		if len(c.Roles) == 0 {
			roles = "the authority"
		}
		fmt.Fprintf(tw, "%s\t%s\tuntil %s\t%s\n", c.Cert, c.Key, c.Expires.Format("2006-01-02"), roles)
	}
	_ = tw.Flush()
}
