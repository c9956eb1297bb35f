package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// answerTime is what a broker may take for an answer. No scenario asks for
// anything that takes longer.
const answerTime = 5 * time.Second

// target is one of the two brokers, and what is known of it.
type target struct {
	name      string
	addr      string
	host      string
	port      int32
	clusterID string
	versions  map[int16]versionRange // as ApiVersions tells

	mu     sync.Mutex // guards the following
	topics map[[16]byte]string
}

type versionRange struct{ min, max int16 }

// dialTarget learns what a broker serves.
func dialTarget(name, addr string) (*target, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return nil, err
	}
	t := &target{name: name, addr: addr, host: host, port: int32(n), versions: map[int16]versionRange{}, topics: map[[16]byte]string{}}
	c, err := t.connect()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer c.nc.Close()
	versions := kmsg.NewPtrApiVersionsRequest()
	resp, err := c.ask(versions)
	if err != nil {
		return nil, fmt.Errorf("%s: ApiVersions: %w", name, err)
	}
	for _, k := range resp.(*kmsg.ApiVersionsResponse).ApiKeys {
		t.versions[k.ApiKey] = versionRange{k.MinVersion, k.MaxVersion}
	}
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.SetVersion(9)
	metadata.Topics = []kmsg.MetadataRequestTopic{}
	if resp, err = c.ask(metadata); err != nil {
		return nil, fmt.Errorf("%s: Metadata: %w", name, err)
	}
	if id := resp.(*kmsg.MetadataResponse).ClusterID; id != nil {
		t.clusterID = *id
	}
	return t, nil
}

// wire is one connection. It knows frames and nothing of clients' habits.
type wire struct {
	nc   net.Conn
	next int32
	form *kmsg.RequestFormatter
}

func (t *target) connect() (*wire, error) { return t.connectAs("conform") }

func (t *target) connectAs(client string) (*wire, error) {
	nc, err := net.DialTimeout("tcp", t.addr, answerTime)
	if err != nil {
		return nil, err
	}
	return &wire{nc: nc, form: kmsg.NewRequestFormatter(kmsg.FormatterClientID(client))}, nil
}

// send writes a request and returns its correlation id.
func (c *wire) send(req kmsg.Request) (int32, error) {
	c.next++
	return c.next, c.write(c.form.AppendRequest(nil, req, c.next))
}

func (c *wire) write(b []byte) error {
	c.nc.SetDeadline(time.Now().Add(answerTime))
	_, err := c.nc.Write(b)
	return err
}

// errClosed is a connection that the broker has ended.
var errClosed = errors.New("the connection is closed")

// errSilent is an answer that does not come.
var errSilent = errors.New("there is no answer")

// largestAnswer is more than any scenario is given.
const largestAnswer = 64 << 20

// receive reads a frame.
func (c *wire) receive() ([]byte, error) {
	c.nc.SetDeadline(time.Now().Add(answerTime))
	var size [4]byte
	if _, err := io.ReadFull(c.nc, size[:]); err != nil {
		return nil, outcome(err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > largestAnswer {
		return nil, fmt.Errorf("an answer of %d bytes", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(c.nc, b)
	return b, outcome(err)
}

func outcome(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSilent
	default:
		return err
	}
}

// ask sends a request and decodes its answer.
func (c *wire) ask(req kmsg.Request) (kmsg.Response, error) {
	id, err := c.send(req)
	if err != nil {
		return nil, outcome(err)
	}
	b, err := c.receive()
	if err != nil {
		return nil, err
	}
	return decode(req, id, b)
}

// decode takes an answer apart. All of its bytes must be the answer's.
func decode(req kmsg.Request, id int32, b []byte) (kmsg.Response, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("an answer of %d bytes", len(b))
	}
	if got := int32(binary.BigEndian.Uint32(b)); got != id {
		return nil, fmt.Errorf("the answer to request %d came for %d", got, id)
	}
	body := b[4:]
	// The header of ApiVersions is never flexible.
	if req.IsFlexible() && req.Key() != int16(kmsg.ApiVersions) {
		if len(body) == 0 || body[0] != 0 {
			return nil, errors.New("the answer's header has tagged fields, or no room for them")
		}
		body = body[1:]
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if req.Key() == int16(kmsg.ApiVersions) && len(body) >= 2 && binary.BigEndian.Uint16(body) == 35 {
		resp.SetVersion(0) // what a broker answers to a version it does not know
	}
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("the answer cannot be decoded as %s version %d: %w", kmsg.NameForKey(req.Key()), resp.GetVersion(), err)
	}
	if again := resp.AppendTo(nil); len(again) != len(body) {
		return nil, fmt.Errorf("the answer has %d bytes, what was read of it %d", len(body), len(again))
	}
	return resp, nil
}

// nameTopic remembers a topic's id, which differs from broker to broker.
func (t *target) nameTopic(id [16]byte, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.topics[id] = name
}

// topicName is how an id is written down.
func (t *target) topicName(id [16]byte) string {
	if id == ([16]byte{}) {
		return "none"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if name, ok := t.topics[id]; ok {
		return "id of " + name
	}
	return "an id"
}
