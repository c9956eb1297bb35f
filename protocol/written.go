package protocol

import (
	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What a consumer lags behind in time is asked for beside its end: a partition of
// ListOffsets names offsets in a tagged field of our own, far above Kafka's numbers,
// and its answer has when their records were written, in ms, in the same order. A
// broker of another kind passes over the field.
const writtenTag = 20001

// PutWritten adds offsets to a partition's tags, or times to those of its answer.
func PutWritten(tags *kmsg.Tags, values []int64) {
	b := make([]byte, 0, 8*len(values))
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	tags.Set(writtenTag, b)
}

// ReadWritten finds what PutWritten added, nil if there is nothing.
func ReadWritten(tags *kmsg.Tags) (values []int64) {
	if tags.Len() == 0 {
		return nil
	}
	tags.Each(func(tag uint32, b []byte) {
		if tag != writtenTag {
			return
		}
		values = make([]int64, 0, len(b)/8)
		for ; len(b) >= 8; b = b[8:] {
			values = append(values, int64(binary.BigEndian.Uint64(b)))
		}
	})
	return values
}
