package handler

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

// Endpoint types of DescribeCluster.
const (
	brokerEndpoints     = 1
	controllerEndpoints = 2
)

// describeCluster tells the brokers, and on a controller listener the controllers
// (versions 0-2; 1 adds the type of endpoint, 2 fenced brokers).
func (b *Broker) describeCluster(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.Brokers = []kmsg.DescribeClusterResponseBroker{}
	resp.ClusterAuthorizedOperations = notAsked
	resp.EndpointType = brokerEndpoints
	if r.Conn.Side == protocol.Controllers {
		resp.EndpointType = controllerEndpoints
	}
	refuse := func(code protocol.ErrorCode, message string) {
		resp.ErrorCode, resp.ErrorMessage = int16(code), &message
		done(&protocol.Response{Body: resp})
	}
	wanted := int8(brokerEndpoints)
	if req.Version >= 1 {
		wanted = req.EndpointType
	}
	switch {
	case wanted != brokerEndpoints && wanted != controllerEndpoints:
		refuse(protocol.UnsupportedEndpointType, "Unsupported endpoint type")
		return
	case wanted != resp.EndpointType && req.Version == 0: // which cannot ask for the other
		refuse(protocol.InvalidRequest, "this is a controller listener: its nodes are asked for from version 1 on")
		return
	case wanted != resp.EndpointType:
		kind := map[int8]string{brokerEndpoints: "BROKER", controllerEndpoints: "CONTROLLER"}
		refuse(protocol.MismatchedEndpointType, fmt.Sprintf("The request was sent to an endpoint of type %s, but we wanted an endpoint of type %s", kind[resp.EndpointType], kind[wanted]))
		return
	}
	img := b.Current(ctx)
	resp.ClusterID = img.ClusterID()
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = allClusterOperations
	}
	if wanted == controllerEndpoints {
		b.tellControllers(img, r.Conn.Listener, resp)
		done(&protocol.Response{Body: resp})
		return
	}
	resp.ControllerID = b.spokesman(img, r.Conn.Listener)
	for _, node := range img.Brokers() {
		e, ok := node.Endpoint(r.Conn.Listener)
		if !ok || node.Fenced && !req.IncludeFencedBrokers {
			continue
		}
		b.warnLoopback(r.Conn, e)
		row := kmsg.NewDescribeClusterResponseBroker()
		row.NodeID, row.Host, row.Port, row.IsFenced = node.ID, e.Host, int32(e.Port), node.Fenced
		row.Rack = rack(node)
		resp.Brokers = append(resp.Brokers, row)
	}
	done(&protocol.Response{Body: resp})
}

// tellControllers names the controllers that have this listener, and the active
// one, if it is among them.
func (b *Broker) tellControllers(img *image.Image, listener string, resp *kmsg.DescribeClusterResponse) {
	active := b.ActiveController()
	resp.ControllerID = -1
	for _, v := range newestVoters(img.Voters()) {
		at := slices.IndexFunc(v.Endpoints, func(e image.Endpoint) bool { return e.Name == listener })
		if at < 0 {
			continue
		}
		row := kmsg.NewDescribeClusterResponseBroker()
		row.NodeID, row.Host, row.Port = v.NodeID, v.Endpoints[at].Host, int32(v.Endpoints[at].Port)
		resp.Brokers = append(resp.Brokers, row)
		if v.NodeID == active {
			resp.ControllerID = active
		}
	}
}

func rack(node *image.Broker) *string {
	if node.Rack == "" {
		return nil
	}
	return &node.Rack
}
