package handler

import (
	"context"
	"fmt"
	"time"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// deadline bounds what a request waits for the controller.
func deadline(ctx context.Context, millis int32) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Duration(max(millis, 1))*time.Millisecond)
}

// submission gathers the commands of one request, so that they are decided and made
// durable together, with a function each for what comes of it.
type submission struct {
	commands []control.Command
	outcomes []func(Outcome)
}

func (x *submission) add(cmd control.Command, outcome func(Outcome)) {
	x.commands, x.outcomes = append(x.commands, cmd), append(x.outcomes, outcome)
}

// run carries out what r asks for.
func (x *submission) run(ctx context.Context, b *Broker, r *protocol.Request) {
	if len(x.commands) == 0 {
		return
	}
	cause := fmt.Sprintf("%s from %q at %s", protocol.Name(r.Key), r.ClientID, r.Conn.Peer)
	for i, o := range b.Propose(ctx, r.Conn.Principal, cause, x.commands...) {
		x.outcomes[i](o)
	}
}

// failure is an error as multi-item answers carry it.
func failure(err error) (code int16, message *string) {
	if err == nil {
		return 0, nil
	}
	text := err.Error()
	return int16(errorCode(err)), &text
}
