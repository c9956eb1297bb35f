package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A frame of messages is
//
//	format (1 byte), cluster id (length, bytes), from (8 bytes), to (8 bytes), messages (length, bytes each),
//	CRC-32C of all before it (4 bytes)
//
// with lengths as varints and numbers in big-endian order.
const format = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encodeFrame(cluster string, from, to uint64, messages [][]byte) []byte {
	size := 1 + binary.MaxVarintLen64 + len(cluster) + 16 + 4
	for _, m := range messages {
		size += binary.MaxVarintLen64 + len(m)
	}
	f := append(make([]byte, 0, size), format)
	f = append(binary.AppendUvarint(f, uint64(len(cluster))), cluster...)
	f = binary.BigEndian.AppendUint64(f, from)
	f = binary.BigEndian.AppendUint64(f, to)
	for _, m := range messages {
		f = append(binary.AppendUvarint(f, uint64(len(m))), m...)
	}
	return binary.BigEndian.AppendUint32(f, crc32.Checksum(f, castagnoli))
}

var errDamaged = errors.New("a frame of raft messages is damaged")

// Receiver takes what other nodes' transports send to this one. Its methods may be called from any goroutine.
type Receiver struct {
	self    uint64
	cluster string
	pieces  pieces
}

// NewReceiver makes the receiving half of a node.
func NewReceiver(self uint64, clusterID string) *Receiver {
	return &Receiver{self: self, cluster: clusterID, pieces: pieces{by: map[uint64]*incoming{}}}
}

// Deliver returns who sent a frame, and its messages in their order; they alias it. After an error nothing that the connection
// sends can be trusted: the caller closes it.
func (r *Receiver) Deliver(frame []byte) (from uint64, messages [][]byte, err error) {
	if len(frame) < 5 {
		return 0, nil, errDamaged
	}
	if frame[0] != format {
		return 0, nil, fmt.Errorf("a frame of raft messages has format %d, and this node reads format %d: run the same version on all nodes", frame[0], format)
	}
	body, sum := frame[:len(frame)-4], binary.BigEndian.Uint32(frame[len(frame)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return 0, nil, errDamaged
	}
	cluster, rest, ok := cutBytes(body[1:])
	if !ok || len(rest) < 16 {
		return 0, nil, errDamaged
	}
	from = binary.BigEndian.Uint64(rest)
	if err := r.meant(string(cluster), from, binary.BigEndian.Uint64(rest[8:])); err != nil {
		return from, nil, err
	}
	for rest = rest[16:]; len(rest) > 0; {
		var m []byte
		if m, rest, ok = cutBytes(rest); !ok {
			return from, nil, errDamaged
		}
		messages = append(messages, m)
	}
	return from, messages, nil
}

// meant says whether what was sent is for this node of this cluster.
func (r *Receiver) meant(cluster string, from, to uint64) error {
	switch {
	case cluster != r.cluster:
		return fmt.Errorf("raft node %x of cluster %q speaks to raft node %x of cluster %q: check the addresses in controller.quorum.voters", from, cluster, r.self, r.cluster)
	case to != r.self:
		return fmt.Errorf("raft node %x speaks to raft node %x, and this is raft node %x", from, to, r.self)
	case from == r.self:
		return fmt.Errorf("another node says that it is raft node %x, which is this one", from)
	}
	return nil
}

// cutBytes cuts bytes with their length in front off b.
func cutBytes(b []byte) (first, rest []byte, ok bool) {
	n, width := binary.Uvarint(b)
	if width <= 0 || n > uint64(len(b)-width) {
		return nil, nil, false
	}
	b = b[width:]
	return b[:n:n], b[n:], true
}
