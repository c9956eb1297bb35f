package protocol

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// FrameLimit is the largest frame that may announce itself with these first
// bytes (at least two of them) on a listener of this side, which takes no
// request above maxRequestBytes.
func FrameLimit(start []byte, side Side, maxRequestBytes int32) int32 {
	if a, ok := lookup(peekKey(start)); ok && a.bulk && a.on.has(side) {
		return maxRequestBytes
	}
	return min(smallFrame, maxRequestBytes)
}

// UnsupportedError is a request of an API or a version that is not served on
// this side. As in Apache Kafka it ends the connection: there is no answer that
// the client could be sure to read.
type UnsupportedError struct {
	Key, Version int16
	Side         Side
}

func (e *UnsupportedError) Error() string {
	name := Name(e.Key)
	if a, ok := lookup(e.Key); ok && !a.on.has(e.Side) {
		return fmt.Sprintf("%s is served on %s listeners only, and this is a %s listener", name, 1-e.Side, e.Side)
	} else if ok {
		return fmt.Sprintf("%s version %d is not served (versions %d to %d are)", name, e.Version, a.Min, a.Max)
	}
	return fmt.Sprintf("API key %d (%s) is not served", e.Key, name)
}

// MalformedError is a request whose bytes do not have the form of its API.
type MalformedError struct {
	Key, Version int16
	ClientID     string
	Err          error
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("malformed %s version %d from client id %q: %v", Name(e.Key), e.Version, e.ClientID, e.Err)
}

func (e *MalformedError) Unwrap() error { return e.Err }

// Decode reads one frame (without its length). The correlation id goes back
// with the answer. Errors are *UnsupportedError or *MalformedError; either
// ends the connection.
func Decode(frame []byte, conn *ConnInfo) (r *Request, correlationID int32, err error) {
	h, body, err := parseHeader(frame, isFlexible)
	if err != nil {
		return nil, 0, &MalformedError{h.Key, h.Version, h.ClientID, err}
	}
	r = &Request{Key: h.Key, Version: h.Version, ClientID: h.ClientID, Conn: conn}
	a, ok := lookup(h.Key)
	switch {
	case !ok || !a.on.has(conn.Side):
		return nil, 0, &UnsupportedError{h.Key, h.Version, conn.Side}
	case a.serves(h.Version):
	case h.Key == KeyApiVersions:
		return r, h.CorrelationID, nil
	default:
		return nil, 0, &UnsupportedError{h.Key, h.Version, conn.Side}
	}
	if err := a.shape.Check(body, h.Version, h.Version >= a.flexible); err != nil {
		return nil, 0, &MalformedError{h.Key, h.Version, h.ClientID, err}
	}
	r.Body = requestFor(h.Key)
	r.Body.SetVersion(h.Version)
	if err := r.Body.ReadFrom(body); err != nil {
		return nil, 0, &MalformedError{h.Key, h.Version, h.ClientID, err}
	}
	return r, h.CorrelationID, nil
}

// serves tells whether a request of this version is decoded. Versions that are
// advertised but not served (Produce 0 to 2) are: their handler refuses them
// with an answer.
func (a *API) serves(version int16) bool {
	return version >= min(a.Min, a.Advertised) && version <= a.Max
}

// AppendFrame appends a whole answer, length and header included.
func AppendFrame(dst []byte, body kmsg.Response, key, version int16, correlationID int32) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = AppendResponseHeader(dst, key, version, correlationID)
	dst = body.AppendTo(dst)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}
