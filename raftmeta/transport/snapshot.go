package transport

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

const (
	pieceSize   = 1 << 20
	maxSnapshot = 256 << 20
	maxMeta     = 1 << 20
	maxSenders  = 16
)

// piece is the header of a piece of a snapshot. A first piece without data asks how far the receiver is.
type piece struct {
	Format  int    `json:"format"`
	Cluster string `json:"cluster"`
	From    uint64 `json:"from,string"`
	To      uint64 `json:"to,string"`
	ID      uint64 `json:"id,string"` // of the SendSnapshot: pieces of another are of another snapshot
	Size    int64  `json:"size"`
	Offset  int64  `json:"offset"`
	Sum     []byte `json:"sum"` // SHA-256 of the whole
	Meta    []byte `json:"meta"`
}

type ack struct {
	Next int64 `json:"next"` // the offset that is wanted next; the size when all is there
}

// Ack is the answer to a piece after which Chunk wants next.
func Ack(next int64) []byte {
	b, err := json.Marshal(ack{next})
	if err != nil {
		panic("transport: a number has no JSON: " + err.Error())
	}
	return b
}

// SendSnapshot sends a snapshot to a peer, which meta describes. data is called on another goroutine. SnapshotDone is
// called when the peer has it all, or will not: at once if there is no such peer, or if one is on its way to it already.
func (t *Transport) SendSnapshot(to uint64, meta []byte, data func() ([]byte, error)) {
	t.mu.Lock()
	p := t.peers[to]
	begun := p != nil && t.ctx.Err() == nil && p.beginSnapshot()
	if begun {
		t.running.Go(func() { p.sendSnapshot(meta, data) })
	}
	t.mu.Unlock()
	if !begun {
		t.snapshotDone(to, false)
	}
}

func (t *Transport) snapshotDone(to uint64, ok bool) {
	outcome := "failed"
	if ok {
		outcome = "sent"
	}
	t.metrics.snapshots.WithLabelValues(outcome).Inc()
	t.cfg.SnapshotDone(to, ok)
}

func (p *peer) beginSnapshot() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.snapshot {
		return false
	}
	p.snapshot = true
	return true
}

func (p *peer) sendSnapshot(meta []byte, data func() ([]byte, error)) {
	ctx, cancel := context.WithTimeout(p.ctx, p.t.cfg.SnapshotTimeout)
	defer cancel()
	err := p.trySnapshot(ctx, meta, data)
	p.mu.Lock()
	p.snapshot = false
	p.mu.Unlock()
	if err != nil {
		p.log.Warn("a snapshot could not be sent", "error", err)
	}
	p.t.snapshotDone(p.RaftID, err == nil)
}

// trySnapshot connects again, and goes on where the receiver is, until ctx ends.
func (p *peer) trySnapshot(ctx context.Context, meta []byte, data func() ([]byte, error)) error {
	whole, err := data()
	if err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	if len(whole) > maxSnapshot || len(meta) > maxMeta {
		return fmt.Errorf("it has %d bytes and %d of description; at most %d and %d are sent", len(whole), len(meta), maxSnapshot, maxMeta)
	}
	sum := sha256.Sum256(whole)
	h := piece{
		Format: format, Cluster: p.t.cfg.ClusterID, From: p.t.cfg.Self, To: p.RaftID,
		ID: rand.Uint64(), Size: int64(len(whole)), Sum: sum[:], Meta: meta,
	}
	var b backoff
	for {
		moved, err := p.sendPieces(ctx, h, whole)
		if err == nil {
			return nil
		}
		if moved {
			b = backoff{}
		}
		if !b.pause(ctx) {
			return fmt.Errorf("%w; the last attempt: %w", context.Cause(ctx), err)
		}
	}
}

// sendPieces sends on one connection what the receiver lacks. moved is true if it has got any of it.
func (p *peer) sendPieces(ctx context.Context, h piece, whole []byte) (moved bool, err error) {
	dial, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	s, err := p.t.cfg.Dial(dial, p.Peer)
	if err != nil {
		return false, err
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	var data []byte // none in the first piece
	for {
		next, err := p.sendPiece(ctx, s, h, data)
		switch {
		case err != nil:
			return moved, err
		case next == h.Size:
			return true, nil
		case next < 0 || next > h.Size || len(data) > 0 && next <= h.Offset:
			return moved, fmt.Errorf("after %d bytes at %d of %d it asks for %d", len(data), h.Offset, h.Size, next)
		}
		moved = moved || len(data) > 0
		h.Offset, h.Meta = next, nil // the first piece has told it
		data = whole[next:min(next+pieceSize, h.Size)]
	}
}

func (p *peer) sendPiece(ctx context.Context, s Stream, h piece, data []byte) (next int64, err error) {
	header, err := json.Marshal(h)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	defer context.AfterFunc(ctx, s.Close)()
	answer, err := s.Call(ctx, header, data)
	if err != nil {
		return 0, err
	}
	var a ack
	if err := json.Unmarshal(answer, &a); err != nil {
		return 0, fmt.Errorf("its answer to a piece of a snapshot: %w", err)
	}
	return a.Next, nil
}

// Snapshot is one that has arrived whole.
type Snapshot struct {
	From       uint64
	Meta, Data []byte
}

// pieces are the snapshots that arrive, one of each sender. Together they hold at most maxSnapshot bytes: where more
// would be needed, those of other senders make room, since the newest leader's is the one that counts.
type pieces struct {
	mu sync.Mutex // guards the following
	by map[uint64]*incoming
}

type incoming struct {
	piece
	data []byte
	done bool // it was handed out; data is nil
}

// Chunk takes a piece of a snapshot. The caller answers with Ack(next); whole is the snapshot when this piece completed
// it, once. An error is answered by closing the connection: the sender connects again and goes on where it was, unless
// the whole was damaged, which begins anew.
func (r *Receiver) Chunk(header, data []byte) (next int64, whole *Snapshot, err error) {
	var h piece
	if err := json.Unmarshal(header, &h); err != nil {
		return 0, nil, fmt.Errorf("the header of a piece of a snapshot: %w", err)
	}
	if h.Format != format {
		return 0, nil, fmt.Errorf("a piece of a snapshot has format %d, and this node reads format %d: run the same version on all nodes", h.Format, format)
	}
	if err := r.meant(h.Cluster, h.From, h.To); err != nil {
		return 0, nil, err
	}
	if h.Size < 0 || h.Size > maxSnapshot || len(h.Meta) > maxMeta || len(data) > pieceSize {
		return 0, nil, fmt.Errorf("a snapshot of %d bytes with %d of description in pieces of %d: at most %d, %d and %d are taken",
			h.Size, len(h.Meta), len(data), maxSnapshot, maxMeta, pieceSize)
	}
	return r.pieces.take(h, data)
}

func (ps *pieces) take(h piece, data []byte) (next int64, whole *Snapshot, err error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	in := ps.by[h.From]
	if in == nil || in.ID != h.ID {
		if len(data) > 0 {
			return 0, nil, errors.New("a piece of a snapshot came before its beginning")
		}
		ps.makeRoom(h.From, 0)
		in = &incoming{piece: h}
		ps.by[h.From] = in
	}
	have := int64(len(in.data))
	switch {
	case in.done:
		return in.Size, nil, nil // the answer to its last piece was lost
	case len(data) > 0 && h.Offset != have:
		return have, nil, nil
	case have+int64(len(data)) > in.Size:
		delete(ps.by, h.From)
		return 0, nil, fmt.Errorf("a snapshot of %d bytes has more", in.Size)
	}
	ps.makeRoom(h.From, len(data))
	in.data = append(in.data, data...)
	if have = int64(len(in.data)); have < in.Size {
		return have, nil, nil
	}
	if sum := sha256.Sum256(in.data); string(sum[:]) != string(in.Sum) {
		delete(ps.by, h.From)
		return 0, nil, fmt.Errorf("a snapshot of %d bytes from raft node %x was damaged on its way", in.Size, h.From)
	}
	whole = &Snapshot{From: h.From, Meta: in.Meta, Data: in.data}
	in.done, in.data, in.Meta = true, nil, nil
	return in.Size, whole, nil
}

// makeRoom forgets the snapshots of other senders if with more bytes of this one there were too much.
func (ps *pieces) makeRoom(from uint64, more int) {
	held := more
	for _, in := range ps.by {
		held += len(in.data)
	}
	if held <= maxSnapshot && len(ps.by) < maxSenders {
		return
	}
	for other := range ps.by {
		if other != from {
			delete(ps.by, other)
		}
	}
}
