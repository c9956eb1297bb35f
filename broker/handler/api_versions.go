package handler

import (
	"context"
	"regexp"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

var softwareName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

// apiVersions lists what is served (versions 0-4). A version that is not served
// is answered in the form of version 0, which every client reads (KIP-511). No
// features are named: neither transactions nor the newer group protocols exist.
func apiVersions(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	resp := kmsg.NewPtrApiVersionsResponse()
	for _, a := range protocol.APIs() {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.Key, a.Advertised, a.Max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	req, understood := r.Body.(*kmsg.ApiVersionsRequest)
	switch {
	case !understood:
		resp.ErrorCode = int16(protocol.UnsupportedVersion)
	case req.Version >= 3 && !(softwareName.MatchString(req.ClientSoftwareName) && softwareName.MatchString(req.ClientSoftwareVersion)):
		resp.ErrorCode, resp.ApiKeys = int16(protocol.InvalidRequest), nil
		resp.SetVersion(req.Version)
	default:
		resp.SetVersion(req.Version)
	}
	done(&protocol.Response{Body: resp})
}
