package handler

import (
	"slices"

	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/raftmeta/image"
)

// leaders tells clients that came to the wrong broker where to go instead
// (KIP-951), which saves them asking for it.
type leaders struct {
	img      *image.Image
	listener string // that the client came by
	nodes    []fetch.Node
}

// of is who leads a partition, if that is known, and its epoch. Where the client can
// reach that broker it becomes one of nodes.
func (l *leaders) of(topic string, id image.UUID, byID bool, index int32) (fetch.Leader, bool) {
	t, ok := l.img.Topic(topic)
	if byID {
		t, ok = l.img.TopicByID(id)
	}
	if !ok {
		return fetch.Leader{}, false
	}
	p, ok := t.Partition(index)
	if !ok {
		return fetch.Leader{}, false
	}
	l.name(p.Leader)
	return fetch.Leader{ID: p.Leader, Epoch: p.LeaderEpoch}, true
}

func (l *leaders) name(id int32) {
	known := slices.ContainsFunc(l.nodes, func(n fetch.Node) bool { return n.ID == id })
	b, ok := l.img.Broker(id)
	if known || !ok || b.Fenced {
		return
	}
	if e, ok := b.Endpoint(l.listener); ok {
		l.nodes = append(l.nodes, fetch.Node{ID: id, Host: e.Host, Port: int32(e.Port), Rack: b.Rack})
	}
}
