package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// GroupKey is a setting of a group (KIP-1043). Where a group has none of its own, the
// broker's setting counts; others of these bound what may be chosen. Some inherit from a
// setting that only Kafka's brokers have, for kinds of groups that are not served: then
// the default counts.
type GroupKey struct {
	image.Key
	Broker, Low, High string // empty for none
}

const (
	consumerHeartbeat = "consumer.heartbeat.interval.ms"
	consumerSession   = "consumer.session.timeout.ms"
)

// groupKeys are Kafka's settings of groups (GroupConfig of 4.4), by name, without those
// that it calls internal. Those that do nothing here are accepted all the same, so that
// tools which set them for all groups go on.
var groupKeys = []GroupKey{
	inertGroup("consumer.assignment.interval.ms", image.Int, "0", image.AtLeast(0), "group.consumer.assignment.interval.ms", "How long a target of the group holds at least before the next is computed. Here none waits."),
	{image.NewKey(consumerHeartbeat, image.Int, "5000", image.AtLeast(1), "How often a member of the group is to send a heartbeat, by the consumer protocol."),
		"group.consumer.heartbeat.interval.ms", "group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"},
	{image.NewKey(consumerSession, image.Int, "45000", image.AtLeast(1), "The session of a member of the group, by the consumer protocol."),
		"group.consumer.session.timeout.ms", "group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"},
	inertGroup("errors.deadletterqueue.copy.record.enable", image.Boolean, "false", nil, "", "Whether a share group copies records that nobody could process whole."),
	inertGroup("errors.deadletterqueue.topic.name", image.Text, "", nil, "", "The topic into which a share group puts records that nobody could process."),
	inertGroup("share.assignment.interval.ms", image.Int, "1000", image.AtLeast(0), "group.share.assignment.interval.ms", "How long a target of a share group holds at least."),
	inertGroup("share.auto.offset.reset", image.Text, "latest", shareStart, "", "Where a share group begins: earliest, latest, or by_duration: and a time in ISO 8601."),
	inertGroup("share.delivery.count.limit", image.Int, "5", image.AtLeast(2), "group.share.delivery.count.limit", "How often a share group is given a record."),
	inertGroup("share.heartbeat.interval.ms", image.Int, "5000", image.AtLeast(1), "group.share.heartbeat.interval.ms", "How often a member of a share group is to send a heartbeat."),
	inertGroup("share.isolation.level", image.Text, "read_uncommitted", image.OneOf("read_committed", "read_uncommitted"), "", "Whether a share group is given records of transactions that are open or were aborted."),
	inertGroup("share.partition.max.record.locks", image.Int, "2000", image.AtLeast(100), "group.share.partition.max.record.locks", "How many records of a partition are with members of a share group at most."),
	inertGroup("share.record.lock.duration.ms", image.Int, "30000", image.AtLeast(1000), "group.share.record.lock.duration.ms", "How long a record is with a member of a share group."),
	inertGroup("share.renew.acknowledge.enable", image.Boolean, "true", nil, "", "Whether a member of a share group may keep a record for longer."),
	inertGroup("share.session.timeout.ms", image.Int, "45000", image.AtLeast(1), "group.share.session.timeout.ms", "The session of a member of a share group."),
	inertGroup("streams.assignment.interval.ms", image.Int, "1000", image.AtLeast(0), "group.streams.assignment.interval.ms", "How long a target of a streams group holds at least."),
	inertGroup("streams.assignor.name", image.Text, "sticky", image.OneOf("sticky"), "group.streams.assignors", "Who assigns the tasks of a streams group."),
	inertGroup("streams.heartbeat.interval.ms", image.Int, "5000", image.AtLeast(1), "group.streams.heartbeat.interval.ms", "How often a member of a streams group is to send a heartbeat."),
	inertGroup("streams.initial.rebalance.delay.ms", image.Int, "3000", image.AtLeast(0), "group.streams.initial.rebalance.delay.ms", "How long a new streams group waits for more members."),
	inertGroup("streams.num.standby.replicas", image.Int, "0", image.AtLeast(0), "group.streams.num.standby.replicas", "How many stand by for each task of a streams group."),
	inertGroup("streams.rack.aware.assignment.tags", image.List, "", nil, "group.streams.rack.aware.assignment.tags", "By which tags of clients those who stand by are spread."),
	inertGroup("streams.session.timeout.ms", image.Int, "45000", image.AtLeast(1), "group.streams.session.timeout.ms", "The session of a member of a streams group."),
}

func inertGroup(name string, typ image.KeyType, value string, check func(string) error, broker, doc string) GroupKey {
	return GroupKey{Key: image.NewKey(name, typ, value, check, doc).Inert(), Broker: broker}
}

var byDuration = regexp.MustCompile(`^by_duration:(?i:P(\d+D)?(T(\d+H)?(\d+M)?(\d+([.,]\d{0,9})?S)?)?)$`)

func shareStart(v string) error {
	nothing := strings.HasSuffix(strings.ToUpper(v), "P") || strings.HasSuffix(strings.ToUpper(v), "T") // no time where there must be one
	if v != "earliest" && v != "latest" && (nothing || !byDuration.MatchString(v)) {
		return errors.New("must be earliest, latest, or of the form by_duration:PnDTnHnMn.nS")
	}
	return nil
}

// GroupKeys are all settings of groups, by name. The slice must not be changed.
func GroupKeys() []GroupKey { return groupKeys }

// FindGroupKey finds the setting of groups with a name.
func FindGroupKey(name string) (*GroupKey, bool) {
	i, ok := slices.BinarySearchFunc(groupKeys, name, func(k GroupKey, name string) int { return strings.Compare(k.Name, name) })
	if !ok {
		return nil, false
	}
	return &groupKeys[i], true
}

// GroupValues are the values behind a group's setting: its own if it is set, then
// those of the broker.
func (c *Config) GroupValues(img *image.Image, group string, k *GroupKey) []Value {
	var values []Value
	if v, ok := img.GroupConfig(group, k.Name); ok {
		values = append(values, Value{Name: k.Name, Text: v, Source: DynamicGroup})
	}
	if _, ok := FindKey(k.Broker); ok {
		return append(values, c.Values(img, c.NodeID(), k.Broker)...)
	}
	name := k.Broker
	if name == "" {
		name = k.Name
	}
	return append(values, Value{Name: name, Text: k.Default, Source: BuiltIn})
}

// Allows tells what is wrong with a value that the key's Check has passed.
func (c *Config) Allows(k *GroupKey, value string) error {
	if k.Low == "" {
		return nil
	}
	if n := number(k.Name, value); n != c.within(k, n) {
		return fmt.Errorf("%s must be in the range %d to %d inclusive", k.Name, c.Number(k.Low), c.Number(k.High))
	}
	return nil
}

// AllowsTogether tells what is wrong with what is set for a group, of which each is
// allowed: a member that keeps to its heartbeats must not lose its session.
func (c *Config) AllowsTogether(set map[string]string) error {
	inForce := func(name string) int64 {
		k, _ := FindGroupKey(name)
		if v, ok := set[name]; ok {
			return c.within(k, number(name, v))
		}
		return c.Number(k.Broker)
	}
	if inForce(consumerSession) <= inForce(consumerHeartbeat) {
		return fmt.Errorf("%s must be greater than %s", consumerSession, consumerHeartbeat)
	}
	return nil
}

// OfGroup is a group's setting in force, in milliseconds. What was set keeps to the
// bounds that the broker has now, which may have changed since.
func (c *Config) OfGroup(img *image.Image, group, name string) time.Duration {
	k, ok := FindGroupKey(name)
	if !ok {
		panic("config: " + name + " is not a setting of groups")
	}
	if v, ok := img.GroupConfig(group, name); ok {
		return image.Millis(c.within(k, number(name, v)))
	}
	return c.Millis(k.Broker)
}

func (c *Config) within(k *GroupKey, n int64) int64 {
	return max(c.Number(k.Low), min(n, c.Number(k.High)))
}
