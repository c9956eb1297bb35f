package image

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// topicKey is one setting that a topic may have: its default, the broker's key behind it, and what it may be.
type topicKey struct {
	key, value, brokerKey string
	check                 func(string) error
}

// topicKeys has the settings that act, with Kafka's names and defaults; streambus.flush is ours.
var topicKeys = []topicKey{
	{"index.interval.bytes", "4096", "log.index.interval.bytes", atLeast(0)},
	{"max.message.bytes", "1048588", "message.max.bytes", atLeast(0)},
	{"min.insync.replicas", "1", "min.insync.replicas", atLeast(1)},
	{"segment.bytes", "1073741824", "log.segment.bytes", atLeast(1 << 20)},
	{"segment.index.bytes", "10485760", "log.index.size.max.bytes", atLeast(4)},
	{"streambus.flush", "ack", "streambus.flush", oneOf("ack", "os")},
}

// ValidateTopicConfig says what is wrong with a topic's settings, naming the first key that is.
func ValidateTopicConfig(settings map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		k, ok := findKey(func(k topicKey) bool { return k.key == key })
		if !ok {
			return fmt.Errorf("%s is not a setting of topics here; there are: %s", key, strings.Join(keys(func(k topicKey) string { return k.key }), ", "))
		}
		if err := k.check(settings[key]); err != nil {
			return fmt.Errorf("%s=%s: %w", key, settings[key], err)
		}
	}
	return nil
}

// TopicKeyOfBrokerKey is the topic setting that a broker's setting is the default of.
func TopicKeyOfBrokerKey(brokerKey string) (string, bool) {
	k, ok := findKey(func(k topicKey) bool { return k.brokerKey == brokerKey })
	return k.key, ok
}

// BrokerKeys are the broker's settings that topics inherit.
func BrokerKeys() []string { return keys(func(k topicKey) string { return k.brokerKey }) }

// String is the value in force for a topic: its own, else the broker's, else the built-in default.
func (t *Topic) String(key string, defaults map[string]string) string {
	if v, ok := t.Config(key); ok {
		return v
	}
	if v, ok := defaults[key]; ok {
		return v
	}
	k, ok := findKey(func(k topicKey) bool { return k.key == key })
	if !ok {
		panic("image: " + key + " is not in the table of topic settings")
	}
	return k.value
}

// Int64 is the value in force of a numeric setting.
func (t *Topic) Int64(key string, defaults map[string]string) int64 {
	n, err := strconv.ParseInt(t.String(key, defaults), 10, 64)
	if err != nil {
		panic("image: " + key + " was accepted and is not a number: " + err.Error())
	}
	return n
}

func findKey(is func(topicKey) bool) (topicKey, bool) {
	if i := slices.IndexFunc(topicKeys, is); i >= 0 {
		return topicKeys[i], true
	}
	return topicKey{}, false
}

func keys(name func(topicKey) string) []string {
	var names []string
	for _, k := range topicKeys {
		names = append(names, name(k))
	}
	return names
}

func atLeast(low int64) func(string) error {
	return func(v string) error {
		// Positions inside a segment have 31 bits, in Kafka's files too.
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < low || n > 1<<31-1 {
			return fmt.Errorf("must be a whole number from %d to %d", low, 1<<31-1)
		}
		return nil
	}
}

func oneOf(values ...string) func(string) error {
	return func(v string) error {
		if !slices.Contains(values, v) {
			return fmt.Errorf("must be one of %s", strings.Join(values, ", "))
		}
		return nil
	}
}
