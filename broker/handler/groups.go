package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// findCoordinator refuses (versions 0-6; 4 takes several keys): there are no
// coordinators. COORDINATOR_NOT_AVAILABLE would make clients ask for a minute;
// UNSUPPORTED_VERSION ends the attempt, with the reason.
func (b *Broker) findCoordinator(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.FindCoordinatorRequest)
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	err := errNoGroups
	switch t := req.CoordinatorType; {
	case t == 0:
	case t == 1:
		err = errNoTransactions
	case t == 2 && req.Version >= 6:
		err = errNoShareGroups
	default:
		err = invalid("unknown type of coordinator")
	}
	if req.Version < 4 {
		resp.ErrorCode, resp.ErrorMessage = failure(err)
		resp.NodeID, resp.Port = -1, -1
	}
	resp.Coordinators = []kmsg.FindCoordinatorResponseCoordinator{}
	for _, key := range req.CoordinatorKeys {
		row := kmsg.NewFindCoordinatorResponseCoordinator()
		row.Key, row.NodeID, row.Port = key, -1, -1
		row.ErrorCode, row.ErrorMessage = failure(err)
		resp.Coordinators = append(resp.Coordinators, row)
	}
	done(&protocol.Response{Body: resp})
}

// listGroups lists none, for there are none (versions 0-5).
func (b *Broker) listGroups(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	resp := r.Body.ResponseKind().(*kmsg.ListGroupsResponse)
	resp.Groups = []kmsg.ListGroupsResponseGroup{}
	done(&protocol.Response{Body: resp})
}
