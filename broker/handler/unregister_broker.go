package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// unregisterBroker forgets a broker (version 0). A process that runs under its
// id stops: it has no place any more.
func (b *Broker) unregisterBroker(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.UnregisterBrokerRequest)
	resp := req.ResponseKind().(*kmsg.UnregisterBrokerResponse)
	ctx, cancel := context.WithTimeout(ctx, alterWait)
	defer cancel()
	var err error
	for more := true; more && err == nil; {
		var reply any
		if reply, err = b.one(ctx, r, &control.UnregisterBroker{ID: req.BrokerID}); err == nil {
			more = reply.(*control.BrokerProgress).More
		}
	}
	resp.ErrorCode, resp.ErrorMessage = failure(err)
	done(&protocol.Response{Body: resp})
}
