package protocol

import (
	"io"
	"net/netip"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConnInfo is what is known of a connection. It is fixed when the connection
// is accepted, so handlers read it without a lock.
type ConnInfo struct {
	ID        uint64
	Side      Side   // whom that listener is for
	Listener  string // name of the listener it came in on: decides which endpoints it is told
	Principal string // Kafka's "Type:name"; "User:ANONYMOUS" without authentication
	Peer      netip.AddrPort
}

// Request is what came in.
type Request struct {
	Key, Version int16
	ClientID     string
	// Body is nil only for an ApiVersions request of a version that is not
	// served: the one request that is answered without being understood.
	Body kmsg.Request
	Conn *ConnInfo
}

// Response is what goes out: Body, or Head followed by Parts in order.
type Response struct {
	Body kmsg.Response // encoded by the server
	// Weight is about what Body takes in memory. It is asked for where the
	// answer is completed after its handler has returned; the server encodes, and
	// so counts, other answers itself when they have to wait.
	Weight int
	Head   []byte // an answer encoded by hand, without the response header
	Parts  []Part
	// Release, when set, is called once after the last byte was written or the
	// connection was lost.
	Release func()
	// Close ends the connection, after the answer if there is one.
	Close bool
}

// Part is a piece of an answer that is not copied into its head: bytes in
// memory or a region of a file.
type Part interface {
	Len() int64
	WriteTo(w io.Writer) (int64, error)
}

// Bytes is a Part in memory.
type Bytes []byte

// Len is the number of bytes.
func (b Bytes) Len() int64 { return int64(len(b)) }

// WriteTo writes all of b.
func (b Bytes) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}
