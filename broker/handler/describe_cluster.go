package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

// Endpoint types of DescribeCluster.
const (
	brokerEndpoints     = 1
	controllerEndpoints = 2
)

// describeCluster tells the brokers (versions 0-2; 1 adds the type of
// endpoint, 2 fenced brokers).
func (b *Broker) describeCluster(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.Brokers = []kmsg.DescribeClusterResponseBroker{}
	resp.ClusterAuthorizedOperations = notAsked
	resp.EndpointType = brokerEndpoints
	refuse := func(code protocol.ErrorCode, message string) {
		resp.ErrorCode, resp.ErrorMessage = int16(code), &message
		done(&protocol.Response{Body: resp})
	}
	switch {
	case req.Version >= 1 && req.EndpointType == controllerEndpoints:
		refuse(protocol.MismatchedEndpointType, "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
		return
	case req.Version >= 1 && req.EndpointType != brokerEndpoints:
		refuse(protocol.UnsupportedEndpointType, "Unsupported endpoint type")
		return
	}
	img := b.Current(ctx)
	resp.ClusterID, resp.ControllerID = img.ClusterID(), b.NodeID
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = allClusterOperations
	}
	for _, node := range img.Brokers() {
		e, ok := endpoint(node, r.Conn.Listener)
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

func rack(node *image.Broker) *string {
	if node.Rack == "" {
		return nil
	}
	return &node.Rack
}
