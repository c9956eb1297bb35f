package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MinFrame is the size of the smallest request header: key, version,
// correlation id and a null client id.
const MinFrame = 10

// maxTags bounds one tag section, as in Apache Kafka 4.4.
const maxTags = 10_000

var errTruncated = errors.New("the request ends in the middle of a field")

// Header is the request header, version 1 or 2.
type Header struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
}

// peekKey reads the key of a frame of at least two bytes.
func peekKey(frame []byte) int16 { return int16(binary.BigEndian.Uint16(frame)) }

// parseHeader reads the header and returns the body behind it. The tag section
// of a flexible header stands even behind a null client id.
func parseHeader(frame []byte, flexible func(key, version int16) bool) (Header, []byte, error) {
	w := walker{src: frame}
	h := Header{Key: w.int16(), Version: w.int16(), CorrelationID: w.int32()}
	// The client id has a two-byte length in every header version.
	if n := w.int16(); n > 0 {
		h.ClientID = string(w.take(int(n)))
	}
	if flexible(h.Key, h.Version) {
		w.tags(nil, 0)
	}
	if w.err != nil {
		return h, nil, fmt.Errorf("request header: %w", w.err)
	}
	return h, w.src, nil
}

// AppendResponseHeader appends the header of an answer to (key, version): the
// correlation id, and an empty tag section behind it where the answer is
// flexible. ApiVersions is never given one, so that a client can read the
// answer before it knows what the broker speaks.
func AppendResponseHeader(dst []byte, key, version int16, correlationID int32) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlationID))
	if key != KeyApiVersions && isFlexible(key, version) {
		dst = append(dst, 0)
	}
	return dst
}
