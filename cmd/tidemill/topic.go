package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidemill/tidemill"
	"github.com/tidemill/tidemill/internal/source"
	natsource "github.com/tidemill/tidemill/internal/source/nats"
)

// topicInfo is what topic prints.
type topicInfo struct {
	Topic      string       `json:"topic"`
	Partitions int          `json:"partitions"`
	Former     []int        `json:"former,omitempty"` // numbers of partitions before it grew
	Identity   string       `json:"identity"`
	First      tidemill.Cut `json:"first"`
	Next       tidemill.Cut `json:"next"`
	Schema     []column     `json:"schema"`
}

func newTopic(a *app) *cobra.Command {
	var (
		p          peer
		url        string
		partitions int
	)
	cmd := &cobra.Command{
		Use:   "topic NAME",
		Short: "Show a topic, or give it more partitions",
		Long: `Show a topic's partitions, offsets and columns. With --partitions N it gets as many partitions.

Partitions can be added, never taken away. Running jobs that are not bounded read the new ones
from their beginning. An input whose production has begun stays on the partitions that it was
begun on, also when it is interrupted and goes on later. Inputs begun afterwards are dealt over
all: rows with the same --key then lie in the partition that their key has among all, which may
be another one than before, so that the order of a key's rows is kept before the change and
after it, but not across it.`,
		Example: `  tidemill topic clicks
  tidemill topic clicks --partitions 8`,
		Args: args(1, 1, "NAME"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if cmd.Flags().Changed("partitions") && partitions < 1 {
				return tidemill.Invalid("--partitions %d", "give the number that the topic is to have", partitions)
			}
			return a.topic(cmd.Context(), &p, url, given[0], partitions)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&url, "stream-url", "", "nats://HOST:PORT of the stream (default: that of the node in --data-dir)")
	dataDirFlag(cmd, &p.dataDir, "data directory of a node on this machine, to find its stream in")
	securityFlags(cmd, &p.security)
	fl.IntVar(&partitions, "partitions", 0, "raise the number of partitions to this")
	return cmd
}

// topic shows a topic, after growing it when partitions is above 0.
func (a *app) topic(ctx context.Context, p *peer, url, name string, partitions int) error {
	nc, err := p.dialStream(ctx, url)
	if err != nil {
		return err
	}
	defer nc.Close()
	stream, err := natsource.New(nc, natsource.Config{})
	if err != nil {
		return err
	}
	defer stream.Close()
	t, err := stream.Open(ctx, name)
	if err != nil {
		return err
	}
	defer t.Close()
	if partitions > 0 {
		if err := t.Grow(ctx, partitions); err != nil {
			return err
		}
	}
	info, err := t.Info(ctx)
	if err != nil {
		return err
	}
	return a.result(topicInfo{
		Topic: name, Partitions: info.Partitions, Former: info.Former, Identity: info.Identity,
		First: info.First, Next: info.Next, Schema: columns(info.Schema),
	}, func(w io.Writer) { showTopic(w, info) })
}

func showTopic(w io.Writer, info source.Info) {
	fmt.Fprintf(w, "topic %s, partitions: %d", info.Name, info.Partitions)
	if len(info.Former) > 0 {
		fmt.Fprintf(w, " (before: %s)", strings.Trim(fmt.Sprint(info.Former), "[]"))
	}
	fmt.Fprintln(w)
	for i := range info.Next {
		fmt.Fprintf(w, "  partition %-4d offsets %d to %d\n", i, info.First[i], info.Next[i])
	}
	for _, c := range columns(info.Schema) {
		fmt.Fprintf(w, "  column %s: %s\n", c.Name, c.Type)
	}
}
