package fetch

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// Encode writes the answer to req around the rows' records, which are not
// copied. kmsg would copy them, and compare every partition's tags by
// reflection. rows stand in the order of the request's partitions.
//
// Versions 4 to 18. Of the tagged fields only the ones with a value would be
// written, and there are none: no diverging epoch, no leader to point to.
func Encode(req *kmsg.FetchRequest, rows []Row, code func(error) protocol.ErrorCode) *protocol.Response {
	e := encoder{version: req.Version, flexible: req.Version >= 12}
	e.int32(0) // throttle_time_ms
	if e.version >= 7 {
		e.int16(0) // error_code
		e.int32(0) // session_id: no session
	}
	e.length(len(req.Topics))
	for i := range req.Topics {
		t := &req.Topics[i]
		if e.version >= 13 {
			e.head = append(e.head, t.TopicID[:]...)
		} else {
			e.string(t.Topic)
		}
		e.length(len(t.Partitions))
		for j := range t.Partitions {
			e.partition(t.Partitions[j].Partition, &rows[0], req.IsolationLevel, code(rows[0].Err))
			rows = rows[1:]
		}
		e.tags()
	}
	e.tags()
	return e.response()
}

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
	if isolation == 0 {
		e.null() // aborted_transactions: null tells that nothing is filtered
	} else {
		e.length(0)
	}
	if e.version >= 11 {
		e.int32(-1) // preferred_read_replica
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
