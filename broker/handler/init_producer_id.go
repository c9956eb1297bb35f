package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// initProducerID gives an idempotent producer an id of its own and epoch 0
// (versions 0-5). Nothing of it is stored: the id is unique for ever, so a
// producer that starts over simply gets another. Transactional producers are
// refused.
func (b *Broker) initProducerID(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.InitProducerIDRequest)
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	id, err := b.newProducer(ctx, req)
	if err != nil {
		resp.ProducerID, resp.ProducerEpoch = -1, -1
		resp.ErrorCode = int16(errorCode(err))
	} else {
		resp.ProducerID, resp.ProducerEpoch = id, 0
	}
	done(&protocol.Response{Body: resp})
}

func (b *Broker) newProducer(ctx context.Context, req *kmsg.InitProducerIDRequest) (int64, error) {
	switch {
	case (req.ProducerID == -1) != (req.ProducerEpoch == -1):
		return 0, invalid("a producer id and its epoch come together or not at all")
	case req.TransactionalID == nil:
		return b.ProducerIDs(ctx)
	case *req.TransactionalID == "":
		return 0, invalid("an empty transactional id")
	default:
		return 0, errTransactionalID
	}
}
