package quorum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// Proposal is a request that waits. The token comes back with its answer.
type Proposal struct {
	Token   any
	Request control.Request

	since time.Time // when Propose met it first
}

// Answer is the outcome of a command. Index is what a reader must have applied to see it.
type Answer struct {
	Token   any
	Index   uint64
	Reply   any
	Err     error // nil, a *control.Refusal, ErrNotLeader or ErrUnknown
	Awaited bool  // the change is to be seen by every broker before anybody is told
}

// Decided tells whether the answer says what became of the command.
func (a *Answer) Decided() bool {
	_, refused := errors.AsType[*control.Refusal](a.Err)
	return a.Err == nil || refused
}

type flight struct {
	id      image.UUID
	answers []Answer
	since   time.Time // of the command in it that waits longest
}

// Enqueue adds a request to those that wait.
func (c *Core) Enqueue(p Proposal) { c.waiting = append(c.waiting, p) }

// vouched is the token of a read behind which answers wait that rest on the image alone. A leader that was deposed and does
// not know it would otherwise refuse because of what is no more, or say that all is as was asked for when it is not.
type vouched struct {
	answers []Answer
	since   time.Time // of the command among them that waits longest
}

// Waiting counts the commands that wait for their answers.
func (c *Core) Waiting() int {
	n := len(c.waiting)
	if c.flight != nil {
		n += len(c.flight.answers)
	}
	for _, r := range c.reads {
		if held, ok := r.token.(vouched); ok {
			n += len(held.answers)
		}
	}
	return n
}

// OldestWaiting is since when the command waits that waits longest, by the clock of Propose, which is called whenever there
// are new ones. It is zero if none does.
func (c *Core) OldestWaiting() (oldest time.Time) {
	if c.flight != nil {
		oldest = c.flight.since
	} else if len(c.waiting) > 0 { // behind a flight they came later
		oldest = c.waiting[0].since
	}
	for _, r := range c.reads {
		if held, ok := r.token.(vouched); ok && (oldest.IsZero() || held.since.Before(oldest)) {
			oldest = held.since
		}
	}
	return oldest
}

// Propose evaluates what waits, if it may, and proposes the unit. Answers that need no unit come when a majority has
// confirmed that this node led when they were given; those of a node that does not lead, or is alone, at once. Brokers
// report what they have applied at once where it is awaited, else when their next heartbeat is due. So an awaited answer
// behind a unit that was not gets a unit without records: it would wait for those heartbeats otherwise.
func (c *Core) Propose(now time.Time) []Answer {
	if !c.leader && !c.Alone() { // who is alone is about to lead
		return c.turnAway()
	}
	for i := len(c.waiting) - 1; i >= 0 && c.waiting[i].since.IsZero(); i-- {
		c.waiting[i].since = now
	}
	if !c.leader || c.barrier || c.flight != nil || len(c.waiting) == 0 {
		return nil
	}
	since := c.waiting[0].since
	c.units++
	unit := &image.Unit{ID: c.unitID(), Base: c.image.Index()}
	answers, encoded := c.evaluate(unit, now)
	if unit.Awaited = awaited(answers); len(unit.Records) == 0 && (c.reported || !unit.Awaited) {
		for i := range answers {
			answers[i].Index = c.image.Index()
		}
		if c.Alone() {
			return answers
		}
		if err := c.ReadIndex(vouched{answers, since}); err != nil {
			return unknown(answers)
		}
		return nil
	}
	for _, data := range cut(unit.EncodeWith(c.hash, encoded)) {
		if err := c.node.Propose(data); err != nil { // it is being handed over, or has too much that is not committed
			return undone(answers) // without its end a unit is nothing
		}
	}
	c.flight = &flight{unit.ID, answers, since}
	return nil
}

func awaited(answers []Answer) bool {
	return slices.ContainsFunc(answers, func(a Answer) bool { return a.Awaited })
}

func (c *Core) turnAway() []Answer {
	var answers []Answer
	for _, p := range c.waiting {
		answers = append(answers, Answer{Token: p.Token, Err: ErrNotLeader})
	}
	c.waiting = nil
	return answers
}

// Withdraw takes back the waiting commands that are like this, and answers them: nothing was done.
func (c *Core) Withdraw(like func(control.Command) bool) []Answer {
	var answers []Answer
	c.waiting = slices.DeleteFunc(c.waiting, func(p Proposal) bool {
		if !like(p.Request.Command) {
			return false
		}
		answers = append(answers, Answer{Token: p.Token, Err: ErrNotLeader})
		return true
	})
	return answers
}

// evaluate takes waiting commands, in order, as long as their records fit one entry. Only a command that alone is larger
// than that makes a unit of several entries. The records come back encoded as well.
func (c *Core) evaluate(unit *image.Unit, now time.Time) (answers []Answer, encoded []byte) {
	var decided []image.Record // by the last command, and not in img
	img, n := c.image, 0
	for n < len(c.waiting) && len(encoded) < maxEntry {
		if len(decided) > 0 {
			img, _ = image.Apply(img, c.image.Index()+1, decided)
		}
		a, records := decide(img, &c.waiting[n], now)
		whole := image.AppendRecords(encoded, records)
		if len(whole)-len(encoded) > maxUnit {
			a.Reply, records, whole = nil, nil, encoded
			a.Err = &control.Refusal{Code: control.PolicyViolation, Message: fmt.Sprintf("the change takes more than the %d bytes that are possible: split it", maxUnit)}
		}
		if len(encoded) > 0 && len(whole) > maxEntry {
			break // it is evaluated again, for a unit of its own
		}
		if r, ok := c.waiting[n].Request.Command.(*control.RegisterBroker); ok && registers(unit.Records, r.ID) && registers(records, r.ID) {
			break // two incarnations in one unit would share an epoch
		}
		// What changed nothing says that all is as was asked for, and a refusal what there is: every broker is to show that
		// as well.
		a.Awaited = c.waiting[n].Request.Awaited
		if len(records) > 0 {
			unit.Records = append(unit.Records, records...)
		}
		decided, encoded = records, whole
		// A refusal may rest on what an earlier command of this batch decided, so it is answered with them.
		answers = append(answers, a)
		n++
	}
	left := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[left:])
	c.waiting = c.waiting[:left]
	return answers, encoded
}

// registers tells whether a broker is registered by one of the records.
func registers(records []image.Record, id int32) bool {
	return slices.ContainsFunc(records, func(r image.Record) bool {
		b, ok := r.(*image.BrokerRecord)
		return ok && b.ID == id
	})
}

// decide evaluates one request, unless it is the repeat of one that was carried out.
func decide(img *image.Image, p *Proposal, now time.Time) (Answer, []image.Record) {
	a := Answer{Token: p.Token}
	q := &p.Request
	if repeat, err := control.Repeat(img, q); err != nil {
		a.Err = err
		return a, nil
	} else if repeat != nil {
		a.Reply, a.Err = control.DecodeReply(repeat.Reply)
		return a, nil
	}
	result, err := q.Command.Eval(img, now)
	if err != nil {
		a.Err = err
		return a, nil
	}
	a.Reply = result.Reply
	if len(result.Records) == 0 {
		return a, nil
	}
	op := &image.OperationRecord{Operation: q.Operation, Actor: q.Actor, Cause: q.Cause}
	if p, ok := result.Reply.(*control.BrokerProgress); ok && p.More {
		// Asking again goes on with it, so the step need not be remembered. Nor may that of a registration be: the node's
		// incarnation before may live, and what was answered to it would be forgotten while it is the one that counts.
		op.Seq, op.Done = 0, 0
	}
	if op.Seq != 0 {
		if op.Reply, err = control.EncodeReply(result.Reply); err != nil {
			a.Reply, a.Err = nil, err
			return a, nil
		}
	}
	return a, append([]image.Record{op}, result.Records...)
}

// unitID is unique as long as Origin is: half of it and a counter.
func (c *Core) unitID() image.UUID {
	id := c.origin
	binary.BigEndian.PutUint64(id[8:], c.units)
	return id
}

// Abandon answers what is not decided: the node stops, or does not lead. What was not proposed is surely not done.
func (c *Core) Abandon() []Answer {
	var answers []Answer
	if c.flight != nil {
		answers = unknown(c.flight.answers)
		c.flight = nil
	}
	return append(append(answers, c.turnAway()...), c.abandonReads(c.ticks+1)...)
}

func unknown(answers []Answer) []Answer { return instead(answers, ErrUnknown) }

func undone(answers []Answer) []Answer { return instead(answers, ErrNotLeader) }

func instead(answers []Answer, err error) []Answer {
	for i := range answers {
		answers[i] = Answer{Token: answers[i].Token, Err: err}
	}
	return answers
}
