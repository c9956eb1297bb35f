package protocol

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill sets every field of a kmsg struct to something, so that every branch of
// its encoding is taken.
func fill(v reflect.Value, rng *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if rng.IntN(4) > 0 && v.CanSet() {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng, depth)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			if rng.IntN(3) == 0 && v.CanAddr() {
				v.Addr().Interface().(*kmsg.Tags).Set(uint32(50+rng.IntN(10)), []byte("unknown"))
			}
			return
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "Version" {
				fill(v.Field(i), rng, depth)
			}
		}
	case reflect.Slice:
		n := rng.IntN(4)
		s := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			fill(s.Index(i), rng, depth+1)
		}
		v.Set(s)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), rng, depth)
		}
	case reflect.String:
		v.SetString("some text"[:rng.IntN(10)])
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.IntN(100)))
	case reflect.Uint8:
		v.SetUint(uint64(rng.IntN(256)))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(rng.IntN(100)))
	}
}

func randomRequest(key, version int16, rng *rand.Rand) kmsg.Request {
	r := requestFor(key)
	r.SetVersion(version)
	fill(reflect.ValueOf(r).Elem(), rng, 0)
	r.SetVersion(version)
	return r
}

// encode is a whole frame without its length.
func encode(r kmsg.Request, correlationID int32, clientID *string) []byte {
	f := kmsg.NewRequestFormatter()
	if clientID != nil {
		f = kmsg.NewRequestFormatter(kmsg.FormatterClientID(*clientID))
	}
	return f.AppendRequest(nil, r, correlationID)[4:]
}

// connTo is a connection on whose listener an API is served.
func connTo(a *API) *ConnInfo {
	if a.on.has(Clients) {
		return &ConnInfo{}
	}
	return &ConnInfo{Side: Controllers}
}

func eachVersion(f func(a *API, version int16)) {
	for i := range apis {
		for v := min(apis[i].Min, apis[i].Advertised); v <= apis[i].Max; v++ {
			f(&apis[i], v)
		}
	}
}

// A shape that disagrees with kmsg refuses honest requests or walks past lies.
func TestShapesAgreeWithTheCodec(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	eachVersion(func(a *API, version int16) {
		for range 200 {
			r := randomRequest(a.Key, version, rng)
			body := r.AppendTo(nil)
			w := walker{src: body, version: version, flexible: r.IsFlexible()}
			w.structure(a.shape, 0)
			if w.err != nil || len(w.src) != 0 {
				t.Fatalf("%s v%d: walked to %d bytes before the end, error %v: %+v", a.Name(), version, len(w.src), w.err, r)
			}
			if r.IsFlexible() != isFlexible(a.Key, version) {
				t.Fatalf("%s v%d: flexible in kmsg: %v", a.Name(), version, r.IsFlexible())
			}
		}
	})
}

func TestDecodeReturnsWhatWasSent(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	name := "a client"
	for _, clientID := range []*string{nil, &name} {
		eachVersion(func(a *API, version int16) {
			sent := randomRequest(a.Key, version, rng)
			got, correlationID, err := Decode(encode(sent, 77, clientID), connTo(a))
			if err != nil {
				t.Fatalf("%s v%d: %v", a.Name(), version, err)
			}
			again := got.Body.AppendTo(nil)
			if correlationID != 77 || got.Version != version || string(again) != string(sent.AppendTo(nil)) {
				t.Fatalf("%s v%d: decoded %+v of %+v", a.Name(), version, got.Body, sent)
			}
		})
	}
}

func TestRecordsAliasTheFrame(t *testing.T) {
	r := kmsg.NewPtrProduceRequest()
	r.Version = 9
	topic := kmsg.NewProduceRequestTopic()
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = []byte("record bytes")
	topic.Partitions = append(topic.Partitions, part)
	r.Topics = append(r.Topics, topic)
	frame := encode(r, 1, nil)
	got, _, err := Decode(frame, &ConnInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range frame {
		frame[i] = 'x'
	}
	if records := got.Body.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records; string(records) != "xxxxxxxxxxxx" {
		t.Fatalf("records were copied: %q", records)
	}
}

// Eight bytes that claim four billion tagged fields keep kmsg busy for half a
// minute; a count of a million elements has it allocate a million structs.
func TestLiesAreRefusedAtOnce(t *testing.T) {
	header := func(key, version int16) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		return append(b, 0, 0, 0, 1, 0xff, 0xff, 0)
	}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	lies := map[string][]byte{
		"tags of a metadata request":   append(append(header(KeyMetadata, 12), 0, 1, 1), huge...),
		"tags of the header":           append(header(KeyMetadata, 12)[:10], huge...),
		"topics of a metadata request": append(header(KeyMetadata, 12), huge...),
		"the header of a node":         append(header(KeyHello, 0), huge...),
		"the data of a node":           append(append(header(KeySubmit, 0), 1), huge...),
		"tags of a node":               append(append(header(KeyRaft, 0), 1, 1), huge...),
		"a null header of a node":      append(header(KeyHello, 0), 0, 1, 0),
		"null data of a node":          append(header(KeyHello, 0), 1, 0, 0),
		"tags inside a tagged field": append(append(append(header(KeyFetch, 15),
			0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1), 1, 1, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), huge...),
	}
	for name, frame := range lies {
		begun := time.Now()
		conn := &ConnInfo{}
		if peekKey(frame) >= KeyRaft {
			conn.Side = Controllers
		}
		_, _, err := Decode(frame, conn)
		if _, ok := errors.AsType[*MalformedError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestEveryPrefixIsRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	eachVersion(func(a *API, version int16) {
		frame := encode(randomRequest(a.Key, version, rng), 1, nil)
		for n := range len(frame) {
			if _, _, err := Decode(frame[:n], connTo(a)); err == nil {
				t.Fatalf("%s v%d: the first %d of %d bytes decode", a.Name(), version, n, len(frame))
			}
		}
	})
}

func TestUnservedVersions(t *testing.T) {
	frame := func(key, version int16) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		return append(b, 0, 0, 0, 9, 0xff, 0xff)
	}
	for _, version := range []int16{6, 32767, -1} {
		r, correlationID, err := Decode(frame(KeyApiVersions, version), &ConnInfo{})
		if err != nil || r.Body != nil || correlationID != 9 {
			t.Errorf("ApiVersions v%d must come through without a body: %+v, %v", version, r, err)
		}
	}
	for _, kv := range [][2]int16{{KeyFetch, 3}, {KeyFetch, 19}, {KeyMetadata, -1}, {4, 0}, {-1, 0}, {999, 0}} {
		_, _, err := Decode(frame(kv[0], kv[1]), &ConnInfo{})
		if _, ok := errors.AsType[*UnsupportedError](err); !ok {
			t.Errorf("key %d version %d: %v", kv[0], kv[1], err)
		}
	}
}

func TestApiVersionsAnswerHasTheOldHeader(t *testing.T) {
	if got := AppendResponseHeader(nil, KeyApiVersions, 3, 1); len(got) != 4 {
		t.Errorf("ApiVersions: header of %d bytes", len(got))
	}
	if got := AppendResponseHeader(nil, KeyMetadata, 9, 1); len(got) != 5 {
		t.Errorf("Metadata v9: header of %d bytes", len(got))
	}
	if got := AppendResponseHeader(nil, KeyMetadata, 8, 1); len(got) != 4 {
		t.Errorf("Metadata v8: header of %d bytes", len(got))
	}
}

// librdkafka turns compression off unless Produce begins at version 0.
func TestProduceIsAdvertisedFromZero(t *testing.T) {
	if a, _ := lookup(KeyProduce); a.Advertised != 0 || a.Min != 3 {
		t.Errorf("Produce is advertised from %d and served from %d", a.Advertised, a.Min)
	}
}

// What is served on one side does not exist on the other, and gets no room there.
func TestSides(t *testing.T) {
	on := map[int16][2]bool{KeyProduce: {true, false}, KeyMetadata: {true, false}, KeyApiVersions: {true, true}, KeyElectLeaders: {true, false}}
	for _, key := range []int16{KeyDescribeCluster, KeyDescribeQuorum, KeyUpdateFeatures, KeyUnregisterBroker, KeyAddRaftVoter, KeyRemoveRaftVoter} {
		on[key] = [2]bool{true, true}
	}
	for key := KeyRaft; key <= KeyHello; key++ {
		on[key] = [2]bool{key == KeyHello, true}
	}
	const most = 100 << 20
	for key, want := range on {
		for _, side := range []Side{Clients, Controllers} {
			a, _ := lookup(key)
			_, _, err := Decode(encode(requestFor(key), 1, nil), &ConnInfo{Side: side})
			if version := requestFor(key).GetVersion(); !a.serves(version) {
				r := requestFor(key)
				r.SetVersion(a.Min)
				_, _, err = Decode(encode(r, 1, nil), &ConnInfo{Side: side})
			}
			if (err == nil) != want[side] {
				t.Errorf("%s on a %s listener: %v", a.Name(), side, err)
			}
			listed := slices.ContainsFunc(Versions(side), func(k kmsg.ApiVersionsResponseApiKey) bool { return k.ApiKey == key })
			if listed != (want[side] && !(a.hidden && side == Clients)) {
				t.Errorf("%s is in ApiVersions of a %s listener: %v", a.Name(), side, listed)
			}
			wide := want[side] && slices.Contains([]int16{KeyProduce, KeyRaft, KeyRaftSnapshot, KeySubmit}, key)
			if limit := FrameLimit(binary.BigEndian.AppendUint16(nil, uint16(key)), side, most); (limit == most) != wide || limit > most {
				t.Errorf("%s may have %d bytes on a %s listener", a.Name(), limit, side)
			}
		}
	}
	if got := len(APIs(Clients)) + len(APIs(Controllers)); got != len(apis)+8 { // ApiVersions, Hello and the six above
		t.Errorf("%d rows on both sides", got)
	}
	_, _, err := Decode(encode(NewNodeRequest(KeyRaft), 1, nil), &ConnInfo{})
	if err == nil || err.Error() != "Raft is served on controller listeners only, and this is a client listener" {
		t.Errorf("it says: %v", err)
	}
}

func TestDecodeAnswer(t *testing.T) {
	to := NewNodeRequest(KeySubmit)
	frame := AppendFrame(nil, to.Answer([]byte(`{"a":1}`), []byte("the data")), KeySubmit, 0, 41)[4:]
	body, id, err := DecodeAnswer(frame, to)
	if got, ok := body.(*NodeResponse); !ok || err != nil || id != 41 || got.Key() != KeySubmit || string(got.Header) != `{"a":1}` || string(got.Data) != "the data" {
		t.Fatalf("%+v, %d, %v", body, id, err)
	}
	for n := range frame {
		if _, _, err := DecodeAnswer(frame[:n], to); err == nil {
			t.Fatalf("the first %d of %d bytes decode", n, len(frame))
		}
	}
	if _, _, err := DecodeAnswer(append(frame[:4:4], 0, 1, 1, 1, 5, 2, 'h', 'i'), to); err != nil {
		t.Errorf("a tagged field of a later node: %v", err)
	}
	asked := kmsg.NewPtrApiVersionsRequest()
	if _, _, err := DecodeAnswer([]byte{0, 0, 0, 1, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0}, asked); err == nil {
		t.Error("two billion versions in two bytes")
	}
}

// A header and data go through as they are, without a copy.
func TestNodeRequestAliasesTheFrame(t *testing.T) {
	r := NewNodeRequest(KeyRaft)
	r.Header, r.Data = []byte("header"), []byte("some data")
	frame := encode(r, 1, nil)
	got, _, err := Decode(frame, &ConnInfo{Side: Controllers})
	if err != nil {
		t.Fatal(err)
	}
	body := got.Body.(*NodeRequest)
	if string(body.Header) != "header" || string(body.Data) != "some data" {
		t.Fatalf("%q, %q", body.Header, body.Data)
	}
	for i := range frame {
		frame[i] = 'x'
	}
	if string(body.Header) != "xxxxxx" || string(body.Data) != "xxxxxxxxx" {
		t.Fatalf("they were copied: %q, %q", body.Header, body.Data)
	}
}

func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	eachVersion(func(a *API, version int16) { f.Add(encode(randomRequest(a.Key, version, rng), 1, nil)) })
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, side := range []Side{Clients, Controllers} {
			r, _, err := Decode(frame, &ConnInfo{Side: side})
			if err == nil && r.Body != nil {
				r.Body.AppendTo(nil)
			}
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	versions := kmsg.NewPtrApiVersionsResponse()
	versions.ApiKeys = Versions(Controllers)
	f.Add(AppendFrame(nil, versions, KeyApiVersions, 0, 1)[4:])
	hello := NewNodeRequest(KeyHello)
	f.Add(AppendFrame(nil, hello.Answer([]byte("{}"), []byte("data")), KeyHello, 0, 1)[4:])
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, to := range []kmsg.Request{kmsg.NewPtrApiVersionsRequest(), hello} {
			body, id, err := DecodeAnswer(frame, to)
			if err != nil {
				continue
			}
			again := AppendFrame(nil, body, to.Key(), 0, id)[4:]
			if second, _, err := DecodeAnswer(again, to); err != nil || !reflect.DeepEqual(second, body) {
				t.Fatalf("%x is read as %+v, written as %x and read as %+v, %v", frame, body, again, second, err)
			}
		}
	})
}

// Codes have the number and the name that clients know them by.
func TestErrorNames(t *testing.T) {
	for code, name := range errorNames {
		want := "NONE"
		if err := kerr.TypedErrorForCode(int16(code)); err != nil {
			want = err.Message
		}
		if want == "NOT_LEADER_FOR_PARTITION" { // its name before followers could be read from
			want = "NOT_LEADER_OR_FOLLOWER"
		}
		if name != want || code.String() != want {
			t.Errorf("error %d is %s, not %s", code, want, name)
		}
	}
	if got := ErrorCode(149).String(); got != "149" {
		t.Errorf("a code without a name is %s", got)
	}
}
