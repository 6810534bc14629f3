package nats

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/zeebo/xxh3"
)

// Names on the server. A topic's dots would split subjects and are not allowed in stream
// names; '=' stands for them, which no topic name contains.
const (
	streamPrefix  = "TIDEMILL_"
	subjectPrefix = "tm"
	noPrefix      = "-" // last subject token of an append without key
)

// What permissions on a server are written in: the key-value bucket of the topics' records, and
// the subjects that rows are appended under.
const (
	TopicsBucket = "TIDEMILL_TOPICS"
	Subjects     = subjectPrefix + ".>"
)

// Metadata of a partition's JetStream stream.
const (
	metaTopic     = "tidemill-topic"
	metaIdentity  = "tidemill-identity"
	metaPartition = "tidemill-partition"
)

func escape(name string) string { return strings.ReplaceAll(name, ".", "=") }

func unescape(name string) string { return strings.ReplaceAll(name, "=", ".") }

func streamName(topic string, p int) string {
	return fmt.Sprintf("%s%s_%d", streamPrefix, escape(topic), p)
}

// subject is where a partition's messages of one key prefix go. The identity keeps a late
// publish to a deleted topic out of its successor.
func subject(topic, identity string, p int, token string) string {
	return fmt.Sprintf("%s.%s.%s.%d.%s", subjectPrefix, escape(topic), identity, p, token)
}

// prefixToken is the subject token of a key prefix: 11 characters, stored with each message.
func prefixToken(prefix string) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], xxh3.HashString(prefix))
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Keys of the bucket.
func topicKey(topic string) string { return "t." + escape(topic) }

func holderKey(topic, identity, holder string) string {
	return "h." + escape(topic) + "." + identity + "." + escape(holder)
}

func holderKeys(topic, identity string) string {
	return "h." + escape(topic) + "." + identity + ".*"
}

func lastKeyKey(topic, identity string, p int, token string) string {
	return fmt.Sprintf("k.%s.%s.%d.%s", escape(topic), identity, p, token)
}

func lastKeyKeys(topic, identity string) string {
	return "k." + escape(topic) + "." + identity + ".>"
}
