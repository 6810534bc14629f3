package kafka

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemill/tidemill"
)

// client is a connection to the brokers.
type client struct {
	*kgo.Client
	cfg *Config
}

// newClient returns a client that has not dialled yet. Each one has connections of its own:
// a broker answers the requests of one connection in turn, and a fetch may wait.
func newClient(cfg *Config, secure []kgo.Opt, more ...kgo.Opt) (*client, error) {
	opts := append([]kgo.Opt{
		kgo.SeedBrokers(cfg.Spec.Brokers...),
		kgo.ClientID("tidemill"),
		kgo.RetryTimeout(cfg.AttemptTimeout),
		kgo.RequestTimeoutOverhead(cfg.AttemptTimeout),
		kgo.DialTimeout(cfg.AttemptTimeout),
		kgo.RetryBackoffFn(func(n int) time.Duration { return min(10*time.Millisecond<<min(n, 7), time.Second) }),
		kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.DisableClientMetrics(),
	}, secure...)
	cl, err := kgo.NewClient(append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("stream.kafka: %w: %w", tidemill.ErrInvalid, err)
	}
	return &client{cl, cfg}, nil
}

// topicID names one incarnation of a topic.
type topicID [16]byte

func (id topicID) String() string { return hex.EncodeToString(id[:]) }

// leader is who serves a partition.
type leader struct{ node, epoch int32 }

// meta is what the brokers say about a topic.
type meta struct {
	cluster string
	id      topicID
	leaders []leader // by partition; node -1 while there is none
}

// settled reports whether every partition has a leader.
func (m meta) settled() bool {
	return len(m.leaders) > 0 && !slices.ContainsFunc(m.leaders, func(l leader) bool { return l.node < 0 })
}

// request sends req to whom it concerns and returns its answer.
func request[R kmsg.Response](ctx context.Context, c *client, req kmsg.Request) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
	defer cancel()
	var none R
	resp, err := c.Request(ctx, req)
	if err != nil {
		return none, err
	}
	return resp.(R), nil
}

// all reads what the brokers know: of the named topics, or of every one.
func (c *client) all(ctx context.Context, names ...string) (cluster string, topics map[string]meta, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	for _, n := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(n)
		req.Topics = append(req.Topics, t)
	}
	resp, err := request[*kmsg.MetadataResponse](ctx, c, req)
	if err != nil {
		return "", nil, wrap(err, "ask Kafka for its topics")
	}
	if resp.ClusterID != nil {
		cluster = *resp.ClusterID
	}
	topics = make(map[string]meta, len(resp.Topics))
	for _, t := range resp.Topics {
		if t.Topic == nil || t.IsInternal {
			continue
		}
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.InvalidTopicException):
			continue
		case err != nil && !errors.Is(err, kerr.LeaderNotAvailable):
			return "", nil, wrap(err, "ask Kafka for topic %q", *t.Topic)
		}
		m := meta{cluster: cluster, id: t.TopicID, leaders: make([]leader, len(t.Partitions))}
		for i := range m.leaders {
			m.leaders[i].node = -1
		}
		for _, p := range t.Partitions {
			if int(p.Partition) < len(m.leaders) {
				m.leaders[p.Partition] = leader{p.Leader, p.LeaderEpoch}
			}
		}
		topics[*t.Topic] = m
	}
	return cluster, topics, nil
}

// one reads what the brokers know of a topic; tidemill.ErrNotFound when there is none.
func (c *client) one(ctx context.Context, name string) (meta, error) {
	_, topics, err := c.all(ctx, name)
	if err != nil {
		return meta{}, err
	}
	m, ok := topics[name]
	if !ok {
		return meta{}, fmt.Errorf("topic %q: %w", name, tidemill.ErrNotFound)
	}
	return m, nil
}

// Timestamps of list that are no times.
const (
	latest   = -1
	earliest = -2
)

// list returns an offset of each partition in [0, n): the log's start, its end for those who
// read committed rows, or the first one of a time in milliseconds, -1 where there is none.
func (c *client) list(ctx context.Context, topic string, partitions []int, at int64, committed bool) ([]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if committed {
		req.IsolationLevel = 1
	}
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition = int32(p)
		rp.Timestamp = at
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	out := make([]int64, len(partitions))
	deadline := time.Now().Add(c.cfg.AttemptTimeout)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := c.tryList(ctx, req, partitions, out)
		if err == nil {
			return out, nil
		}
		if !passing(err) || time.Now().After(deadline) || pause(ctx, wait) != nil {
			return nil, wrap(err, "ask for the offsets of topic %q", topic)
		}
	}
}

func (c *client) tryList(ctx context.Context, req *kmsg.ListOffsetsRequest, partitions []int, out []int64) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
	defer cancel()
	seen := 0
	for _, shard := range c.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return shard.Err
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return err
				}
				if i := slices.Index(partitions, int(p.Partition)); i >= 0 {
					out[i] = p.Offset
					seen++
				}
			}
		}
	}
	if seen != len(partitions) {
		return fmt.Errorf("%d of %d partitions answered: %w", seen, len(partitions), tidemill.ErrUnavailable)
	}
	return nil
}

// bounds returns what a partition holds of Kafka's offsets: [start, end), of committed rows.
func (c *client) bounds(ctx context.Context, topic string, p int) (start, end int64, err error) {
	s, err := c.list(ctx, topic, []int{p}, earliest, true)
	if err != nil {
		return 0, 0, err
	}
	e, err := c.list(ctx, topic, []int{p}, latest, true)
	if err != nil {
		return 0, 0, err
	}
	return s[0], e[0], nil
}

// settled is bounds once whatever is being written to the partition when it is called has been
// committed or aborted: an append is acknowledged a little before its rows can be read.
func (c *client) settled(ctx context.Context, topic string, p int) (start, end int64, err error) {
	written, err := c.list(ctx, topic, []int{p}, latest, false)
	if err != nil {
		return 0, 0, err
	}
	deadline := time.Now().Add(c.cfg.AttemptTimeout + c.cfg.TransactionTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		if start, end, err = c.bounds(ctx, topic, p); err != nil || end >= written[0] {
			return start, end, err
		}
		if time.Now().After(deadline) || pause(ctx, wait) != nil {
			return 0, 0, fmt.Errorf("topic %q partition %d: a transaction is open at offset %d: %w", topic, p, end, tidemill.ErrUnavailable)
		}
	}
}

// configs reads settings of a topic; those that the brokers do not tell are left out.
func (c *client) configs(ctx context.Context, topic string, names ...string) (map[string]string, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType = kmsg.ConfigResourceTypeTopic
	r.ResourceName = topic
	r.ConfigNames = names
	req.Resources = append(req.Resources, r)
	resp, err := request[*kmsg.DescribeConfigsResponse](ctx, c, req)
	if err != nil {
		return nil, wrap(err, "ask for the settings of topic %q", topic)
	}
	out := map[string]string{}
	for _, r := range resp.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return nil, wrap(err, "ask for the settings of topic %q", topic)
		}
		for _, e := range r.Configs {
			if e.Value != nil && slices.Contains(names, e.Name) {
				out[e.Name] = *e.Value
			}
		}
	}
	return out, nil
}

// compacted reports whether a topic's rows may vanish from the middle of its log. Where the
// brokers do not tell, reading finds out.
func (c *client) compacted(ctx context.Context, topic string) (bool, error) {
	got, err := c.configs(ctx, topic, "cleanup.policy")
	if errors.Is(err, tidemill.ErrDenied) {
		return false, nil
	}
	return strings.Contains(got["cleanup.policy"], "compact"), err
}

// create makes a topic; that it is there already is no error.
func (c *client) create(ctx context.Context, topic string, partitions int, configs map[string]string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, int32(partitions), -1
	if c.cfg.Replicas > 0 {
		t.ReplicationFactor = int16(c.cfg.Replicas)
	}
	for k, v := range configs {
		e := kmsg.NewCreateTopicsRequestTopicConfig()
		e.Name, e.Value = k, kmsg.StringPtr(v)
		t.Configs = append(t.Configs, e)
	}
	req.Topics = append(req.Topics, t)
	req.TimeoutMillis = int32(c.cfg.AttemptTimeout.Milliseconds())
	resp, err := request[*kmsg.CreateTopicsResponse](ctx, c, req)
	if err == nil && len(resp.Topics) == 1 {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
		if err != nil && resp.Topics[0].ErrorMessage != nil {
			err = fmt.Errorf("%w (%s)", err, *resp.Topics[0].ErrorMessage)
		}
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return wrap(err, "make topic %q", topic)
}

// grow gives a topic n partitions, if it has fewer, and waits until they can be used.
func (c *client) grow(ctx context.Context, topic string, n int) error {
	m, err := c.one(ctx, topic)
	if err != nil {
		return err
	}
	if len(m.leaders) < n {
		req := kmsg.NewPtrCreatePartitionsRequest()
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = topic, int32(n)
		req.Topics = append(req.Topics, t)
		req.TimeoutMillis = int32(c.cfg.AttemptTimeout.Milliseconds())
		resp, err := request[*kmsg.CreatePartitionsResponse](ctx, c, req)
		if err == nil && len(resp.Topics) == 1 {
			err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
		}
		if err != nil {
			return wrap(err, "add partitions to topic %q", topic)
		}
	}
	_, err = c.until(ctx, topic, func(m meta) bool { return len(m.leaders) >= n && m.settled() })
	return err
}

// remove deletes a topic; that there is none is no error.
func (c *client) remove(ctx context.Context, topic string) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{topic}
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	req.TimeoutMillis = int32(c.cfg.AttemptTimeout.Milliseconds())
	resp, err := request[*kmsg.DeleteTopicsResponse](ctx, c, req)
	if err == nil && len(resp.Topics) == 1 {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	return wrap(err, "delete topic %q", topic)
}

// until asks about a topic until it is as ok says; brokers hear of changes one after the other.
// m.leaders is nil while there is no such topic.
func (c *client) until(ctx context.Context, topic string, ok func(m meta) bool) (meta, error) {
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		m, err := c.one(ctx, topic)
		if err != nil && !errors.Is(err, tidemill.ErrNotFound) {
			return m, err
		}
		if ok(m) {
			return m, nil
		}
		if err := pause(ctx, wait); err != nil {
			return m, fmt.Errorf("wait for topic %q: %w: %w", topic, tidemill.ErrUnavailable, err)
		}
	}
}

// commitGroup writes a group's offsets, for dashboards; nobody reads them.
func (c *client) commitGroup(ctx context.Context, group, topic string, id topicID, offsets []int64) error {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.TopicID = topic, id
	for p, o := range offsets {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset = int32(p), o
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	resp, err := request[*kmsg.OffsetCommitResponse](ctx, c, req)
	if err != nil {
		return wrap(err, "commit the offsets of group %q", group)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return wrap(err, "commit the offsets of group %q", group)
			}
		}
	}
	return nil
}
