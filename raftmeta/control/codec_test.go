package control

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// fill gives every field of a value something that is not zero, so that a field that does not travel is missed.
func fill(v reflect.Value, n int) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(n%100 + 1))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(n%100 + 1))
	case reflect.String:
		v.SetString(fmt.Sprintf("s%d", n))
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n+i)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n+10*i)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(value, n+1)
		v.SetMapIndex(key, value)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n+7*i)
		}
	default:
		panic("a field of a kind that no command has had: " + v.Type().String())
	}
}

func TestEveryCommandTravels(t *testing.T) {
	op := image.Operation{Node: 3, Incarnation: id(4), Seq: 5, Done: 6}
	for _, name := range slices.Sorted(maps.Keys(commandTypes)) {
		c := reflect.New(commandTypes[name])
		fill(c.Elem(), len(name))
		want := Request{Operation: op, Actor: "me", Cause: "a test", Awaited: true, Command: c.Interface().(Command)}
		b, err := want.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := DecodeRequest(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n%s became\n%+v, want\n%+v", name, err, b, got.Command, want.Command)
		}
		// Something that this release does not know could say what must not happen.
		inner := strings.Replace(string(b), `"Value":{`, `"Value":{"Later":1,`, 1)
		if len(b) > 0 && strings.Contains(inner, `"Later":1,}`) {
			inner = strings.Replace(inner, `"Later":1,}`, `"Later":1}`, 1)
		}
		for _, bad := range []string{
			inner, strings.Replace(string(b), `"Actor"`, `"Later":1,"Actor"`, 1), strings.Replace(string(b), `"Type":"`, `"Type":"Later`, 1),
			string(b) + "{}", string(b[:len(b)-1]), "", "null",
		} {
			if got, err := DecodeRequest([]byte(bad)); err == nil {
				t.Errorf("%s: %s was read as %+v", name, bad, got.Command)
			}
		}
	}
}

func TestEveryReplyTravels(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(replyTypes)) {
		want := reflect.New(replyTypes[name])
		fill(want.Elem(), len(name))
		b, err := EncodeReply(want.Interface())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := DecodeReply(b)
		if err != nil || !reflect.DeepEqual(got, want.Interface()) {
			t.Errorf("%s: %v\n%s became\n%+v", name, err, b, got)
		}
		for _, bad := range []string{
			strings.Replace(string(b), `"Value":{`, `"Value":{"Later":1,`, 1), strings.Replace(string(b), `"Type":"`, `"Type":"Later`, 1), string(b) + "{}",
		} {
			if got, err := DecodeReply([]byte(bad)); err == nil {
				t.Errorf("%s: %s was read as %+v", name, bad, got)
			}
		}
	}
	if got, err := DecodeReply(nil); got != nil || err != nil {
		t.Errorf("no reply is %v, %v", got, err)
	}
}

// Whatever Eval can be asked for is in the table, and so is every reply.
func TestTablesAreComplete(t *testing.T) {
	img := cluster(t, 3)
	for _, c := range []Command{
		&RegisterBroker{ID: 1, Incarnation: id(1)}, &FenceBroker{ID: 1, Epoch: epoch(img, 1)}, &AlterPartition{BrokerID: 1, BrokerEpoch: epoch(img, 1)}, &ElectLeaders{},
		&AllocateProducerIDs{BrokerID: 1, BrokerEpoch: epoch(img, 1), Count: 1}, &CreateTopic{Name: "t", ID: id(1), Partitions: 1, ReplicationFactor: 1},
		&AlterPartitionReassignments{},
	} {
		r, err := c.Eval(img, time.Time{})
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		if name := reflect.TypeOf(r.Reply).Elem().Name(); replyTypes[name] == nil {
			t.Errorf("the reply %s of %T is in no table", name, c)
		}
	}
}
