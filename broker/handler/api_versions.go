package handler

import (
	"context"
	"regexp"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

var softwareName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

// apiVersions lists what is served on this listener (versions 0-5; 5 tells whom the client takes
// this broker for, KIP-1242). A version that is not served is answered in the
// form of version 0, which every client reads, with the versions of this API
// (KIP-511). The controller listener answers the same.
func (b *Broker) apiVersions(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	resp := kmsg.NewPtrApiVersionsResponse()
	req, understood := r.Body.(*kmsg.ApiVersionsRequest)
	if understood {
		resp.SetVersion(req.Version)
		resp.ErrorCode = int16(b.recognise(req))
	} else {
		resp.ErrorCode = int16(protocol.UnsupportedVersion)
	}
	for _, k := range protocol.Versions(r.Conn.Side) {
		if resp.ErrorCode == 0 || !understood && k.ApiKey == protocol.KeyApiVersions {
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
	}
	if resp.ErrorCode == 0 {
		features(b.Image(), resp)
	}
	done(&protocol.Response{Body: resp})
}

// recognise checks what a client says of itself, and of whom it wants to talk to.
func (b *Broker) recognise(req *kmsg.ApiVersionsRequest) protocol.ErrorCode {
	switch known := req.ClusterID != nil; {
	case req.Version >= 3 && !(softwareName.MatchString(req.ClientSoftwareName) && softwareName.MatchString(req.ClientSoftwareVersion)):
		return protocol.InvalidRequest
	case req.Version < 5:
		return protocol.None
	case known != (req.NodeID >= 0):
		return protocol.InvalidRequest
	case known && (*req.ClusterID != b.Image().ClusterID() || req.NodeID != b.NodeID):
		return protocol.RebootstrapRequired
	}
	return protocol.None
}
