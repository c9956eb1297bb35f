package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/streambus/streambus/raftmeta/image"
)

// Commands travel between nodes, and replies are kept in the log, as JSON under the name of their type. A field that the
// reader does not know is refused: it could say what must not happen. So is a name.
var (
	commandTypes = types(
		&FormCluster{}, &PutVoter{}, &RemoveVoter{}, &UpdateFeatures{},
		&RegisterBroker{}, &FenceBroker{}, &UnfenceBroker{}, &BeginControlledShutdown{}, &UnregisterBroker{},
		&AlterPartition{}, &LoseReplicas{}, &ElectLeaders{}, &AllocateProducerIDs{},
		&CreateTopic{}, &DeleteTopic{}, &CreatePartitions{}, &AlterConfigs{}, &AlterPartitionReassignments{})
	replyTypes = types(
		&BrokerProgress{}, &AlteredPartitions{}, &ElectedLeaders{}, &ProducerIDBlock{}, &CreatedTopic{}, &DeletedTopic{},
		&AlteredReassignments{})
)

func types(examples ...any) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for _, x := range examples {
		t := reflect.TypeOf(x).Elem()
		m[t.Name()] = t
	}
	return m
}

type named struct {
	Type  string
	Value json.RawMessage
}

type request struct {
	Operation image.Operation
	Actor     string
	Cause     string
	Awaited   bool
	Command   json.RawMessage
}

// Encode is a request's form on the wire.
func (r *Request) Encode() ([]byte, error) {
	command, err := encode(r.Command)
	if err != nil {
		return nil, err
	}
	return json.Marshal(request{r.Operation, r.Actor, r.Cause, r.Awaited, command})
}

// DecodeRequest reads what Encode wrote.
func DecodeRequest(b []byte) (Request, error) {
	var in request
	if err := strict(b, &in); err != nil {
		return Request{}, fmt.Errorf("a request to the controller: %w", err)
	}
	if in.Operation.Node < 0 {
		return Request{}, fmt.Errorf("a request to the controller: %d is no node", in.Operation.Node)
	}
	c, err := decode(in.Command, commandTypes)
	if err != nil {
		return Request{}, fmt.Errorf("a request to the controller: %w", err)
	}
	return Request{in.Operation, in.Actor, in.Cause, in.Awaited, c.(Command)}, nil
}

// EncodeReply is a reply's form in the log and on the wire, nil for none.
func EncodeReply(reply any) ([]byte, error) {
	if reply == nil {
		return nil, nil
	}
	return encode(reply)
}

// DecodeReply reads what EncodeReply wrote.
func DecodeReply(b []byte) (any, error) {
	if len(b) == 0 {
		return nil, nil
	}
	reply, err := decode(b, replyTypes)
	if err != nil {
		return nil, fmt.Errorf("a reply of the controller: %w", err)
	}
	return reply, nil
}

func encode(x any) ([]byte, error) {
	value, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	name := reflect.TypeOf(x).Elem().Name()
	return fmt.Appendf(nil, `{"Type":%q,"Value":%s}`, name, value), nil // named, without looking through value once more
}

func decode(b []byte, known map[string]reflect.Type) (any, error) {
	var in named
	if err := strict(b, &in); err != nil {
		return nil, err
	}
	t, ok := known[in.Type]
	if !ok {
		return nil, fmt.Errorf("%q is unknown to this release", in.Type)
	}
	x := reflect.New(t).Interface()
	return x, strict(in.Value, x)
}

func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more behind the end")
	}
	return nil
}
