package storage

import "github.com/streambus/streambus/storage/batch"

// Written is the timestamp of the batch that holds an offset, or of the first one
// behind a gap, if it is below another offset, which is the high watermark; ok is
// false if there is none, or it has no timestamp. Records of one batch are not told
// apart: it is the batch's first timestamp, or when it was appended. What is read are
// headers, within one interval of the offset index.
func (l *Log) Written(offset, below int64) (timestamp int64, ok bool, err error) {
	r, err := l.Read(offset, below, 0, true)
	if err != nil || r.Len() == 0 {
		return noTimestamp, false, err
	}
	r.n = batch.HeaderSize
	b, err := r.Bytes()
	if err != nil {
		return noTimestamp, false, err
	}
	h, err := batch.DecodeHeader(b)
	timestamp = h.BaseTimestamp
	if h.IsLogAppendTime() {
		timestamp = h.MaxTimestamp
	}
	return timestamp, err == nil && timestamp != noTimestamp, err
}
