package main

import (
	"encoding/binary"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	eachVersion(kmsg.ApiVersions, "what is served", func(s *session, v int16) {
		req := at(kmsg.NewPtrApiVersionsRequest(), v)
		req.ClientSoftwareName, req.ClientSoftwareVersion = "conform", "1.0"
		ask[*kmsg.ApiVersionsResponse](s, req)
		ask[*kmsg.ApiVersionsResponse](s, req) // again on the same connection
	})
	eachVersion(kmsg.ApiVersions, "software names", func(s *session, v int16) {
		for _, name := range []string{"a b", "", "-a", "a-", "a.b-c", "ä", "a\x00"} {
			req := at(kmsg.NewPtrApiVersionsRequest(), v)
			req.ClientSoftwareName, req.ClientSoftwareVersion = name, "1"
			s.try(req)
			req.ClientSoftwareName, req.ClientSoftwareVersion = "a", name
			s.try(req)
		}
	})
	register("ApiVersions/versions to come", func(s *session) {
		for _, v := range []int16{6, 7, 100, math.MaxInt16} {
			s.future(v)
			ask[*kmsg.MetadataResponse](s, metadata(9)) // the connection goes on
		}
	})
	register("ApiVersions/version -1", func(s *session) { s.future(-1) })

	eachVersion(kmsg.FindCoordinator, "keys", func(s *session, v int16) {
		s.group() // coordinators are there
		for _, kind := range []int8{0, 1, 2, 3, -1} {
			req := at(kmsg.NewPtrFindCoordinatorRequest(), v)
			req.CoordinatorKey, req.CoordinatorKeys, req.CoordinatorType = "a", []string{"a", "b"}, kind
			s.try(req)
		}
	})
	eachVersion(kmsg.ListGroups, "none", func(s *session, v int16) {
		req := at(kmsg.NewPtrListGroupsRequest(), v)
		ask[*kmsg.ListGroupsResponse](s, req)
		req.StatesFilter, req.TypesFilter = []string{"Stable", "x"}, []string{"classic", "x"}
		ask[*kmsg.ListGroupsResponse](s, req)
	})

	register("Frames/lengths", func(s *session) {
		for _, n := range []int32{-1, math.MinInt32, 0, 1, 7, math.MaxInt32, 200 << 20} {
			s.raw("length", binary.BigEndian.AppendUint32(nil, uint32(n)))
		}
	})
	register("Frames/keys and versions that are none", func(s *session) {
		for _, c := range []struct{ key, version int16 }{{-1, 0}, {1000, 0}, {4, 0}, {3, 99}, {3, -1}, {1, 0}, {0, 99}, {19, 0}, {math.MinInt16, math.MinInt16}} {
			s.raw("a header", frame(c.key, c.version, ptr("conform"), []byte{0, 0, 0, 0}))
		}
	})
	register("Frames/client ids", func(s *session) {
		body := metadata(9).AppendTo(nil)
		old := metadata(4).AppendTo(nil)
		for _, id := range []*string{nil, ptr(""), ptr("ä"), ptr("a b"), ptr(string(make([]byte, 300)))} {
			s.raw("flexible", frame(3, 9, id, append([]byte{0}, body...)))
			s.raw("not flexible", frame(3, 4, id, old))
		}
	})
	register("Frames/bytes behind the request", func(s *session) {
		s.raw("one more", frame(3, 4, nil, append(metadata(4).AppendTo(nil), 0)))
		s.raw("flexible, one more", frame(3, 9, nil, append(append([]byte{0}, metadata(9).AppendTo(nil)...), 0)))
	})
	register("Frames/arrays that claim too much", func(s *session) {
		s.raw("a million topics", frame(3, 4, nil, []byte{0, 0x0f, 0x42, 0x40, 1}))
		s.raw("two thousand million", frame(3, 4, nil, []byte{0x7f, 0xff, 0xff, 0xff, 1}))
		s.raw("minus two", frame(3, 4, nil, []byte{0xff, 0xff, 0xff, 0xfe, 1}))
		s.raw("flexible", frame(3, 9, nil, []byte{0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0}))
		s.raw("tags", frame(3, 9, nil, []byte{0, 1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f}))
	})
	register("Frames/tags nobody knows", func(s *session) {
		s.raw("in the header", frame(3, 9, nil, []byte{1, 99, 2, 1, 2, 1, 1, 0, 0, 0}))
		s.raw("in the body", frame(3, 9, nil, []byte{0, 1, 1, 0, 0, 1, 99, 2, 1, 2}))
	})
	register("Frames/cut", func(s *session) {
		for _, req := range []kmsg.Request{metadata(4, "a"), metadata(9, "a"), listOffsets(4, "a", -1), listOffsets(7, "a", -1)} {
			body := req.AppendTo(nil)
			if req.IsFlexible() {
				body = append([]byte{0}, body...)
			}
			for n := range body {
				s.raw("cut", frame(req.Key(), req.GetVersion(), nil, body[:n]))
			}
		}
	})
}

// frame is a request with this header and what comes behind it.
func frame(key, version int16, client *string, rest []byte) []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 4), uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 77)
	if client == nil {
		b = append(b, 0xff, 0xff)
	} else {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(*client))), *client...)
	}
	b = append(b, rest...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// future sends a version of ApiVersions that nobody knows yet. The answer is
// one of version 0.
func (s *session) future(version int16) {
	b := s.raw("a version to come", frame(18, version, ptr("conform"), []byte{0, 2, 'a', 2, '1', 0}))
	if b == nil {
		return
	}
	resp := kmsg.NewPtrApiVersionsResponse()
	if err := resp.ReadFrom(b[4:]); err != nil {
		s.note("the answer", 18, -1, err.Error())
		return
	}
	s.note("the answer", 18, -1, s.normalize(resp))
}
