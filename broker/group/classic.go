package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// Join takes a JoinGroup (KIP-394: whoever joins first gets an id, and joins with
// that; KIP-345: static members; KIP-814). The answer is a *kmsg.JoinGroupResponse,
// now or when all have joined.
func (s *Shard) Join(now time.Time, req *kmsg.JoinGroupRequest, who Client, token any) Effects {
	w := &joining{token, req.ResponseKind().(*kmsg.JoinGroupResponse)}
	if code := s.join(now, req, who, w); code != protocol.None {
		s.joinFailed(w, req.MemberID, code)
	}
	if g := s.groups[req.Group]; g != nil {
		s.forget(g)
		s.arm(g)
	}
	return s.effects(now)
}

// joinFailed answers with an error, and with the member's id all the same.
func (s *Shard) joinFailed(w *joining, id string, code protocol.ErrorCode) {
	w.resp.ErrorCode, w.resp.Generation = int16(code), -1
	if w.resp.MemberID == "" {
		w.resp.MemberID = id
	}
	if w.resp.Version < 7 {
		w.resp.Protocol = kmsg.StringPtr("")
	}
	s.reply(w.token, w.resp)
}

func (s *Shard) join(now time.Time, req *kmsg.JoinGroupRequest, who Client, w *joining) protocol.ErrorCode {
	session := time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	switch {
	case req.Group == "" || tooLong(req.Group):
		return protocol.InvalidGroupID
	case tooLong(req.MemberID, orBlank(req.InstanceID), req.ProtocolType, who.ID) || slices.ContainsFunc(req.Protocols, func(p kmsg.JoinGroupRequestProtocol) bool { return tooLong(p.Name) }):
		return protocol.InvalidRequest
	case session < s.cfg.MinSession || session > s.cfg.MaxSession:
		return protocol.InvalidSessionTimeout
	}
	g := s.group(req.Group, req.MemberID == "")
	switch {
	case g == nil:
		return protocol.UnknownMemberID
	case g.consumer != nil:
		return s.joinConsumers(now, g, req, who, w)
	case !s.accepts(g, req.MemberID):
		if m := g.members[req.MemberID]; m != nil {
			g.remove(m)
		}
		delete(g.pending, req.MemberID)
		s.maybeComplete(now, g) // the others may have waited for nobody else
		return protocol.GroupMaxSizeReached
	case !g.supports(req.ProtocolType, req.Protocols):
		return protocol.InconsistentGroupProtocol
	case req.MemberID == "" && req.InstanceID != nil:
		return s.joinStatic(now, g, req, who, w)
	case req.MemberID == "":
		id := who.ID + "-" + who.Unique
		if req.Version >= 4 {
			g.pending[id] = now.Add(session)
			w.resp.MemberID = id
			return protocol.MemberIDRequired
		}
		s.admit(now, g, id, req, who, w)
		return protocol.None
	}
	return s.rejoin(now, g, req, who, w)
}

// accepts tells whether there is room for a member. As in Kafka's acceptJoiningMember an
// id that was given out takes no place before its owner comes with it, and how many are
// given out has no bound but their session time-out: with one, whoever only asks for ids
// would keep members out.
func (s *Shard) accepts(g *Group, id string) bool {
	known := g.members[id]
	switch g.state {
	case Empty:
		return true
	case PreparingRebalance:
		return known != nil && known.join != nil || g.waiting() < s.cfg.MaxSize
	}
	return known != nil || len(g.members) < s.cfg.MaxSize
}

// admit takes in a new member.
func (s *Shard) admit(now time.Time, g *Group, id string, req *kmsg.JoinGroupRequest, who Client, w *joining) {
	delete(g.pending, id)
	if len(g.members) == 0 {
		g.protocolType = req.ProtocolType
	}
	m := &member{id: id, instance: req.InstanceID, client: who}
	g.add(m)
	g.came = true
	m.takes(req, who)
	m.join, m.deadline = w, now.Add(m.session)
	s.changed(now, g)
}

// takes takes over what a member says when it joins.
func (m *member) takes(req *kmsg.JoinGroupRequest, who Client) {
	m.client, m.protocols = who, cloneProtocols(req.Protocols)
	m.session = time.Duration(req.SessionTimeoutMillis) * time.Millisecond
	m.rebalance = m.session
	if req.Version >= 1 {
		m.rebalance = time.Duration(req.RebalanceTimeoutMillis) * time.Millisecond
	}
}

// cloneProtocols keeps them longer than the request's buffer.
func cloneProtocols(protocols []kmsg.JoinGroupRequestProtocol) []kmsg.JoinGroupRequestProtocol {
	protocols = slices.Clone(protocols)
	for i := range protocols {
		protocols[i].Metadata = slices.Clone(protocols[i].Metadata)
	}
	return protocols
}

// rejoin is of somebody with an id.
func (s *Shard) rejoin(now time.Time, g *Group, req *kmsg.JoinGroupRequest, who Client, w *joining) protocol.ErrorCode {
	if _, ok := g.pending[req.MemberID]; ok {
		if req.InstanceID != nil { // a static member is given no id to come back with
			return protocol.UnknownMemberID
		}
		s.admit(now, g, req.MemberID, req, who, w)
		return protocol.None
	}
	m, code := g.find(req.MemberID, req.InstanceID)
	if code != protocol.None {
		return code
	}
	switch {
	case g.state == PreparingRebalance:
		s.update(now, g, m, req, who, w)
	case g.state == CompletingRebalance && m.says(req.Protocols), g.state == Stable && m.id != g.leader && m.says(req.Protocols):
		// It has not heard of the generation, or wants to be sure.
		m.deadline = now.Add(m.session)
		s.answerJoin(g, m, w)
	case g.state == Empty:
		return protocol.UnknownMemberID
	default:
		s.update(now, g, m, req, who, w)
	}
	return protocol.None
}

// find is the member that a request is of.
func (g *Group) find(id string, instance *string) (*member, protocol.ErrorCode) {
	if instance != nil {
		switch known, ok := g.static[*instance]; {
		case !ok:
			return nil, protocol.UnknownMemberID
		case known != id:
			return nil, protocol.FencedInstanceID
		}
	}
	if m := g.members[id]; m != nil {
		return m, protocol.None
	}
	return nil, protocol.UnknownMemberID
}

func (s *Shard) update(now time.Time, g *Group, m *member, req *kmsg.JoinGroupRequest, who Client, w *joining) {
	m.takes(req, who)
	s.endJoin(m, protocol.RebalanceInProgress) // of the request before: its connection is gone
	m.join, m.deadline = w, now.Add(m.session)
	s.changed(now, g)
}

// joinStatic is of an instance that begins, anew or for the first time.
func (s *Shard) joinStatic(now time.Time, g *Group, req *kmsg.JoinGroupRequest, who Client, w *joining) protocol.ErrorCode {
	id := *req.InstanceID + "-" + who.Unique
	old, known := g.static[*req.InstanceID]
	if !known {
		s.admit(now, g, id, req, who, w)
		return protocol.None
	}
	m := g.members[old]
	led := g.leader == old
	s.endJoin(m, protocol.FencedInstanceID)
	s.endSync(m, protocol.FencedInstanceID)
	if g.state == Stable && g.electWith(m, req.Protocols) == *g.protocol {
		s.replace(now, g, m, id, led, req, who, w)
		return protocol.None
	}
	g.rename(m, id)
	m.takes(req, who)
	m.join, m.deadline = w, now.Add(m.session)
	s.changed(now, g)
	return protocol.None
}

// replace lets an instance that began anew go on where it was, without a rebalance,
// even if it says something else than before: consumers say what they own, and one
// that begins owns nothing yet. It is not told that it leads, unless it can be told to keep the assignment.
func (s *Shard) replace(now time.Time, g *Group, m *member, id string, led bool, req *kmsg.JoinGroupRequest, who Client, w *joining) {
	old := m.id
	next := *m
	next.id, next.client = id, who
	next.takes(req, who)
	record := g.record(now, func(x *member) *member {
		if x == m {
			return &next
		}
		return x
	})
	s.write([]Record{record}, func() {
		g.rename(m, id)
		m.takes(req, who)
		m.deadline = now.Add(m.session)
		s.answerJoin(g, m, w)
		if led && req.Version < 9 {
			w.resp.LeaderID, w.resp.Members = old, nil
		}
		w.resp.SkipAssignment = led && req.Version >= 9
	}, func(code protocol.ErrorCode) { s.joinFailed(w, id, code) })
}

// changed begins a rebalance, or looks whether the one that is under way can go on.
func (s *Shard) changed(now time.Time, g *Group) {
	if g.canRebalance() {
		s.prepare(now, g)
	} else {
		s.maybeComplete(now, g)
	}
}

// prepare begins the phase of joining.
func (s *Shard) prepare(now time.Time, g *Group) {
	if g.state == CompletingRebalance {
		g.each(func(m *member) {
			m.assignment = nil
			s.endSync(m, protocol.RebalanceInProgress)
		})
	}
	g.syncUntil = time.Time{}
	clear(g.unsynced)
	g.initial = g.state == Empty
	g.become(PreparingRebalance, now)
	if g.initial {
		first := s.cfg.InitialRebalanceDelay
		g.came, g.joinUntil, g.joinLeft = false, now.Add(first), max(0, g.longest()-first)
		return
	}
	g.joinUntil = now.Add(g.longest())
	s.maybeComplete(now, g)
}

// maybeComplete ends the phase of joining once all have joined. A first one has its
// time, for there may be more to come.
func (s *Shard) maybeComplete(now time.Time, g *Group) {
	if g.state == PreparingRebalance && !g.initial && g.joined() {
		s.complete(now, g)
	}
}

// complete ends the phase of joining: who has not joined is no member any more,
// unless it is a static one.
func (s *Shard) complete(now time.Time, g *Group) {
	g.joinUntil, g.initial = time.Time{}, false
	g.each(func(m *member) {
		if m.join == nil && m.instance == nil {
			g.remove(m)
		}
	})
	if len(g.members) > 0 && g.members[g.leader].join == nil {
		i := slices.IndexFunc(g.order, func(id string) bool { return g.members[id].join != nil })
		if i < 0 { // static members only, and none is there
			g.joinUntil = now.Add(g.longest())
			return
		}
		g.leader = g.order[i]
	}
	g.generation++
	if len(g.members) == 0 {
		g.protocol, g.leader = nil, ""
		g.become(Empty, now)
		s.write([]Record{g.record(now, nil)}, func() { g.stored = true }, func(protocol.ErrorCode) {
			// Nobody was told. Whoever loads the group finds members, whose sessions end.
		})
		return
	}
	name := g.elect()
	g.protocol = &name
	g.become(CompletingRebalance, now)
	g.syncUntil = now.Add(g.longest())
	g.each(func(m *member) { // it keeps the assignment that it had for those who look
		g.unsynced[m.id] = true
		m.deadline = now.Add(m.session)
		if w := m.join; w != nil {
			m.join = nil
			s.answerJoin(g, m, w)
		}
	})
}

// answerJoin tells a member of the generation.
func (s *Shard) answerJoin(g *Group, m *member, w *joining) {
	resp := w.resp
	resp.ErrorCode, resp.Generation, resp.Protocol, resp.LeaderID, resp.MemberID = 0, g.generation, g.protocol, g.leader, m.id
	if resp.Version >= 7 {
		resp.ProtocolType = kmsg.StringPtr(g.protocolType)
	}
	resp.Members = nil
	if m.id == g.leader && g.protocol != nil {
		g.each(func(x *member) {
			row := kmsg.NewJoinGroupResponseMember()
			row.MemberID, row.InstanceID, row.ProtocolMetadata = x.id, x.instance, x.metadata(*g.protocol)
			resp.Members = append(resp.Members, row)
		})
	}
	s.reply(w.token, resp)
}

// endJoin and endSync answer a request that waits with an error.
func (s *Shard) endJoin(m *member, code protocol.ErrorCode) {
	if w := m.join; w != nil {
		m.join = nil
		s.joinFailed(w, m.id, code)
	}
}

func (s *Shard) endSync(m *member, code protocol.ErrorCode) {
	if w := m.sync; w != nil {
		m.sync = nil
		s.answerSync(w, nil, code)
	}
}

func (s *Shard) answerSync(w *syncing, assignment []byte, code protocol.ErrorCode) {
	w.resp.ErrorCode, w.resp.MemberAssignment = int16(code), assignment
	if assignment == nil {
		w.resp.MemberAssignment = []byte{}
	}
	s.reply(w.token, w.resp)
}

// Sync takes a SyncGroup: members ask for their assignments, and the leader brings
// them. The answer is a *kmsg.SyncGroupResponse.
func (s *Shard) Sync(now time.Time, req *kmsg.SyncGroupRequest, token any) Effects {
	w := &syncing{token, req.ResponseKind().(*kmsg.SyncGroupResponse)}
	g := s.groups[req.Group]
	if code := s.sync(now, g, req, w); code != protocol.None {
		s.answerSync(w, nil, code)
	}
	if g != nil {
		s.arm(g)
	}
	return s.effects(now)
}

func (s *Shard) sync(now time.Time, g *Group, req *kmsg.SyncGroupRequest, w *syncing) protocol.ErrorCode {
	switch {
	case req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil):
		return protocol.InconsistentGroupProtocol
	case req.Group == "":
		return protocol.InvalidGroupID
	case g != nil && g.consumer != nil:
		return s.syncConsumers(now, g, req, w)
	case g == nil || g.state == Empty:
		return protocol.UnknownMemberID
	}
	m, code := g.find(req.MemberID, req.InstanceID)
	other := func(asked, have *string) bool { return asked != nil && (have == nil || *asked != *have) }
	switch {
	case code != protocol.None:
		return code
	case req.Generation != g.generation:
		return protocol.IllegalGeneration
	case other(req.ProtocolType, &g.protocolType) || other(req.Protocol, g.protocol):
		return protocol.InconsistentGroupProtocol
	case g.state == PreparingRebalance:
		return protocol.RebalanceInProgress
	}
	m.deadline = now.Add(m.session)
	delete(g.unsynced, m.id)
	if len(g.unsynced) == 0 {
		g.syncUntil = time.Time{}
	}
	if g.state == Stable {
		w.resp.ProtocolType, w.resp.Protocol = &g.protocolType, g.protocol
		s.answerSync(w, m.assignment, protocol.None)
		return protocol.None
	}
	s.endSync(m, protocol.RebalanceInProgress)
	m.sync = w
	if m.id == g.leader {
		s.assign(now, g, req)
	}
	return protocol.None
}

// assign makes the leader's assignments those of the generation. A member that is not
// among them gets nothing.
func (s *Shard) assign(now time.Time, g *Group, req *kmsg.SyncGroupRequest) {
	assignments := map[string][]byte{}
	for _, a := range req.GroupAssignment {
		assignments[a.MemberID] = slices.Clone(a.MemberAssignment)
	}
	record := g.record(now, func(m *member) *member {
		next := *m
		next.assignment = assignments[m.id]
		return &next
	})
	s.write([]Record{record}, func() {
		g.become(Stable, now)
		s.completed++
		g.stored = true
		g.each(func(m *member) {
			m.assignment = assignments[m.id]
			if w := m.sync; w != nil {
				m.sync = nil
				m.deadline = now.Add(m.session)
				w.resp.ProtocolType, w.resp.Protocol = &g.protocolType, g.protocol
				s.answerSync(w, m.assignment, protocol.None)
			}
		})
		s.arm(g)
	}, func(code protocol.ErrorCode) {
		g.each(func(m *member) { s.endSync(m, code) })
		s.prepare(now, g)
		s.arm(g)
	})
}

// Heartbeat takes one. The answer is a *kmsg.HeartbeatResponse.
func (s *Shard) Heartbeat(now time.Time, req *kmsg.HeartbeatRequest, token any) Effects {
	resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
	answer := func(code protocol.ErrorCode) {
		resp.ErrorCode = int16(code)
		s.reply(token, resp)
	}
	if g := s.groups[req.Group]; g != nil && g.consumer != nil {
		s.beatConsumers(now, g, req, answer)
		s.arm(g)
	} else {
		answer(s.heartbeat(now, req))
	}
	return s.effects(now)
}

func (s *Shard) heartbeat(now time.Time, req *kmsg.HeartbeatRequest) protocol.ErrorCode {
	if req.Group == "" {
		return protocol.InvalidGroupID
	}
	g := s.groups[req.Group]
	if g == nil || g.state == Empty {
		return protocol.UnknownMemberID
	}
	m, code := g.find(req.MemberID, req.InstanceID)
	switch {
	case code != protocol.None:
		return code
	case req.Generation != g.generation:
		return protocol.IllegalGeneration
	}
	m.deadline = now.Add(m.session)
	if g.state == PreparingRebalance {
		return protocol.RebalanceInProgress
	}
	return protocol.None
}

// Leave takes a LeaveGroup, of one member or, from version 3 on, of several. The
// answer is a *kmsg.LeaveGroupResponse.
func (s *Shard) Leave(now time.Time, req *kmsg.LeaveGroupRequest, token any) Effects {
	resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
	members := req.Members
	if req.Version < 3 {
		one := kmsg.NewLeaveGroupRequestMember()
		one.MemberID = req.MemberID
		members = []kmsg.LeaveGroupRequestMember{one}
	}
	g := s.groups[req.Group]
	if g != nil && g.consumer != nil {
		s.leaveConsumers(now, g, members, func(codes []protocol.ErrorCode) {
			for i, x := range members {
				row := kmsg.NewLeaveGroupResponseMember()
				row.MemberID, row.InstanceID, row.ErrorCode = x.MemberID, x.InstanceID, int16(codes[i])
				resp.Members = append(resp.Members, row)
			}
			if req.Version < 3 {
				resp.ErrorCode, resp.Members = resp.Members[0].ErrorCode, nil
			}
			s.reply(token, resp)
		})
		return s.effects(now)
	}
	left := false
	for _, x := range members {
		row := kmsg.NewLeaveGroupResponseMember()
		row.MemberID, row.InstanceID = x.MemberID, x.InstanceID
		code := protocol.UnknownMemberID
		if g != nil {
			code = s.leave(g, x)
		}
		row.ErrorCode = int16(code)
		left = left || code == protocol.None
		resp.Members = append(resp.Members, row)
	}
	switch {
	case req.Group == "":
		resp.ErrorCode, resp.Members = int16(protocol.InvalidGroupID), nil
	case req.Version < 3:
		resp.ErrorCode, resp.Members = resp.Members[0].ErrorCode, nil
	}
	if left {
		if g.state == Empty {
			s.forget(g)
		} else {
			s.changed(now, g)
			s.arm(g)
		}
	}
	if len(s.records) > 0 { // it is answered behind what it has changed, or would have
		answer := func() { s.reply(token, resp) }
		s.then, s.refused = append(s.then, answer), append(s.refused, func(protocol.ErrorCode) { answer() })
		return s.effects(now)
	}
	s.reply(token, resp)
	return s.effects(now)
}

func (s *Shard) leave(g *Group, x kmsg.LeaveGroupRequestMember) protocol.ErrorCode {
	id := x.MemberID
	if id == "" && x.InstanceID != nil {
		known, ok := g.static[*x.InstanceID]
		if !ok {
			return protocol.UnknownMemberID
		}
		id = known
	}
	if _, ok := g.pending[id]; ok && x.InstanceID == nil {
		delete(g.pending, id)
		return protocol.None
	}
	m, code := g.find(id, x.InstanceID)
	if code != protocol.None {
		return code
	}
	if w := m.join; w != nil { // it has no id any more
		m.join = nil
		s.joinFailed(w, "", protocol.UnknownMemberID)
	}
	s.endSync(m, protocol.UnknownMemberID)
	g.remove(m)
	return protocol.None
}

// expireOne does what the deadlines of a group are for that are over.
func (s *Shard) expireOne(g *Group, now time.Time) {
	over := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	gone := false
	for id, t := range g.pending {
		if over(t) {
			delete(g.pending, id)
			gone = true
		}
	}
	g.each(func(m *member) {
		if !m.busy() && over(m.deadline) {
			g.remove(m)
			gone = true
		}
	})
	if over(g.syncUntil) { // who has not asked by now does not know of the generation
		g.syncUntil = time.Time{}
		for id := range g.unsynced {
			if m := g.members[id]; m != nil && m.sync == nil {
				g.remove(m)
				gone = true
			}
		}
		clear(g.unsynced)
	}
	switch {
	case over(g.joinUntil) && g.initial && g.came && g.joinLeft > 0:
		more := min(s.cfg.InitialRebalanceDelay, g.joinLeft)
		g.came, g.joinUntil, g.joinLeft = false, now.Add(more), g.joinLeft-more
	case over(g.joinUntil):
		s.complete(now, g)
	case gone && g.state != Empty:
		s.changed(now, g)
	}
	s.forget(g)
}

// Unload answers all requests that wait: this is not their coordinator any more.
func (s *Shard) Unload(now time.Time) Effects {
	s.records, s.then, s.refused = nil, nil, nil
	for _, id := range s.ids() {
		s.groups[id].each(func(m *member) {
			s.endJoin(m, protocol.NotCoordinator)
			s.endSync(m, protocol.NotCoordinator)
		})
	}
	return s.effects(now)
}
