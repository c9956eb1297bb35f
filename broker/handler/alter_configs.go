package handler

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// alterWait bounds what a change of settings waits for the controller: these
// requests carry no time-out.
const alterWait = 30 * time.Second

// incrementalAlterConfigs changes settings one by one (versions 0-1).
func (b *Broker) incrementalAlterConfigs(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.IncrementalAlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	resp.Resources = make([]kmsg.IncrementalAlterConfigsResponseResource, len(req.Resources))
	var changes alterations
	for i := range req.Resources {
		q, row := &req.Resources[i], &resp.Resources[i]
		row.Default()
		row.ResourceType, row.ResourceName = q.ResourceType, q.ResourceName
		a := alteration{kind: q.ResourceType, name: q.ResourceName, failed: func(err error) { row.ErrorCode, row.ErrorMessage = failure(err) }}
		for _, c := range q.Configs {
			a.ops = append(a.ops, op{c.Name, control.ConfigOp(c.Op), c.Value})
		}
		changes = append(changes, a)
	}
	changes.run(ctx, b, r, false, req.ValidateOnly)
	done(&protocol.Response{Body: resp})
}

// alterConfigs replaces all settings of a resource (versions 0-2).
func (b *Broker) alterConfigs(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.AlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	resp.Resources = make([]kmsg.AlterConfigsResponseResource, len(req.Resources))
	var changes alterations
	for i := range req.Resources {
		q, row := &req.Resources[i], &resp.Resources[i]
		row.Default()
		row.ResourceType, row.ResourceName = q.ResourceType, q.ResourceName
		a := alteration{kind: q.ResourceType, name: q.ResourceName, failed: func(err error) { row.ErrorCode, row.ErrorMessage = failure(err) }}
		for _, c := range q.Configs {
			a.ops = append(a.ops, op{c.Name, control.SetConfig, c.Value})
		}
		changes = append(changes, a)
	}
	changes.run(ctx, b, r, true, req.ValidateOnly)
	done(&protocol.Response{Body: resp})
}

// alteration is what a request wants of one resource.
type alteration struct {
	kind   kmsg.ConfigResourceType
	name   string
	ops    []op
	failed func(error)
}

type op struct {
	key   string
	op    control.ConfigOp
	value *string
}

type alterations []alteration

// run changes each resource whole or not at all, whatever becomes of the others.
func (as alterations) run(ctx context.Context, b *Broker, r *protocol.Request, replace, validateOnly bool) {
	ctx, cancel := context.WithTimeout(ctx, alterWait)
	defer cancel()
	img := b.Current(ctx)
	times := map[string]int{}
	id := func(a *alteration) string { return fmt.Sprintf("%d %s", a.kind, a.name) }
	for i := range as {
		times[id(&as[i])]++
	}
	var all submission
	for i := range as {
		a := &as[i]
		cmd, err := b.alter(img, a)
		if times[id(a)] > 1 {
			err = invalid("the request names the resource twice")
		}
		if err != nil {
			a.failed(err)
			continue
		}
		cmd.Replace, cmd.ValidateOnly = replace, validateOnly
		if err := b.together(img, cmd); err != nil {
			a.failed(err)
			continue
		}
		all.add(cmd, func(o Outcome) {
			a.failed(o.Err)
			if o.Err == nil && !validateOnly {
				b.nameInert(cmd)
			}
		})
	}
	all.run(ctx, b, r)
}

// alter checks what can be checked here and makes the command.
func (b *Broker) alter(img *image.Image, a *alteration) (*control.AlterConfigs, error) {
	cmd := &control.AlterConfigs{}
	var err error
	switch {
	case a.kind == kmsg.ConfigResourceTypeTopic && a.name == "":
		err = invalid("topics have no settings in common: name one")
	case a.kind == kmsg.ConfigResourceTypeTopic:
		err = control.ValidateTopicName(a.name)
		cmd.Topic = a.name
	case a.kind == kmsg.ConfigResourceTypeGroupConfig && a.name == "":
		err = errDefaultGroup
	case a.kind == kmsg.ConfigResourceTypeGroupConfig:
		cmd.Group = a.name
	case a.kind == kmsg.ConfigResourceTypeBroker:
		cmd.Node, err = b.brokerResource(a.name)
	default:
		err = invalid(fmt.Sprintf("settings of resources of type %d cannot be changed here", a.kind))
	}
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, o := range a.ops {
		if seen[o.key] {
			return nil, invalid("the request changes the setting " + o.key + " twice")
		}
		seen[o.key] = true
		change, err := b.change(img, a, o)
		if err != nil {
			return nil, err
		}
		cmd.Changes = append(cmd.Changes, change)
	}
	return cmd, nil
}

func (b *Broker) change(img *image.Image, a *alteration, o op) (control.ConfigChange, error) {
	change := control.ConfigChange{Key: o.key, Op: o.op}
	if o.value != nil {
		change.Value = *o.value
	}
	switch {
	case o.op < control.SetConfig || o.op > control.SubtractConfig:
		return change, invalid(fmt.Sprintf("unknown operation %d on setting %s", o.op, o.key))
	case o.op == control.DeleteConfig:
		return change, nil
	case o.value == nil:
		return change, invalid("null value not supported for the setting " + o.key)
	}
	key, values, err := b.behind(img, a, o.key)
	if err != nil {
		return change, err
	}
	change.Value = key.Form(change.Value)
	if o.op != control.SetConfig && key.Type != image.List {
		return change, invalidConfig("can't %s to setting %s: it is not a list", [...]string{2: "append", 3: "subtract"}[o.op], o.key)
	}
	if err := key.Check(change.Value); err != nil && o.op != control.SubtractConfig {
		if a.kind == kmsg.ConfigResourceTypeBroker { // Kafka's code for these
			return change, invalid(err.Error())
		}
		return change, invalidConfig("%v", err)
	}
	if k, ok := config.FindGroupKey(o.key); ok && a.kind == kmsg.ConfigResourceTypeGroupConfig {
		if err := b.Config.Allows(k, change.Value); err != nil {
			return change, invalidConfig("%v", err)
		}
	}
	if len(values) > 0 {
		change.Default = values[0].Text
	}
	return change, nil
}

// together looks at all that is set for a group once the command is carried out.
func (b *Broker) together(img *image.Image, cmd *control.AlterConfigs) error {
	if cmd.Group == "" {
		return nil
	}
	set := map[string]string{}
	if !cmd.Replace {
		for _, s := range img.GroupConfigs(cmd.Group) {
			set[s.Key] = s.Value
		}
	}
	for _, c := range cmd.Changes {
		if delete(set, c.Key); c.Op == control.SetConfig {
			set[c.Key] = c.Value
		}
	}
	if err := b.Config.AllowsTogether(set); err != nil {
		return invalidConfig("%v", err)
	}
	return nil
}

// nameInert says of what was set for a group that it makes no difference here.
func (b *Broker) nameInert(cmd *control.AlterConfigs) {
	for _, c := range cmd.Changes {
		if k, ok := config.FindGroupKey(c.Key); ok && cmd.Group != "" && c.Op != control.DeleteConfig && !k.Acts(c.Value) {
			b.Log.Warn("a setting of a group is accepted and makes no difference here", "group", cmd.Group, "setting", c.Key, "value", c.Value)
		}
	}
}

// behind finds a setting, and what it is without being set on the resource.
func (b *Broker) behind(img *image.Image, a *alteration, name string) (*image.Key, []config.Value, error) {
	if a.kind == kmsg.ConfigResourceTypeTopic {
		k, ok := image.FindTopicKey(name)
		if !ok {
			return nil, nil, invalidConfig("unknown topic config name: %s", name)
		}
		return &k.Key, b.Config.TopicValues(img, &image.Topic{}, k), nil
	}
	if a.kind == kmsg.ConfigResourceTypeGroupConfig {
		k, ok := config.FindGroupKey(name)
		if !ok {
			return nil, nil, invalidConfig("Unknown group config name: %s", name)
		}
		return &k.Key, b.Config.GroupValues(img, "", k), nil
	}
	k, ok := config.FindKey(name)
	switch {
	case !ok:
		return nil, nil, invalidConfig("unknown setting of brokers: %s", name)
	case k.Mode == config.ReadOnly:
		return nil, nil, invalid("cannot update these configs dynamically: " + name)
	}
	return &k.Key, b.Config.Values(img, b.NodeID, name), nil
}

func invalidConfig(format string, args ...any) error {
	return &control.Refusal{Code: control.InvalidConfig, Message: fmt.Sprintf(format, args...)}
}
