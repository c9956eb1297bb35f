package handler

import (
	"context"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// configResources are the kinds of what has settings, in the order in which Apache Kafka
// lists them. Of client metrics, which are all that version 0 knows, and of loggers there
// are none here.
var configResources = []kmsg.ConfigResourceType{
	kmsg.ConfigResourceTypeGroupConfig, kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeBrokerLogger,
	kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeTopic,
}

// listConfigResources tells what has settings, or may have them (KIP-1142; versions 0-1):
// groups only where some are set, as in Apache Kafka, whether the group is there or not.
func (b *Broker) listConfigResources(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ListConfigResourcesRequest)
	resp := req.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	resp.ConfigResources = []kmsg.ListConfigResourcesResponseConfigResource{}
	served := configResources
	if req.Version == 0 {
		served = []kmsg.ConfigResourceType{kmsg.ConfigResourceTypeClientMetrics}
	}
	wanted := map[kmsg.ConfigResourceType]bool{}
	for _, kind := range req.ResourceTypes {
		if !slices.Contains(served, kmsg.ConfigResourceType(kind)) {
			resp.ErrorCode = int16(protocol.UnsupportedVersion)
			done(&protocol.Response{Body: resp})
			return
		}
		wanted[kmsg.ConfigResourceType(kind)] = true
	}
	img := b.Current(ctx)
	for _, kind := range served {
		if len(wanted) > 0 && !wanted[kind] {
			continue
		}
		add := func(name string) {
			row := kmsg.NewListConfigResourcesResponseConfigResource()
			row.Name, row.Type = name, int8(kind)
			resp.ConfigResources = append(resp.ConfigResources, row)
		}
		switch kind {
		case kmsg.ConfigResourceTypeGroupConfig:
			for _, g := range img.ConfiguredGroups() {
				add(g.Group)
			}
		case kmsg.ConfigResourceTypeBroker:
			for _, node := range img.Brokers() {
				if _, ok := node.Endpoint(r.Conn.Listener); ok && !node.Fenced {
					add(strconv.Itoa(int(node.ID)))
				}
			}
		case kmsg.ConfigResourceTypeTopic:
			for t := range img.Topics() {
				add(t.Name)
			}
		}
	}
	done(&protocol.Response{Body: resp})
}
