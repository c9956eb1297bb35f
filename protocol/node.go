package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What nodes say to each other has one form for all keys from 20000: a header,
// JSON whose meaning belongs to whoever sends and takes it, and bytes behind it.
// Neither is null. Versions are there to change the form itself; within one,
// tagged fields behind the two are skipped, so that a later node can add some.

// nodeShape is the body of such a request, and of its answer.
var nodeShape = shape(`r r`)

// NodeRequest is a request of one node to another.
type NodeRequest struct {
	key     int16
	Version int16
	Header  []byte // JSON
	Data    []byte // after Decode it aliases the frame, as Header does
}

// NodeResponse is the answer to a NodeRequest.
type NodeResponse struct {
	key     int16
	Version int16
	Header  []byte // JSON
	Data    []byte // after DecodeAnswer it aliases the frame, as Header does
}

// NewNodeRequest is an empty request of the API with this key, which is one of
// our own.
func NewNodeRequest(key int16) *NodeRequest { return &NodeRequest{key: key} }

// Key implements kmsg.Request.
func (r *NodeRequest) Key() int16 { return r.key }

// MaxVersion implements kmsg.Request.
func (r *NodeRequest) MaxVersion() int16 { return 0 }

// SetVersion implements kmsg.Request.
func (r *NodeRequest) SetVersion(v int16) { r.Version = v }

// GetVersion implements kmsg.Request.
func (r *NodeRequest) GetVersion() int16 { return r.Version }

// IsFlexible implements kmsg.Request.
func (r *NodeRequest) IsFlexible() bool { return true }

// AppendTo implements kmsg.Request.
func (r *NodeRequest) AppendTo(dst []byte) []byte { return appendNode(dst, r.Header, r.Data) }

// ReadFrom implements kmsg.Request.
func (r *NodeRequest) ReadFrom(src []byte) (err error) {
	r.Header, r.Data, err = readNode(src)
	return err
}

// ResponseKind implements kmsg.Request.
func (r *NodeRequest) ResponseKind() kmsg.Response {
	return &NodeResponse{key: r.key, Version: r.Version}
}

// Answer is the answer to r with this header and data.
func (r *NodeRequest) Answer(header, data []byte) *NodeResponse {
	return &NodeResponse{key: r.key, Version: r.Version, Header: header, Data: data}
}

// Key implements kmsg.Response.
func (r *NodeResponse) Key() int16 { return r.key }

// MaxVersion implements kmsg.Response.
func (r *NodeResponse) MaxVersion() int16 { return 0 }

// SetVersion implements kmsg.Response.
func (r *NodeResponse) SetVersion(v int16) { r.Version = v }

// GetVersion implements kmsg.Response.
func (r *NodeResponse) GetVersion() int16 { return r.Version }

// IsFlexible implements kmsg.Response.
func (r *NodeResponse) IsFlexible() bool { return true }

// AppendTo implements kmsg.Response.
func (r *NodeResponse) AppendTo(dst []byte) []byte { return appendNode(dst, r.Header, r.Data) }

// ReadFrom implements kmsg.Response.
func (r *NodeResponse) ReadFrom(src []byte) (err error) {
	r.Header, r.Data, err = readNode(src)
	return err
}

// RequestKind implements kmsg.Response.
func (r *NodeResponse) RequestKind() kmsg.Request {
	return &NodeRequest{key: r.key, Version: r.Version}
}

func appendNode(dst, header, data []byte) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(header))+1), header...)
	dst = append(binary.AppendUvarint(dst, uint64(len(data))+1), data...)
	return append(dst, 0) // no tagged fields
}

func readNode(src []byte) (header, data []byte, err error) {
	w := walker{src: src, flexible: true}
	header, data = w.notNull(), w.notNull()
	w.tags(nil, 0)
	if w.err != nil {
		return nil, nil, w.err
	}
	return header, data, nil
}

// notNull reads compact bytes that may not be null.
func (w *walker) notNull() []byte {
	n := w.uvarint()
	if n == 0 {
		w.fail(errors.New("a field is null that may not be"))
		return nil
	}
	return w.take(int(n) - 1)
}

// requestFor is an empty request of a key that is in the table.
func requestFor(key int16) kmsg.Request {
	if _, ours := nodeNames[key]; ours {
		return NewNodeRequest(key)
	}
	return kmsg.RequestForKey(key)
}

// versionsShape is the answer to ApiVersions version 0. Every node answers that
// version, whatever it is asked for, so nodes ask for no other.
var versionsShape = shape(`h [h h h]`)

// DecodeAnswer reads the answer (without its length) to a request of ours: a
// NodeRequest, or ApiVersions of version 0. What came is bounded by the frame
// as a request is in Decode.
func DecodeAnswer(frame []byte, to kmsg.Request) (body kmsg.Response, correlationID int32, err error) {
	form := nodeShape
	w := walker{src: frame, flexible: to.IsFlexible()}
	correlationID = w.int32()
	if to.Key() == KeyApiVersions {
		form = versionsShape
	} else {
		w.tags(nil, 0)
	}
	if err = w.err; err == nil {
		err = form.Check(w.src, to.GetVersion(), to.IsFlexible())
	}
	if err == nil {
		body = to.ResponseKind()
		err = body.ReadFrom(w.src)
	}
	if err != nil {
		return nil, correlationID, fmt.Errorf("malformed answer to %s version %d: %w", Name(to.Key()), to.GetVersion(), err)
	}
	return body, correlationID, nil
}
