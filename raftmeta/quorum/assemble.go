package quorum

import (
	"encoding/binary"
	"fmt"

	"github.com/streambus/streambus/raftmeta/image"
)

// Entries are tagged with what part of a unit they are.
const (
	entryWhole = iota + 1
	entryBegin
	entryChunk
	entryEnd
)

// cut makes the entries of a unit.
func cut(unit []byte) [][]byte {
	if len(unit) <= maxEntry {
		return [][]byte{append([]byte{entryWhole}, unit...)}
	}
	entries := [][]byte{binary.AppendUvarint([]byte{entryBegin}, uint64(len(unit)))}
	for len(unit) > 0 {
		n := min(len(unit), maxEntry)
		entries = append(entries, append([]byte{entryChunk}, unit[:n]...))
		unit = unit[n:]
	}
	return append(entries, []byte{entryEnd})
}

// Assembler puts the units together that entries hold parts of.
type Assembler struct {
	partial []byte // of a unit whose end was not added
	inUnit  bool
	term    uint64 // of its begin
}

// Add takes the next entry of the log and returns a unit once it is whole. A unit whose leader did not finish it ends with
// the first entry of another term, which every leader begins with; within a term, with the next one's begin.
func (a *Assembler) Add(term uint64, data []byte) ([]byte, error) {
	if a.inUnit && term != a.term {
		a.partial, a.inUnit = nil, false
	}
	if len(data) == 0 {
		return nil, nil
	}
	kind, data := data[0], data[1:]
	switch kind {
	case entryWhole:
		a.partial, a.inUnit = nil, false
		return data, nil
	case entryBegin:
		a.partial, a.inUnit, a.term = nil, true, term
		return nil, nil
	case entryChunk:
		if a.inUnit {
			a.partial = append(a.partial, data...)
		}
		if len(a.partial) > maxUnit+maxEntry { // maxUnit is that of the records
			return nil, fmt.Errorf("a unit of more than %d bytes", maxUnit+maxEntry)
		}
		return nil, nil
	case entryEnd:
		unit := a.partial
		if !a.inUnit {
			unit = nil
		}
		a.partial, a.inUnit = nil, false
		return unit, nil
	default:
		return nil, &image.UnknownFormatError{What: "entry", Version: uint64(kind)}
	}
}

// InUnit tells whether the last entry was a part of a unit and not its end.
func (a *Assembler) InUnit() bool { return a.inUnit }
