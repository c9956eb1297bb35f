package fetch

import (
	"encoding/binary"

	"github.com/streambus/streambus/protocol"
)

// Encode writes an answer around its rows' records, which are not copied. kmsg
// would copy them, and compare every partition's tags by reflection. Partitions
// of a topic that stand together come as one topic.
//
// Versions 4 to 18. Of the tagged fields the snapshot id is never written: it is
// of Kafka's own metadata log.
func Encode(version int16, isolation int8, a Answer, code func(error) protocol.ErrorCode) *protocol.Response {
	e := encoder{version: version, flexible: version >= 12}
	e.int32(0) // throttle_time_ms
	if e.version >= 7 {
		e.int16(int16(code(a.Err)))
		e.int32(a.Session)
	}
	topics := 0
	for i := range a.Names {
		if i == 0 || !sameTopic(a.Names[i], a.Names[i-1]) {
			topics++
		}
	}
	e.length(topics)
	for from := 0; from < len(a.Names); {
		to := from + 1
		for to < len(a.Names) && sameTopic(a.Names[to], a.Names[from]) {
			to++
		}
		if e.version >= 13 {
			e.head = append(e.head, a.Names[from].ID[:]...)
		} else {
			e.string(a.Names[from].Topic)
		}
		e.length(to - from)
		for ; from < to; from++ {
			e.partition(a.Names[from].Index, &a.Rows[from], isolation, code(a.Rows[from].Err))
		}
		e.tags()
	}
	e.nodes(a.Nodes)
	return e.response()
}

// nodes are the brokers that rows point to, and the end of the answer.
func (e *encoder) nodes(nodes []Node) {
	if e.version < 16 || len(nodes) == 0 {
		e.tags()
		return
	}
	f := encoder{version: e.version, flexible: true}
	f.length(len(nodes))
	for _, n := range nodes {
		f.int32(n.ID)
		f.string(n.Host)
		f.int32(n.Port)
		if n.Rack == "" {
			f.null()
		} else {
			f.string(n.Rack)
		}
		f.tags()
	}
	e.head = append(e.head, 1, 0) // one tagged field: 0
	e.head = binary.AppendUvarint(e.head, uint64(len(f.head)))
	e.head = append(e.head, f.head...)
}

func sameTopic(a, b Name) bool { return a.Topic == b.Topic && a.ID == b.ID }

// encoder builds the answer's own bytes in one buffer and remembers where
// records go between them.
type encoder struct {
	version  int16
	flexible bool
	head     []byte
	cuts     []cut
}

type cut struct {
	at   int // offset in head behind which records stand
	part protocol.Part
}

func (e *encoder) partition(index int32, row *Row, isolation int8, code protocol.ErrorCode) {
	e.int32(index)
	e.int16(int16(code))
	e.int64(row.HighWatermark)
	e.int64(row.HighWatermark) // last_stable_offset: without transactions the same
	if e.version >= 5 {
		e.int64(row.LogStart)
	}
	if isolation == 0 && row.Replica != nil {
		e.null() // aborted_transactions: null tells that nothing is filtered
	} else {
		e.length(0)
	}
	if e.version >= 11 {
		preferred := int32(-1)
		if row.Elsewhere {
			preferred = row.Preferred
		}
		e.int32(preferred)
	}
	size := row.Records.Len()
	if e.flexible {
		e.head = binary.AppendUvarint(e.head, uint64(size)+1)
	} else {
		e.int32(int32(size))
	}
	if size > 0 {
		e.cuts = append(e.cuts, cut{len(e.head), row.Records})
	}
	switch {
	case row.Diverging.Found && e.version >= 12:
		e.head = append(e.head, 1, 0, 13) // one tagged field: 0, of 13 bytes
		e.int32(row.Diverging.Epoch)
		e.int64(row.Diverging.End)
	case row.PointsToLeader && e.version >= 16: // there is no divergence beside an error
		e.head = append(e.head, 1, 1, 9)
		e.int32(row.Leader.ID)
		e.int32(row.Leader.Epoch)
	}
	e.tags()
}

func (e *encoder) response() *protocol.Response {
	if len(e.cuts) == 0 {
		return &protocol.Response{Head: e.head}
	}
	r := &protocol.Response{Head: e.head[:e.cuts[0].at]}
	for i, c := range e.cuts {
		end := len(e.head)
		if i+1 < len(e.cuts) {
			end = e.cuts[i+1].at
		}
		r.Parts = append(r.Parts, c.part, protocol.Bytes(e.head[c.at:end]))
	}
	return r
}

func (e *encoder) int16(v int16) { e.head = binary.BigEndian.AppendUint16(e.head, uint16(v)) }
func (e *encoder) int32(v int32) { e.head = binary.BigEndian.AppendUint32(e.head, uint32(v)) }
func (e *encoder) int64(v int64) { e.head = binary.BigEndian.AppendUint64(e.head, uint64(v)) }

// length starts an array.
func (e *encoder) length(n int) {
	if e.flexible {
		e.head = binary.AppendUvarint(e.head, uint64(n)+1)
	} else {
		e.int32(int32(n))
	}
}

// null is an array that is not there.
func (e *encoder) null() {
	if e.flexible {
		e.head = append(e.head, 0)
	} else {
		e.int32(-1)
	}
}

func (e *encoder) string(s string) {
	if e.flexible {
		e.head = binary.AppendUvarint(e.head, uint64(len(s))+1)
	} else {
		e.int16(int16(len(s)))
	}
	e.head = append(e.head, s...)
}

func (e *encoder) tags() {
	if e.flexible {
		e.head = append(e.head, 0)
	}
}
