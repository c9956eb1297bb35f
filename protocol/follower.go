package protocol

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// FollowerState is what a replica's Fetch says of a partition beside Kafka's
// fields. It goes as a tagged field of our own, far above Kafka's numbers.
type FollowerState struct {
	// FlushedEnd is the end of what survives power loss at the follower.
	FlushedEnd int64
	// Read says that records are wanted from the offset on that is named. Without
	// it the request only reports: what was answered to an earlier one is still on
	// its way, and sending it again would double the traffic under load.
	Read bool
}

const (
	followerTag   = 20000
	followerBytes = 9
)

// Put adds the field to a partition's tags.
func (f FollowerState) Put(tags *kmsg.Tags) {
	b := make([]byte, followerBytes)
	binary.BigEndian.PutUint64(b, uint64(f.FlushedEnd))
	if f.Read {
		b[8] = 1
	}
	tags.Set(followerTag, b)
}

// ReadFollowerState finds the field. It is false for a sender that is no node of
// this kind.
func ReadFollowerState(tags *kmsg.Tags) (f FollowerState, ok bool) {
	if tags.Len() == 0 {
		return f, false
	}
	tags.Each(func(tag uint32, b []byte) {
		if tag == followerTag && len(b) == followerBytes {
			f, ok = FollowerState{int64(binary.BigEndian.Uint64(b)), b[8] == 1}, true
		}
	})
	return f, ok
}
