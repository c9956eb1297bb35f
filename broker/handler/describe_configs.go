package handler

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// describeConfigs tells the settings of topics, groups and brokers (versions 1-4; 1
// adds synonyms, 3 types and documentation).
func (b *Broker) describeConfigs(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeConfigsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	img := b.Current(ctx)
	resp.Resources = make([]kmsg.DescribeConfigsResponseResource, len(req.Resources))
	for i := range req.Resources {
		q, row := &req.Resources[i], &resp.Resources[i]
		row.Default()
		row.ResourceType, row.ResourceName = q.ResourceType, q.ResourceName
		row.Configs = []kmsg.DescribeConfigsResponseResourceConfig{}
		row.ErrorMessage = new(string) // as in Apache Kafka, empty rather than null
		settings, err := b.settingsOf(img, q.ResourceType, q.ResourceName)
		if err != nil {
			row.ErrorCode, row.ErrorMessage = failure(err)
			continue
		}
		for _, s := range settings {
			if len(q.ConfigNames) == 0 || slices.Contains(q.ConfigNames, s.key.Name) {
				row.Configs = append(row.Configs, s.row(req.IncludeSynonyms, req.IncludeDocumentation))
			}
		}
	}
	done(&protocol.Response{Body: resp})
}

var errDefaultGroup = invalid("Default group resources are not allowed.")

// described is a setting: what it is, and what each source says, the one in
// force first.
type described struct {
	key      *image.Key
	value    config.Value
	synonyms []config.Value
	readOnly bool
}

// settingsOf are the settings that a resource has. Those of all brokers are
// only what was set for all of them, as in Apache Kafka.
func (b *Broker) settingsOf(img *image.Image, kind kmsg.ConfigResourceType, name string) ([]described, error) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		t, ok := img.Topic(name)
		if !ok {
			return nil, cmp.Or(control.ValidateTopicName(name), errUnknownTopic)
		}
		return b.topicSettings(img, t), nil
	case kmsg.ConfigResourceTypeBroker:
		node, err := b.brokerResource(name)
		if err != nil {
			return nil, err
		}
		var all []described
		for i := range config.Keys() {
			k := &config.Keys()[i]
			if values := b.Config.Values(img, node, k.Name); len(values) > 0 {
				if !values[0].Null {
					for _, other := range config.OtherUnits(k.Name) {
						values = append(values, b.Config.Values(img, node, other)...)
					}
				}
				all = append(all, described{&k.Key, values[0], values, k.Mode == config.ReadOnly})
			}
		}
		return all, nil
	case kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, errDefaultGroup
		}
		var all []described
		for i := range config.GroupKeys() {
			k := &config.GroupKeys()[i]
			values := b.Config.GroupValues(img, name, k)
			all = append(all, described{key: &k.Key, value: values[0], synonyms: values})
		}
		return all, nil
	default:
		return nil, invalid(fmt.Sprintf("resources of type %d have no settings here", kind))
	}
}

func (b *Broker) topicSettings(img *image.Image, t *image.Topic) []described {
	var all []described
	for i := range image.TopicKeys() {
		k := &image.TopicKeys()[i]
		values := b.Config.TopicValues(img, t, k)
		inForce := config.Value{Name: k.Name, Text: k.FromBroker(values[0].Name, values[0].Text), Source: values[0].Source}
		all = append(all, described{key: &k.Key, value: inForce, synonyms: slices.DeleteFunc(values, func(v config.Value) bool {
			// Of built-in values Apache Kafka lists that of the first broker's setting only.
			return v.Source == config.BuiltIn && (len(k.Broker) == 0 || v.Name != k.Broker[0].Name)
		})})
	}
	return all
}

// brokerResource is the node that a resource's name stands for.
func (b *Broker) brokerResource(name string) (int32, error) {
	if name == "" {
		return image.EveryBroker, nil
	}
	node, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return 0, invalid(fmt.Sprintf("broker id must be an integer, but it is: %s", name))
	}
	if int32(node) != b.NodeID {
		return 0, invalid(fmt.Sprintf("unexpected broker id, expected %d or empty string, but received %s", b.NodeID, name))
	}
	return b.NodeID, nil
}

func (d described) row(synonyms, documentation bool) kmsg.DescribeConfigsResponseResourceConfig {
	row := kmsg.NewDescribeConfigsResponseResourceConfig()
	row.Name, row.Value, row.ReadOnly = d.key.Name, d.text(d.value), d.readOnly
	row.Source, row.ConfigType = kmsg.ConfigSource(d.value.Source), kmsg.ConfigType(d.key.Type)
	row.IsDefault = d.value.Source == config.BuiltIn
	row.IsSensitive = d.key.Type == image.Password
	row.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{}
	if documentation {
		row.Documentation = &d.key.Doc
	}
	for _, v := range d.synonyms {
		if !synonyms || v.Null {
			continue
		}
		s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
		s.Name, s.Value, s.Source = v.Name, d.text(v), kmsg.ConfigSource(v.Source)
		row.ConfigSynonyms = append(row.ConfigSynonyms, s)
	}
	return row
}

func (d described) text(v config.Value) *string {
	if v.Null || d.key.Type == image.Password {
		return nil
	}
	return &v.Text
}
