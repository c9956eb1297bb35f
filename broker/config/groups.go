package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// GroupKey is a setting of a consumer group (KIP-1043), which is inherited from one of
// the broker's. Others of these say what may be chosen.
type GroupKey struct {
	image.Key
	Broker, Low, High string
}

var groupKeys = []GroupKey{
	{image.NewKey("consumer.heartbeat.interval.ms", image.Int, "5000", image.AtLeast(1), "How often a member of the group is to send a heartbeat, by the consumer protocol."),
		"group.consumer.heartbeat.interval.ms", "group.consumer.min.heartbeat.interval.ms", "group.consumer.max.heartbeat.interval.ms"},
	{image.NewKey("consumer.session.timeout.ms", image.Int, "45000", image.AtLeast(1), "The session of a member of the group, by the consumer protocol."),
		"group.consumer.session.timeout.ms", "group.consumer.min.session.timeout.ms", "group.consumer.max.session.timeout.ms"},
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
	return append(values, c.Values(img, c.NodeID(), k.Broker)...)
}

// Allows tells what is wrong with a value that the key's Check has passed.
func (c *Config) Allows(k *GroupKey, value string) error {
	switch n := number(k.Name, value); {
	case n < c.Number(k.Low):
		return fmt.Errorf("%s must be greater than or equal to %s", k.Name, k.Low)
	case n > c.Number(k.High):
		return fmt.Errorf("%s must be less than or equal to %s", k.Name, k.High)
	}
	return nil
}

// OfGroup is a group's setting in force, in milliseconds.
func (c *Config) OfGroup(img *image.Image, group, name string) time.Duration {
	k, ok := FindGroupKey(name)
	if !ok {
		panic("config: " + name + " is not a setting of groups")
	}
	return image.Millis(number(name, c.GroupValues(img, group, k)[0].Text))
}
