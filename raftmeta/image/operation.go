package image

import (
	"cmp"
	"slices"
)

// Operation names a change that a node asks for, so that asking again does not make it twice. The zero value is nobody's
// who would ask again: the controllers decide anew from what is.
type Operation struct {
	Node        int32
	Incarnation UUID   // of the node's process
	Seq         uint64 // counts up from 1; 0 for an operation that is not repeated
	// Done says that the node has the answers of all operations below it, so that nobody asks for those again.
	Done uint64
}

// MaxResults bounds the operations of one node whose answers it may still ask for.
const MaxResults = 4096

// OperationRecord begins the records of one operation: those behind it, up to the next such record or the end of the
// unit. Its result is kept until the node has it.
type OperationRecord struct {
	Operation
	Actor string // who asked
	Cause string // for what, or because of what
	Reply []byte // nil for none
	Tags  []Tag
}

// Result is what an operation came to, in its own form.
type Result struct {
	Seq   uint64
	Index uint64 // of the unit
	Reply []byte
}

// origin is what is remembered of the operations of one node's newest incarnation. It is shared between images.
type origin struct {
	node        int32
	incarnation UUID
	done        uint64
	results     []Result // by sequence, none below done
}

// Done is below which operations of a node's incarnation are over, and nothing is known of them any more. It is false
// for an incarnation of which no operation is known.
func (m *Image) Done(node int32, incarnation UUID) (uint64, bool) {
	o := m.origin(node)
	if o == nil || o.incarnation != incarnation {
		return 0, false
	}
	return o.done, true
}

// Result finds what an operation came to, if it changed anything and is not over.
func (m *Image) Result(op Operation) (Result, bool) {
	o := m.origin(op.Node)
	if o == nil || o.incarnation != op.Incarnation {
		return Result{}, false
	}
	at, ok := findResult(o.results, op.Seq)
	if !ok {
		return Result{}, false
	}
	return o.results[at], true
}

// NumResults counts the results that are kept for a node's incarnation.
func (m *Image) NumResults(node int32, incarnation UUID) int {
	if o := m.origin(node); o != nil && o.incarnation == incarnation {
		return len(o.results)
	}
	return 0
}

func (m *Image) origin(node int32) *origin {
	at, ok := findOrigin(m.origins, node)
	if !ok {
		return nil
	}
	return m.origins[at]
}

func findOrigin(origins []*origin, node int32) (int, bool) {
	return slices.BinarySearchFunc(origins, node, func(o *origin, node int32) int { return cmp.Compare(o.node, node) })
}

func findResult(results []Result, seq uint64) (int, bool) {
	return slices.BinarySearchFunc(results, seq, func(r Result, seq uint64) int { return cmp.Compare(r.Seq, seq) })
}

func (r *OperationRecord) appendFields(b []byte) []byte {
	b = appendNatural(b, r.Node)
	b = append(b, r.Incarnation[:]...)
	b = appendUint(appendUint(b, r.Seq), r.Done)
	b = appendString(appendString(b, r.Actor), r.Cause)
	return appendString(b, r.Reply)
}

func (r *reader) operation() Operation {
	return Operation{Node: r.natural32(), Incarnation: r.uuid(), Seq: r.uvarint(), Done: r.uvarint()}
}

// reply is nil where there is none: equal records have equal bytes, both ways.
func (r *reader) reply() []byte {
	if b := r.bytes(); len(b) > 0 {
		return slices.Clone(b)
	}
	return nil
}

func (r *OperationRecord) replay(b *builder) {
	if r.Seq == 0 {
		return
	}
	next := &origin{node: r.Node, incarnation: r.Incarnation}
	at, found := findOrigin(b.img.origins, r.Node)
	b.img.origins = slices.Clone(b.img.origins)
	if !found {
		b.img.origins = slices.Insert(b.img.origins, at, next)
	} else if old := b.img.origins[at]; old.incarnation == r.Incarnation {
		next.done = old.done
		next.results = slices.DeleteFunc(slices.Clone(old.results), func(x Result) bool { return x.Seq < r.Done })
	}
	next.done = max(next.done, r.Done)
	place, twice := findResult(next.results, r.Seq)
	if twice || r.Seq < next.done {
		b.misfit(r, "operation %d of node %d was carried out before", r.Seq, r.Node)
	}
	next.results = slices.Insert(next.results, place, Result{r.Seq, b.index, r.Reply})
	if len(next.results) > MaxResults {
		b.misfit(r, "node %d has more than %d operations whose answers it may ask for", r.Node, MaxResults)
	}
	b.img.origins[at] = next
}

func appendOrigin(b []byte, o *origin) []byte {
	b = appendNatural(b, o.node)
	b = append(b, o.incarnation[:]...)
	b = appendUint(b, o.done)
	b = appendNatural(b, len(o.results))
	for _, r := range o.results {
		b = appendString(appendUint(appendUint(b, r.Seq), r.Index), r.Reply)
	}
	return b
}

func (r *reader) origins() []*origin {
	var all []*origin
	for range r.count(19) {
		o := &origin{node: r.natural32(), incarnation: r.uuid(), done: r.uvarint()}
		for range r.count(3) {
			o.results = append(o.results, Result{r.uvarint(), r.uvarint(), r.reply()})
		}
		all = append(all, o)
	}
	return all
}
