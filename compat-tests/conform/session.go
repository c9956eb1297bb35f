package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// scenario is a script that is run against each broker by itself. What it asks
// must not depend on which broker it is.
type scenario struct {
	name string
	run  func(*session)
}

var scenarios []scenario

// register adds a scenario. Names are paths: the API first.
func register(name string, run func(*session)) {
	scenarios = append(scenarios, scenario{name, run})
}

// session is one run of a scenario against one broker.
type session struct {
	*target
	prefix    string // of its topics, the same at both brokers
	common    map[int16]versionRange
	conn      *wire
	steps     []step
	count     int      // of topics named
	made      []string // topics that are there
	marker    string   // see settle
	marks     int
	producers map[int64]string
	members   map[string]string // see memberName
	wires     []*wire           // of members
}

// step is one answer, or what came instead of one.
type step struct {
	label        string
	key, version int16
	answered     bool
	value        any // see normalize
}

// abort ends a scenario whose connection is gone.
type abort struct{}

// play runs a scenario and returns what it saw.
func play(sc scenario, t *target, common map[int16]versionRange) []step {
	s := &session{target: t, common: common, prefix: topicPrefix(sc.name), producers: map[int64]string{}, members: map[string]string{}}
	defer s.hangUp()
	defer s.dismiss()
	func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(abort); !ok {
					panic(r)
				}
			}
		}()
		sc.run(s)
	}()
	return s.steps
}

// runName keeps the topics of one run apart from those of the next.
var runName = strconv.FormatInt(time.Now().Unix(), 36)

// topicMark begins the names of all topics that scenarios make.
const topicMark = "c-"

// topicPrefix makes a name that topics may have of a scenario's.
func topicPrefix(name string) string {
	return topicMark + runName + "-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name) + "-"
}

// topic is a name that nobody else in the run uses. Dots and underscores in it
// would be alike.
func (s *session) topic() string {
	s.count++
	return fmt.Sprintf("%s%d", s.prefix, s.count)
}

func (s *session) hangUp() {
	if s.conn != nil {
		s.conn.nc.Close()
		s.conn = nil
	}
}

// wire is the scenario's connection, made anew after one that has ended.
func (s *session) wire() *wire {
	if s.conn == nil {
		c, err := s.connect()
		if err != nil {
			s.note("connecting", -1, -1, "refused: "+err.Error())
			panic(abort{})
		}
		s.conn = c
	}
	return s.conn
}

// note records something that is not an answer.
func (s *session) note(what string, key, version int16, value any) {
	s.steps = append(s.steps, step{label: fmt.Sprintf("%d %s", len(s.steps)+1, what), key: key, version: version, value: value})
}

// ask sends a request, records the answer and returns it. A scenario whose
// connection ends here is over.
func ask[R kmsg.Response](s *session, req kmsg.Request) R {
	resp := s.try(req)
	if resp == nil {
		panic(abort{})
	}
	return resp.(R)
}

// try is ask for requests that may end the connection: the answer is nil then,
// and the next request goes out on another one.
func (s *session) try(req kmsg.Request) kmsg.Response {
	resp, err := s.wire().ask(req)
	s.record(req, resp, err)
	if err != nil {
		s.hangUp()
		return nil
	}
	return resp
}

// quietly asks what is not compared: what scenarios need to go on.
func quietly[R kmsg.Response](s *session, req kmsg.Request) R {
	resp, err := s.wire().ask(req)
	if err != nil {
		s.record(req, nil, err)
		panic(abort{})
	}
	return resp.(R)
}

// record writes down what came of a request.
func (s *session) record(req kmsg.Request, resp kmsg.Response, err error) {
	name := fmt.Sprintf("%s v%d", kmsg.NameForKey(req.Key()), req.GetVersion())
	if err != nil {
		s.note(name, req.Key(), req.GetVersion(), err.Error())
		return
	}
	s.note(name, req.Key(), req.GetVersion(), s.normalize(resp))
	s.steps[len(s.steps)-1].answered = true
}

// pipeline sends all requests before it reads the first answer.
func (s *session) pipeline(answers int, reqs ...kmsg.Request) {
	c := s.wire()
	ids := make([]int32, len(reqs))
	for i, req := range reqs {
		var err error
		if ids[i], err = c.send(req); err != nil {
			s.record(req, nil, outcome(err))
			panic(abort{})
		}
	}
	for i, req := range reqs {
		if p, ok := req.(*kmsg.ProduceRequest); ok && p.Acks == 0 {
			continue
		}
		b, err := c.receive()
		var resp kmsg.Response
		if err == nil {
			resp, err = decode(req, ids[i], b)
		}
		s.record(req, resp, err)
		if err != nil {
			panic(abort{})
		}
	}
}

// raw sends bytes as they are and records whether an answer comes. Bytes of the
// answer after its correlation id are the scenario's to look at.
func (s *session) raw(what string, frame []byte) []byte {
	c := s.wire()
	err := outcome(c.write(frame))
	var b []byte
	if err == nil {
		b, err = c.receive()
	}
	if err != nil {
		s.note(what, -1, -1, err.Error())
		s.hangUp()
		return nil
	}
	s.note(what, -1, -1, "an answer")
	return b
}

// eachVersion runs f for every version of an API that both brokers serve, as a
// scenario of its own.
func eachVersion(key kmsg.Key, what string, f func(s *session, version int16)) {
	register(fmt.Sprintf("%s/%s", kmsg.NameForKey(int16(key)), what), func(s *session) {
		r, ok := s.common[int16(key)]
		if !ok {
			s.note("served by both", int16(key), -1, false)
			return
		}
		if key == kmsg.Produce {
			r.min = max(r.min, 3) // see "Produce/versions that are only told"
		}
		for v := r.min; v <= r.max; v++ {
			f(s, v)
		}
	})
}

// at sets the version of a request.
func at[R kmsg.Request](req R, version int16) R {
	req.SetVersion(version)
	return req
}
