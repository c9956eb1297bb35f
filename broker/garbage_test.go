package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// fill sets the fields of a request so that it gets far: names are of a topic that
// is there, numbers are small, records are a batch.
func fill(v reflect.Value, rng *rand.Rand) {
	switch v.Kind() {
	case reflect.Pointer:
		if rng.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Name != "Version" && f.Type != reflect.TypeFor[kmsg.Tags]() {
				fill(v.Field(i), rng)
			}
		}
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[[]byte]() {
			v.SetBytes(batchtest.Values("x").Encode())
			return
		}
		s := reflect.MakeSlice(v.Type(), 1, 1)
		fill(s.Index(0), rng)
		v.Set(s)
	case reflect.String:
		v.SetString("t")
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.IntN(4) - 1))
	}
}

const probeID = 0x01020304 // the correlation id of every probe

// probe sends a frame and nothing behind it, and returns what came back until the
// broker had closed the connection.
func probe(t *testing.T, addr string, from byte, frame []byte) []byte {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, from)}}
	nc, err := dialer.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	nc.Write(frame)
	nc.(*net.TCPConn).CloseWrite()
	answer, err := io.ReadAll(nc)
	if err != nil && !isReset(err) {
		t.Fatalf("the connection goes on after %x: %v", frame, err)
	}
	return answer
}

// wellFormed checks that bytes are nothing, or one answer to (key, version).
func wellFormed(answer []byte, key, version int16) error {
	if len(answer) == 0 {
		return nil
	}
	if len(answer) < 8 || int(binary.BigEndian.Uint32(answer)) != len(answer)-4 {
		return fmt.Errorf("%d bytes are no frame", len(answer))
	}
	if id := binary.BigEndian.Uint32(answer[4:]); id != probeID {
		return fmt.Errorf("it answers request %x", id)
	}
	resp, body := kmsg.ResponseForKey(key), answer[8:]
	resp.SetVersion(version)
	if resp.IsFlexible() && key != protocol.KeyApiVersions {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		return err
	}
	if again := resp.AppendTo(nil); !bytes.Equal(again, body) {
		return fmt.Errorf("read and written again it is\n%x, not\n%x", again, body)
	}
	return nil
}

// Every request of every version, cut off at every length and with bytes changed,
// is answered in the form of its API or ends its connection; others notice
// nothing.
func TestBrokenRequests(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{"num.partitions": "1"})
	other := newRaw(t, n.addr())
	createTopics(other, 4, "t", "other")
	changes := 40
	if testing.Short() {
		changes = 4
	}
	sent, answered := 0, 0
	for _, api := range protocol.APIs(protocol.Clients) {
		if api.Key == protocol.KeyHello { // not Kafka's
			continue
		}
		for version := min(api.Min, api.Advertised); version <= api.Max; version++ {
			rng := rand.New(rand.NewPCG(uint64(api.Key), uint64(version)))
			req := kmsg.RequestForKey(api.Key)
			fill(reflect.ValueOf(req).Elem(), rng)
			req.SetVersion(version)
			whole := kmsg.NewRequestFormatter(kmsg.FormatterClientID("garbage")).AppendRequest(nil, req, probeID)
			try := func(frame []byte) {
				t.Helper()
				binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
				answer := probe(t, n.addr(), byte(sent%200), frame)
				if err := wellFormed(answer, api.Key, version); err != nil {
					t.Errorf("%s version %d: %x: %v", api.Name(), version, frame, err)
				}
				sent++
				answered += one(len(answer) > 0)
			}
			for length := 4; length <= len(whole); length++ {
				try(slices.Clone(whole[:length]))
			}
			for range changes {
				frame := slices.Clone(whole)
				for range 1 + rng.IntN(3) {
					// Key, version and id stay, so that it is known what an answer must be.
					frame[12+rng.IntN(len(frame)-12)] = [...]byte{0, 1, 0x7f, 0x80, 0xff, byte(rng.Uint32())}[rng.IntN(6)]
				}
				try(frame)
			}
		}
		if p := ask[*kmsg.ProduceResponse](other, produceRequest("other", 0, -1, batchtest.Values("x").Encode())).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatalf("after %s: error %d", api.Name(), p.ErrorCode)
		}
	}
	t.Logf("%d requests, %d answers", sent, answered)
	if answered < sent/50 {
		t.Error("hardly any was answered: the requests do not get far")
	}
	newRaw(t, n.addr())
	until(t, "an end of the connections", func() bool { return n.value(t, openConnections) == 2 })
}
