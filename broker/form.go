package broker

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/handler"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
)

const (
	helloTime = 2 * time.Second
	askPause  = 100 * time.Millisecond
	placeTime = 3 * time.Second // what asking for a place takes before the others are looked at again
	// watchPause is how often a node asks whether the others are of its cluster.
	watchPause = time.Second
	// waitLines is how often a node that waits for others says for whom.
	waitLines = 5 * time.Second
)

// enter returns when this node belongs to a cluster, and its directory says so.
//
// A node that knows of no other forms a cluster of itself. With
// controller.quorum.voters the first of them, by node id, forms one when all of
// them are there and none belongs to one; the others take their places in it. An
// empty node whose id somebody else had joins under a new raft id: it may have
// voted and forgotten it.
func (b *Broker) enter(ctx context.Context) error {
	formed := !b.cfg.IsController()
	if b.cfg.IsController() {
		state, err := b.quorum.log.Load()
		if err != nil {
			return err
		}
		formed = state.Formed()
		if formed && b.identity.ClusterID == "" {
			return fmt.Errorf("data directory %s has a raft log and no meta.properties: put back the one that was there, or use another directory", b.cfg.DataDir())
		}
		if b.quorum.raftID, err = raftmeta.DrawRaftID(b.quorum.log); err != nil {
			return err
		}
	}
	switch {
	case formed && b.identity.ClusterID != "":
		_, err := b.sameCluster(ctx)
		return err
	case b.cfg.IsController() && len(b.controllerAddrs()) == 0 && len(b.cfg.QuorumVoters()) <= 1:
		return b.formCluster(b.voter())
	}
	return b.findCluster(ctx, formed)
}

// voter is this node as a controller.
func (b *Broker) voter() image.Voter {
	return image.Voter{RaftID: b.quorum.raftID, NodeID: b.cfg.NodeID(), DirectoryID: b.identity.DirectoryID, Endpoints: b.quorum.endpoints, Levels: image.OwnLevels}
}

func (b *Broker) formCluster(voters ...image.Voter) error {
	id := b.identity.ClusterID
	if id == "" {
		cluster := newUUID()
		id = base64.RawURLEncoding.EncodeToString(cluster[:])
	}
	if err := b.settle(id); err != nil {
		return err
	}
	return raftmeta.Form(b.quorum.log, b.quorum.raftID, id, voters...)
}

// settle makes the directory one of a cluster.
func (b *Broker) settle(clusterID string) error {
	if b.identity.ClusterID != "" {
		if b.identity.ClusterID != clusterID {
			return fmt.Errorf("data directory %s is of cluster %s, the controllers are of cluster %s: use another directory, or correct controller.quorum.voters", b.cfg.DataDir(), b.identity.ClusterID, clusterID)
		}
		return nil
	}
	b.identity.ClusterID, b.identity.NodeID = clusterID, b.cfg.NodeID()
	return b.dir.Format(b.identity)
}

// findCluster asks the controllers that are configured until it is clear which
// cluster they are of.
func (b *Broker) findCluster(ctx context.Context, brokerOnly bool) error {
	told := time.Now()
	for {
		answers, missing := b.ask(ctx)
		for _, a := range answers {
			if a.ClusterID == "" || len(a.Controllers) == 0 {
				continue
			}
			if err := b.settle(a.ClusterID); err != nil || brokerOnly {
				return err
			}
			return raftmeta.Join(b.quorum.log, b.quorum.raftID)
		}
		if voters, complete := b.founders(answers); complete && !brokerOnly {
			return b.formCluster(voters...)
		}
		if time.Since(told) > waitLines {
			told = time.Now()
			b.log.Info("waiting for controllers", "missing", strings.Join(missing, "; "))
		}
		select {
		case <-time.After(askPause):
		case <-ctx.Done():
			return fmt.Errorf("no cluster was found before the stop; missing: %s", strings.Join(missing, "; "))
		}
	}
}

// sameCluster asks the controllers that are configured whether they are of this
// node's cluster. sure is true once one is. Where most of them are of another one
// and none of this, the directory or the setting is wrong, and this node must not
// serve anybody: it might be a cluster of its own. One alone that is of another
// cluster is not believed, since it may be the one that is wrong.
func (b *Broker) sameCluster(ctx context.Context) (sure bool, err error) {
	answers, missing := b.ask(ctx)
	var foreign []string
	for _, a := range answers {
		switch a.ClusterID {
		case b.identity.ClusterID:
			return true, nil
		case "":
		default:
			foreign = append(foreign, fmt.Sprintf("node %d of cluster %s", a.NodeID, a.ClusterID))
		}
	}
	if 2*len(foreign) <= len(answers)+len(missing) {
		return false, nil
	}
	slices.Sort(foreign)
	return false, fmt.Errorf("data directory %s is of cluster %s, and the controllers that are configured are %s: use the directory that belongs here, or correct controller.quorum.voters or controller.quorum.bootstrap.servers",
		b.cfg.DataDir(), b.identity.ClusterID, strings.Join(foreign, ", "))
}

// watchCluster looks until it is sure that this node is with its own.
func (b *Broker) watchCluster(ctx context.Context) error {
	if len(b.controllerAddrs()) == 0 {
		return nil
	}
	for {
		sure, err := b.sameCluster(ctx)
		if sure || err != nil {
			return err
		}
		select {
		case <-time.After(watchPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// founders are the voters of a new cluster, once all are there and this node is
// the one to form it.
func (b *Broker) founders(answers []peer.HelloAnswer) (voters []image.Voter, complete bool) {
	listed := b.cfg.QuorumVoters()
	first := slices.MinFunc(append(listed, config.Voter{NodeID: 1<<31 - 1}), func(x, y config.Voter) int { return cmp.Compare(x.NodeID, y.NodeID) })
	if first.NodeID != b.cfg.NodeID() {
		return nil, false
	}
	for _, v := range listed {
		if v.NodeID == b.cfg.NodeID() {
			voters = append(voters, b.voter())
			continue
		}
		at := slices.IndexFunc(answers, func(a peer.HelloAnswer) bool { return a.NodeID == v.NodeID })
		if at < 0 || answers[at].Formed || answers[at].RaftID == 0 {
			return nil, false
		}
		voters = append(voters, image.Voter{
			RaftID: answers[at].RaftID, NodeID: v.NodeID, DirectoryID: answers[at].DirectoryID, Levels: answers[at].Levels,
			Endpoints: []image.Endpoint{{Name: b.cfg.ControllerListenerName(), Host: v.Host, Port: v.Port}},
		})
	}
	return voters, true
}

// ask says hello to every other controller that is configured.
func (b *Broker) ask(ctx context.Context) (answers []peer.HelloAnswer, missing []string) {
	type result struct {
		a   peer.HelloAnswer
		at  peer.Address
		err error
	}
	addrs := b.controllerAddrs()
	results := make(chan result, len(addrs))
	for _, at := range addrs {
		go func() {
			a, err := b.hello(ctx, at.Addr)
			results <- result{a, at, err}
		}()
	}
	for range addrs {
		r := <-results
		if r.err == nil && r.at.Node >= 0 && r.a.NodeID != r.at.Node {
			r.err = fmt.Errorf("node %d answers at %s, where node %d is configured", r.a.NodeID, r.at.Addr, r.at.Node)
		}
		if r.err != nil {
			missing = append(missing, r.err.Error())
			continue
		}
		answers = append(answers, r.a)
	}
	return answers, missing
}

func (b *Broker) hello(ctx context.Context, addr string) (peer.HelloAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTime)
	defer cancel()
	return peer.SayHello(ctx, addr, b.peerConfig(), b.identity.ClusterID)
}

// controllerAddrs are the controllers that are configured, without this node.
func (b *Broker) controllerAddrs() []peer.Address {
	var all []peer.Address
	for _, v := range b.cfg.QuorumVoters() {
		if v.NodeID != b.cfg.NodeID() {
			all = append(all, peer.Address{Node: v.NodeID, Addr: v.Addr()})
		}
	}
	if len(all) > 0 {
		return all
	}
	for _, addr := range b.cfg.BootstrapServers() {
		if !b.isMine(addr) {
			all = append(all, peer.Address{Node: -1, Addr: addr})
		}
	}
	return all
}

func (b *Broker) isMine(addr string) bool {
	return b.quorum != nil && slices.ContainsFunc(b.quorum.endpoints, func(e image.Endpoint) bool {
		return net.JoinHostPort(e.Host, fmt.Sprint(e.Port)) == addr
	})
}

// reachable are the controllers besides this one, at the addresses that are
// configured or, for others, at those that the metadata has.
func (b *Broker) reachable() []peer.Address {
	all := b.controllerAddrs()
	for _, v := range b.view.Image().Voters() {
		addr, ok := b.addressOf(v)
		if !ok || v.NodeID == b.cfg.NodeID() {
			continue
		}
		if at := slices.IndexFunc(all, func(a peer.Address) bool { return a.Addr == addr }); at >= 0 {
			all[at].Node = v.NodeID
		} else if !slices.ContainsFunc(all, func(a peer.Address) bool { return a.Node == v.NodeID }) {
			all = append(all, peer.Address{Node: v.NodeID, Addr: addr})
		}
	}
	return all
}

// takePlace sees to it that the quorum knows this controller, which may have
// come with an empty directory in the place of another of its node id. Until the
// leader has told it, it learns from the others where they are.
func (b *Broker) takePlace(ctx context.Context) error {
	for {
		img := b.quorum.controller.Image()
		if _, known := img.Voter(b.quorum.raftID); known {
			return nil
		}
		answers, _ := b.ask(ctx)
		var controllers []image.Voter
		for _, a := range answers {
			if len(a.Controllers) > len(controllers) && a.ClusterID == b.identity.ClusterID {
				controllers = a.Controllers
			}
		}
		if len(img.Voters()) == 0 {
			b.quorum.members(controllers)
		}
		if len(controllers) > 0 && !slices.ContainsFunc(controllers, func(v image.Voter) bool { return v.RaftID == b.quorum.raftID }) {
			if b.askForPlace(ctx) {
				return nil
			}
		}
		select {
		case <-time.After(askPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// askForPlace is true when the answer is final.
func (b *Broker) askForPlace(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, placeTime)
	defer cancel()
	o := b.controllers.Submit(ctx, []control.Request{{
		Actor: fmt.Sprintf("controller %d", b.cfg.NodeID()), Cause: "its directory is new", Command: &control.PutVoter{Voter: b.voter()},
	}})[0]
	if r, refused := errors.AsType[*control.Refusal](o.Err); refused && (r.Code == control.VoterNotFound || r.Code == control.DuplicateVoter) {
		b.log.Error("this node is no controller of the cluster; it waits to be added, or to be given another process.roles", "reason", r.Message)
		return true
	}
	return false
}

// findController asks the node at an endpoint who it is.
func (b *Broker) findController(ctx context.Context, node int32, dir image.UUID, at image.Endpoint) (image.Voter, error) {
	a, err := b.hello(ctx, net.JoinHostPort(at.Host, fmt.Sprint(at.Port)))
	switch {
	case err != nil:
		return image.Voter{}, fmt.Errorf("%w: %w", handler.ErrNoController, err)
	case a.NodeID != node || a.DirectoryID != dir || a.RaftID == 0:
		return image.Voter{}, fmt.Errorf("%w: node %d with directory %s answers there, and is asked for as controller %d with directory %s", handler.ErrOtherController, a.NodeID, a.DirectoryID, node, dir)
	case a.ClusterID != b.identity.ClusterID:
		return image.Voter{}, fmt.Errorf("%w: the node there is of cluster %q, not of cluster %s: start it with controller.quorum.bootstrap.servers of this one", handler.ErrOtherController, a.ClusterID, b.identity.ClusterID)
	}
	return image.Voter{RaftID: a.RaftID, NodeID: node, DirectoryID: dir, Endpoints: []image.Endpoint{at}, Levels: a.Levels}, nil
}

// identify reads whose the directory is.
func identify(dir *storage.Dir, node int32) (storage.Identity, error) {
	id, ok, err := dir.Identity()
	switch {
	case err != nil:
		return id, err
	case ok && id.NodeID != node:
		return id, fmt.Errorf("it belongs to node %d, this is node %d: set node.id=%d, or use another --data-dir", id.NodeID, node, id.NodeID)
	case ok:
		return id, nil
	}
	return storage.Identity{NodeID: node, DirectoryID: newUUID()}, nil
}
