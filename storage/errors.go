package storage

import (
	"errors"
	"fmt"
)

var (
	// ErrTooLarge refuses a batch that no segment can hold.
	ErrTooLarge = errors.New("batch is larger than a segment may be")
	// ErrOffsetOutOfRange refuses a read below the log's start or above its end.
	ErrOffsetOutOfRange = errors.New("offset out of range")

	// ErrKeyMemory ends a pass of compaction that cannot take up a single batch.
	ErrKeyMemory = errors.New("compaction has too little memory for keys")

	errClosed = errors.New("the data directory is closed")
)

// CorruptError says where a file does not hold what it must. The data around
// it is left as it is; restore the file, or remove the log's directory to have
// it copied from another replica.
type CorruptError struct {
	File     string
	Position int64
	Reason   string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged at position %d: %s", e.File, e.Position, e.Reason)
}

// contentError says where the content of a small file is not what it must be.
type contentError struct {
	at     int64
	reason string
}

func (e *contentError) Error() string { return fmt.Sprintf("at position %d: %s", e.at, e.reason) }

// IsDamage tells whether an error is that a file does not hold what it must, and
// not that it could not be read.
func IsDamage(err error) bool {
	_, content := errors.AsType[*contentError](err)
	_, file := errors.AsType[*CorruptError](err)
	return content || file
}

// in names the file of a contentError.
func in(name string, err error) error {
	if c, ok := errors.AsType[*contentError](err); ok {
		return &CorruptError{name, c.at, c.reason}
	}
	return err
}

// FailedError says that the file system refused. Latched means that the
// directory takes no more writes until it has been opened again: what the disk
// holds of the latest ones is unknown. Otherwise nothing has changed, and the
// same call may succeed later.
type FailedError struct {
	Dir     string
	Latched bool
	Err     error
}

func (e *FailedError) Error() string {
	if e.Latched {
		return fmt.Sprintf("data directory %s takes no writes until restart: %v", e.Dir, e.Err)
	}
	return fmt.Sprintf("data directory %s: %v", e.Dir, e.Err)
}

func (e *FailedError) Unwrap() error { return e.Err }

// OutOfOrderSequenceError refuses a batch that does not follow the last one of
// its producer.
type OutOfOrderSequenceError struct {
	ProducerID         int64
	Epoch              int16
	Sequence, Expected int32
}

func (e *OutOfOrderSequenceError) Error() string {
	return fmt.Sprintf("producer %d in epoch %d sent sequence number %d, expected %d", e.ProducerID, e.Epoch, e.Sequence, e.Expected)
}

// InvalidProducerEpochError refuses a producer that has been replaced.
type InvalidProducerEpochError struct {
	ProducerID     int64
	Epoch, Current int16
}

func (e *InvalidProducerEpochError) Error() string {
	return fmt.Sprintf("producer %d sent epoch %d, its current one is %d", e.ProducerID, e.Epoch, e.Current)
}
