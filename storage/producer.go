package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// rememberedBatches is how many of a producer's batches are known again when
// they are repeated. Clients keep at most as many under way.
const rememberedBatches = 5

// noTransaction stands for the first offset of an open transaction.
const noTransaction = -1

// producers are the idempotent producers of a log, by id.
type producers map[int64]*producer

type producer struct {
	epoch            int16
	coordinatorEpoch int32
	transaction      int64        // first offset of the open one, or noTransaction
	batches          []remembered // of this epoch, oldest first
}

type remembered struct {
	first, last int32 // sequence numbers
	lastOffset  int64
	// written is when the broker wrote it, in ms. Not the batch's own timestamp:
	// that is the client's, may be years old, and would have a producer of old
	// data forgotten while it is at work.
	written int64
}

func (b remembered) baseOffset() int64 { return b.lastOffset - int64(b.delta()) }
func (b remembered) delta() int32      { return batch.AddSequence(b.last, -b.first) }

func (p *producer) latest() remembered { return p.batches[len(p.batches)-1] }

// check decides whether a batch may be appended, or gives the batch it repeats.
func (ps producers) check(h batch.Header) (*remembered, error) {
	p := ps[h.ProducerID]
	switch {
	case p == nil: // new, or forgotten: nothing to compare with
		return nil, nil
	case h.ProducerEpoch < p.epoch:
		return nil, &InvalidProducerEpochError{h.ProducerID, h.ProducerEpoch, p.epoch}
	case h.ProducerEpoch > p.epoch:
		return nil, inOrder(h, 0)
	}
	for i := range p.batches {
		if b := &p.batches[i]; b.first == h.BaseSequence && b.last == h.LastSequence() {
			return b, nil
		}
	}
	return nil, inOrder(h, batch.AddSequence(p.latest().last, 1))
}

func inOrder(h batch.Header, expected int32) error {
	if h.BaseSequence == expected {
		return nil
	}
	return &OutOfOrderSequenceError{h.ProducerID, h.ProducerEpoch, h.BaseSequence, expected}
}

// appended takes note of a batch in the log. A control batch has a producer and
// no sequence number: it neither follows nor precedes anything.
func (ps *producers) appended(h batch.Header, now time.Time) {
	if !h.HasProducer() || h.BaseSequence < 0 {
		return
	}
	ps.remember(h.ProducerID, h.ProducerEpoch, -1, noTransaction, remembered{
		first: h.BaseSequence, last: h.LastSequence(), lastOffset: h.LastOffset(), written: now.UnixMilli(),
	})
}

func (ps *producers) remember(id int64, epoch int16, coordinatorEpoch int32, transaction int64, b remembered) {
	if *ps == nil {
		*ps = make(producers)
	}
	p := (*ps)[id]
	if p == nil || p.epoch != epoch {
		p = &producer{epoch: epoch}
		(*ps)[id] = p
	}
	p.coordinatorEpoch, p.transaction = coordinatorEpoch, transaction
	if len(p.batches) == rememberedBatches {
		p.batches = append(p.batches[:0], p.batches[1:]...)
	}
	p.batches = append(p.batches, b)
}

// expire forgets producers that have not written for the given time; 0 keeps them.
func (ps producers) expire(now time.Time, after time.Duration) {
	if after <= 0 {
		return
	}
	maps.DeleteFunc(ps, func(_ int64, p *producer) bool {
		return p.transaction == noTransaction && now.UnixMilli()-p.latest().written >= after.Milliseconds()
	})
}

// ProducerState is what a log knows of an idempotent producer.
type ProducerState struct {
	ProducerID       int64
	Epoch            int16
	LastSequence     int32
	LastWritten      time.Time // by the broker's clock
	CoordinatorEpoch int32
	Transaction      int64 // first offset of the open one, or -1
}

// Producers lists the producers that are not forgotten yet, by id. It waits for
// an append under way.
func (l *Log) Producers(now time.Time) []ProducerState {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	l.producers.expire(now, l.config().ProducerExpiration)
	states := make([]ProducerState, 0, len(l.producers))
	for _, id := range slices.Sorted(maps.Keys(l.producers)) {
		p := l.producers[id]
		latest := p.latest()
		states = append(states, ProducerState{id, p.epoch, latest.last, time.UnixMilli(latest.written), p.coordinatorEpoch, p.transaction})
	}
	return states
}

const (
	snapshotVersion    = 1
	snapshotHeader     = 2 + 4 // version, CRC of what follows
	snapshotEntryBytes = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8
)

// encode writes one entry for each remembered batch, oldest first. Kafka writes
// a producer's latest batch only; as its loader lets the last entry of a
// producer win, it reads this too, and we know all five again.
func (ps producers) encode() []byte {
	be := binary.BigEndian
	b := make([]byte, snapshotHeader+4, snapshotHeader+4+snapshotEntryBytes*len(ps))
	count := uint32(0)
	for _, id := range slices.Sorted(maps.Keys(ps)) {
		p := ps[id]
		for _, r := range p.batches {
			b = be.AppendUint64(b, uint64(id))
			b = be.AppendUint16(b, uint16(p.epoch))
			b = be.AppendUint32(b, uint32(r.last))
			b = be.AppendUint64(b, uint64(r.lastOffset))
			b = be.AppendUint32(b, uint32(r.delta()))
			b = be.AppendUint64(b, uint64(r.written))
			b = be.AppendUint32(b, uint32(p.coordinatorEpoch))
			b = be.AppendUint64(b, uint64(p.transaction))
			count++
		}
	}
	be.PutUint16(b, snapshotVersion)
	be.PutUint32(b[snapshotHeader:], count)
	be.PutUint32(b[2:], crc32.Checksum(b[snapshotHeader:], castagnoli))
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func decodeProducers(b []byte) (producers, error) {
	be := binary.BigEndian
	if len(b) < snapshotHeader+4 || be.Uint16(b) != snapshotVersion {
		return nil, &contentError{0, fmt.Sprintf("it is no producer snapshot of version %d", snapshotVersion)}
	}
	if got, want := crc32.Checksum(b[snapshotHeader:], castagnoli), be.Uint32(b[2:]); got != want {
		return nil, &contentError{2, fmt.Sprintf("CRC says %08x, content has %08x", want, got)}
	}
	count := int64(be.Uint32(b[snapshotHeader:]))
	b = b[snapshotHeader+4:]
	if int64(len(b)) != count*snapshotEntryBytes {
		return nil, &contentError{snapshotHeader, fmt.Sprintf("%d entries in %d bytes", count, len(b))}
	}
	var ps producers
	for ; len(b) > 0; b = b[snapshotEntryBytes:] {
		last, delta := int32(be.Uint32(b[10:])), int32(be.Uint32(b[22:]))
		ps.remember(int64(be.Uint64(b)), int16(be.Uint16(b[8:])), int32(be.Uint32(b[34:])), int64(be.Uint64(b[38:])), remembered{
			first:      batch.AddSequence(last, -delta),
			last:       last,
			lastOffset: int64(be.Uint64(b[14:])),
			written:    int64(be.Uint64(b[26:])),
		})
	}
	return ps, nil
}
