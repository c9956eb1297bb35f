package batch

import (
	"fmt"
	"hash/crc32"
)

// CorruptError says that bytes are not what was sent: sending them again may help.
type CorruptError struct{ Reason string }

func (e *CorruptError) Error() string { return "corrupt record batch: " + e.Reason }

// InvalidError says that a batch arrived as it was sent and is not allowed:
// sending it again cannot help. Record is the index of the record at fault, -1
// if it is the batch.
type InvalidError struct {
	Record int
	Reason string
}

func (e *InvalidError) Error() string {
	if e.Record < 0 {
		return "invalid record batch: " + e.Reason
	}
	return fmt.Sprintf("invalid record %d in batch: %s", e.Record, e.Reason)
}

var (
	ErrMagic   = &InvalidError{-1, "only record batches of version 2 are accepted"}
	ErrControl = &InvalidError{-1, "clients may not write control records"}
)

// Verify checks what must hold of every stored batch: b is exactly one batch of
// version 2 with a good CRC.
func Verify(b []byte) (Header, error) {
	h, err := DecodeHeader(b)
	if err != nil {
		return h, err
	}
	if h.Length != int64(len(b)) {
		return h, &CorruptError{fmt.Sprintf("says it has %d bytes, has %d", h.Length, len(b))}
	}
	if err := h.checkMagic(); err != nil {
		return h, err
	}
	if crc := crc32.Checksum(b[crcStart:], castagnoli); crc != h.CRC {
		return h, &CorruptError{fmt.Sprintf("CRC says %08x, content has %08x", h.CRC, crc)}
	}
	return h, nil
}

// Frame checks that a client has sent one batch and nothing else. Whatever else
// is wrong with it, it arrived as it was sent.
func Frame(b []byte) (Header, error) {
	h, err := DecodeHeader(b)
	if err == nil && h.Length != int64(len(b)) {
		err = fmt.Errorf("the batch says it has %d bytes, %d were sent", h.Length, len(b))
	}
	if err != nil {
		return h, &InvalidError{-1, err.Error()}
	}
	return h, h.checkMagic()
}

func (h Header) checkMagic() error {
	switch h.Magic {
	case magic:
		return nil
	case 0, 1:
		return ErrMagic
	default:
		return &CorruptError{fmt.Sprintf("version %d is none that there ever was", h.Magic)}
	}
}

// check is what a header from a client must be like.
func (h Header) check() error {
	switch {
	case h.BaseOffset != 0:
		return &InvalidError{-1, fmt.Sprintf("base offset %d: offsets are the broker's to give", h.BaseOffset)}
	case h.Count <= 0 || h.Count-1 != h.LastOffsetDelta:
		return &InvalidError{-1, fmt.Sprintf("%d records with a last offset delta of %d", h.Count, h.LastOffsetDelta)}
	case h.Codec() > Zstd:
		return &InvalidError{-1, fmt.Sprintf("unknown compression codec %d", h.Codec())}
	case h.IsControl():
		return ErrControl
	case h.HasProducer() && h.BaseSequence < 0:
		return &InvalidError{-1, fmt.Sprintf("producer %d without a sequence number", h.ProducerID)}
	case h.HasProducer() && h.ProducerEpoch < 0:
		return &InvalidError{-1, fmt.Sprintf("producer %d without an epoch", h.ProducerID)}
	}
	return nil
}

// check is what record i from a client must be like.
func (r Record) check(i int32) error {
	if r.OffsetDelta != i {
		return &InvalidError{int(i), fmt.Sprintf("its offset delta is %d", r.OffsetDelta)}
	}
	return nil
}
