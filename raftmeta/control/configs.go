package control

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// ConfigOp says what to do with one setting.
type ConfigOp int8

// Operations, in the numbers of IncrementalAlterConfigs.
const (
	SetConfig      ConfigOp = 0
	DeleteConfig   ConfigOp = 1
	AppendConfig   ConfigOp = 2 // items of a list
	SubtractConfig ConfigOp = 3
)

// ConfigChange changes one setting.
type ConfigChange struct {
	Key   string
	Op    ConfigOp
	Value string
	// Default is the list that AppendConfig and SubtractConfig begin with when the setting is not set here.
	Default string
}

// AlterConfigs changes settings of one topic, of one consumer group, of one broker or of all brokers; all of them, or none.
//
// Which settings brokers and groups have, and whether they are lists, the sender has checked: this package knows topics only.
type AlterConfigs struct {
	Topic   string // empty for groups and brokers
	Group   string // empty for brokers
	Node    int32  // or image.EveryBroker
	Changes []ConfigChange
	// Replace forgets what is not among the changes.
	Replace      bool
	ValidateOnly bool
}

// Eval implements Command.
func (c *AlterConfigs) Eval(m *image.Image, _ time.Time) (Result, error) {
	if c.Node < image.EveryBroker {
		return refuse(InvalidConfig, "%d is no broker", c.Node)
	}
	current := m.BrokerConfigs(c.Node)
	if c.Group != "" {
		current = m.GroupConfigs(c.Group)
	}
	var topic *image.Topic
	if c.Topic != "" {
		var ok bool
		if topic, ok = m.Topic(c.Topic); !ok {
			return unknownTopic(c.Topic)
		}
		current = topic.Configs()
	}
	next := slices.Clone(current)
	if c.Replace {
		next = nil
	}
	set := map[string]string{}
	for _, change := range c.Changes {
		next = change.apply(next)
		if at, found := findSetting(next, change.Key); found {
			set[change.Key] = next[at].Value
		}
	}
	if topic != nil {
		if err := image.ValidateTopicConfig(set); err != nil {
			return refuse(InvalidConfig, "%v", err)
		}
	}
	if c.ValidateOnly || slices.Equal(next, current) {
		return Result{}, nil
	}
	var records []image.Record
	clear := &image.ELRClearRecord{}
	switch {
	case c.Group != "":
		return Result{Records: []image.Record{&image.GroupConfigsRecord{Group: c.Group, Configs: next}}}, nil
	case topic != nil:
		clear.Topic = topic.ID
		records = append(records, &image.TopicConfigsRecord{Topic: topic.ID, Configs: next})
	default:
		records = append(records, &image.BrokerConfigsRecord{Node: c.Node, Configs: next})
	}
	if (topic != nil || c.Node == image.EveryBroker) && !same(current, next, "min.insync.replicas") {
		records = append(records, clear)
	}
	return Result{Records: records}, nil
}

func same(a, b []image.Setting, key string) bool {
	i, inA := findSetting(a, key)
	j, inB := findSetting(b, key)
	return inA == inB && (!inA || a[i].Value == b[j].Value)
}

func findSetting(settings []image.Setting, key string) (int, bool) {
	return slices.BinarySearchFunc(settings, key, func(s image.Setting, key string) int { return cmp.Compare(s.Key, key) })
}

// apply changes settings, which are ordered by key and its own.
func (c ConfigChange) apply(settings []image.Setting) []image.Setting {
	at, found := findSetting(settings, c.Key)
	if c.Op == DeleteConfig {
		if found {
			settings = slices.Delete(settings, at, at+1)
		}
		return settings
	}
	value := c.Value
	if c.Op != SetConfig {
		list := c.Default
		if found {
			list = settings[at].Value
		}
		value = c.edit(image.Items(list))
	}
	if !found {
		settings = slices.Insert(settings, at, image.Setting{Key: c.Key})
	}
	settings[at].Value = value
	return settings
}

// edit appends items that are not there yet, or removes items.
func (c ConfigChange) edit(list []string) string {
	for _, item := range image.Items(c.Value) {
		if c.Op == SubtractConfig {
			list = slices.DeleteFunc(list, func(x string) bool { return x == item })
		} else if !slices.Contains(list, item) {
			list = append(list, item)
		}
	}
	return strings.Join(list, ",")
}
