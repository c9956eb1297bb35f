package config

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/streambus/streambus/raftmeta/image"
)

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "server.properties")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPrecedence(t *testing.T) {
	c := New()
	// In an order that is not that of precedence.
	for _, err := range []error{
		c.Set("num.partitions", "4", Flag, "--set"),
		c.ReadEnvironment([]string{"PATH=/bin", "KAFKA_NUM_PARTITIONS=3", "KAFKA_CFG_LOG_RETENTION_HOURS=2", "KAFKA_NODE_ID=7"}),
		c.ReadFile(file(t, "num.partitions=2\nlog.retention.hours = 1\nlog.segment.bytes:2000000\n# a comment\nnode.id=6\n")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	for _, e := range c.Entries() {
		if e.Origin != Default {
			got[e.Key.Name] = e.Value + " " + e.Origin.String()
		}
	}
	want := map[string]string{"num.partitions": "4 flag", "log.retention.hours": "2 environment", "node.id": "7 environment", "log.segment.bytes": "2000000 file"}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("in force: %v, want %v", got, want)
	}
	if c.NodeID() != 7 || len(c.Warnings()) > 0 {
		t.Fatalf("node %d, warnings %q", c.NodeID(), c.Warnings())
	}
}

func TestWarnings(t *testing.T) {
	c := New()
	name := file(t, "log.retention.hour=1\nzookeeper.connect=localhost\nnum.io.threads=16\nssl.keystore.location=/x\nwhatever=1\nlog.preallocate=true\n")
	if err := c.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	if err := c.ReadEnvironment([]string{"KAFKA_HEAP_OPTS=-Xmx1g", "KAFKA_LOG4J_OPTS=x", "KAFKA_VERSION=4.4.0"}); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(c.Warnings(), "\n")
	for _, want := range []string{
		"log.retention.hour is not a setting of this broker and is ignored; did you mean log.retention.hours?",
		"zookeeper.connect is ignored: there is no ZooKeeper here",
		"num.io.threads=16 is accepted and makes no difference",
		"ssl.keystore.location is ignored: listeners are plaintext only",
		"whatever is not a setting of this broker and is ignored\n",
		"log.preallocate=true is accepted and makes no difference",
		"KAFKA_HEAP_OPTS is ignored: there is no Java machine here",
		"KAFKA_LOG4J_OPTS is ignored",
	} {
		if !strings.Contains(got+"\n", want) {
			t.Errorf("no warning %q in\n%s", want, got)
		}
	}
	if len(c.Warnings()) != 8 {
		t.Errorf("warnings\n%s", got)
	}
}

func TestWrongValues(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"num.partitions", "0", "invalid value 0 for configuration num.partitions: must be at least 1"},
		{"num.partitions", "", "invalid value  for configuration num.partitions: not a number"},
		{"auto.create.topics.enable", "yes", "must be true or false"},
		{"log.segment.bytes", "1", "must be at least 1048576"},
		{"log.dirs", "/a,/b", "one directory is served, not 2"},
		{"process.roles", "", "a node is broker, controller, or both: broker,controller"},
		{"process.roles", "broker,zookeeper", "a node is broker, controller, or both"},
		{"process.roles", "broker,broker", "a node is broker, controller, or both"},
		{"controller.listener.names", "", "a name is needed"},
		{"controller.quorum.voters", "1", `invalid value 1 for configuration controller.quorum.voters: "1" is not of the form id@host:port`},
		{"controller.quorum.voters", "1@h:1,x@h:2", `"x@h:2": the id of a node must be a number from 0 to 2147483647`},
		{"controller.quorum.voters", "-1@h:1", "must be a number from 0"},
		{"controller.quorum.voters", "2147483648@h:1", "must be a number from 0"},
		{"controller.quorum.voters", "1@h", `"1@h": "h" is not of the form host:port`},
		{"controller.quorum.voters", "1@:9093", `":9093" is not of the form host:port`},
		{"controller.quorum.voters", "1@h:0", `"1@h:0": the port must be a number from 1 to 65535`},
		{"controller.quorum.voters", "1@h:65536", "the port must be a number from 1 to 65535"},
		{"controller.quorum.voters", "1@0.0.0.0:9093", "0.0.0.0 is no address that others can connect to"},
		{"controller.quorum.voters", "1@a:1,2@b:1,1@c:1", `"1@c:1": node 1 is given twice`},
		{"controller.quorum.voters", "1@a:1,2@a:1", `"2@a:1": node 1 has the same address`},
		{"controller.quorum.bootstrap.servers", "h:1,h", `"h": "h" is not of the form host:port`},
		{"controller.quorum.bootstrap.servers", "h:x", "the port must be a number from 1 to 65535"},
		{"broker.heartbeat.interval.ms", "0", "must be at least 1"},
		{"authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "authorizer.class.name"},
		{"listeners", "9092", "NAME://host:port"},
		{"log.retention.hours", "1.5", "not a number"},
	} {
		err := New().Set(c.key, c.value, Flag, "--set")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "--set: ") {
			t.Errorf("%s=%s: %v, want %q", c.key, c.value, err, c.want)
		}
	}
	if err := New().ReadFile("/nowhere/server.properties"); err == nil || !strings.Contains(err.Error(), "/nowhere/server.properties") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// The file that Kafka ships for a single node starts a broker.
func TestKafkasOwnFile(t *testing.T) {
	c := New()
	err := c.ReadFile(file(t, `
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Warnings() {
		if strings.Contains(w, "not a setting") {
			t.Error(w)
		}
	}
	ls, err := c.Listeners()
	if err != nil || len(ls) != 1 || ls[0] != (Listener{"PLAINTEXT", "", "9092"}) {
		t.Fatalf("listeners %v, %v", ls, err)
	}
	es, err := c.Endpoints(ls)
	if err != nil || len(es) != 1 || es[0] != (image.Endpoint{Name: "PLAINTEXT", Host: "localhost", Port: 9092}) {
		t.Fatalf("advertised %v, %v", es, err)
	}
	if c.DataDir() != "/tmp/kraft-combined-logs" {
		t.Fatalf("data in %s", c.DataDir())
	}
}

func TestListeners(t *testing.T) {
	for _, c := range []struct{ listeners, advertised, protocols, want string }{
		{"PLAINTEXT://h:1", "", "", "[{PLAINTEXT h 1}]"},
		{"PLAINTEXT://:1", "", "", "cannot be advertised"},
		{"PLAINTEXT://0.0.0.0:1", "PLAINTEXT://[::]:1", "", "cannot be advertised"},
		{"PLAINTEXT://:1", "PLAINTEXT://h:2", "", "[{PLAINTEXT h 2}]"},
		{"IN://:1,OUT://:2", "IN://a:1,OUT://b:3", "IN:PLAINTEXT,OUT:PLAINTEXT", "[{IN a 1} {OUT b 3}]"},
		{"IN://a:1", "", "", "only PLAINTEXT is served"},
		{"SSL://a:1", "", "", "only PLAINTEXT is served"},
		{"PLAINTEXT://a:1", "OTHER://a:1", "OTHER:PLAINTEXT", "not in listeners"},
		{"C://:1", "", "C:PLAINTEXT", "cannot be advertised"},
	} {
		cfg := New()
		for key, text := range map[string]string{"listeners": c.listeners, "advertised.listeners": c.advertised, "listener.security.protocol.map": c.protocols} {
			if err := cfg.Set(key, text, Flag, "--set"); err != nil {
				t.Fatal(err)
			}
		}
		ls, err := cfg.Listeners()
		var es []image.Endpoint
		if err == nil {
			es, err = cfg.Endpoints(ls)
		}
		got := fmt.Sprint(es)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestConnectionOverrides(t *testing.T) {
	c := New()
	for text, want := range map[string]string{
		"10.0.0.1:5, ::1:2,[2001:db8::1]:0,::ffff:10.0.0.2:7": "map[::1:2 10.0.0.1:5 10.0.0.2:7 2001:db8::1:0]",
		"":           "map[]",
		"10.0.0.1":   "address:count",
		"host-a:5":   "names are not looked up",
		"10.0.0.1:x": "from 0 on",
		":5":         "not an IP address",
	} {
		err := c.Set("max.connections.per.ip.overrides", text, Flag, "--set")
		got := fmt.Sprint(c.PerIPOverrides())
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestTable(t *testing.T) {
	for i := range keys {
		k := &keys[i]
		if i > 0 && keys[i-1].Name >= k.Name {
			t.Errorf("%s is there twice, or out of order", k.Name)
		}
		if k.Doc == "" {
			t.Errorf("%s has no documentation", k.Name)
		}
		if k.Default == "" {
			continue
		}
		if err := k.Check(k.Default); err != nil {
			t.Errorf("the default: %v", err)
		}
	}
}

// metadata is an image in which broker 1 and the cluster have settings.
func metadata(settings map[int32][]image.Setting) *image.Image {
	var records []image.Record
	for node, s := range settings {
		records = append(records, &image.BrokerConfigsRecord{Node: node, Configs: s})
	}
	records = append(records, &image.TopicRecord{Name: "t", ID: image.UUID{1}, Configs: []image.Setting{{Key: "retention.ms", Value: "5"}}})
	img, _ := image.Apply(image.Empty(), 1, records)
	return img
}

func TestTopicValues(t *testing.T) {
	c := New()
	for key, text := range map[string]string{"log.retention.hours": "2", "log.retention.minutes": "30"} {
		if err := c.Set(key, text, File, "file"); err != nil {
			t.Fatal(err)
		}
	}
	plain := metadata(nil)
	if got := c.TopicDefaults(plain); !reflect.DeepEqual(got, map[string]string{"retention.ms": "1800000"}) {
		t.Fatalf("defaults %v", got)
	}
	dynamic := metadata(map[int32][]image.Setting{
		image.EveryBroker: {{Key: "log.retention.ms", Value: "9"}, {Key: "log.segment.bytes", Value: "2000000"}},
		1:                 {{Key: "log.retention.ms", Value: "8"}},
		2:                 {{Key: "log.retention.ms", Value: "7"}},
	})
	if got := c.TopicDefaults(dynamic); !reflect.DeepEqual(got, map[string]string{"retention.ms": "8", "segment.bytes": "2000000"}) {
		t.Fatalf("defaults %v", got)
	}
	topic, _ := dynamic.Topic("t")
	key, _ := image.FindTopicKey("retention.ms")
	want := []Value{
		{Name: "retention.ms", Text: "5", Source: DynamicTopic},
		{Name: "log.retention.ms", Text: "8", Source: DynamicBroker},
		{Name: "log.retention.ms", Text: "9", Source: DynamicCluster},
		{Name: "log.retention.minutes", Text: "30", Source: Static},
		{Name: "log.retention.hours", Text: "2", Source: Static},
		{Name: "log.retention.hours", Text: "168", Source: BuiltIn},
	}
	if got := c.TopicValues(dynamic, topic, key); !reflect.DeepEqual(got, want) {
		t.Fatalf("values\n%v, want\n%v", got, want)
	}
}

// What is only set while brokers run has no value before, whatever a file says.
func TestDynamicOnly(t *testing.T) {
	const name = "leader.replication.throttled.rate"
	c := New()
	if err := c.Set(name, "5", File, "file"); err != nil {
		t.Fatal(err)
	}
	if w := strings.Join(c.Warnings(), "\n"); !strings.Contains(w, name+"=5 is accepted and makes no difference here") {
		t.Errorf("warnings: %s", w)
	}
	all := map[int32][]image.Setting{image.EveryBroker: {{Key: name, Value: "9"}}}
	for want, settings := range map[int64]map[int32][]image.Setting{
		math.MaxInt64: {2: {{Key: name, Value: "7"}}},
		9:             all,
		8:             {image.EveryBroker: all[image.EveryBroker], 1: {{Key: name, Value: "8"}}},
	} {
		img := metadata(settings)
		values := c.Values(img, 1, name)
		if got := c.Dynamic(img, name); got != want || (len(values) == 0) != (want == math.MaxInt64) {
			t.Errorf("%d is in force, want %d; it is shown as %v", got, want, values)
		}
	}
}

// Whatever a file holds, it is read or refused.
func FuzzProperties(f *testing.F) {
	f.Add("num.partitions=2\nlog.dirs:/x\n\\u0041=b\n!c")
	f.Add("a=${b}\nb=${a}\nlisteners=PLAINTEXT://[::1]:99999")
	f.Fuzz(func(t *testing.T, text string) {
		c := New()
		if c.ReadFile(file(t, text)) != nil {
			return
		}
		c.Warnings()
		c.DataDir()
		c.NodeID()
		if ls, err := c.Listeners(); err == nil {
			c.Endpoints(ls)
		}
		if c.Validate() == nil && c.IsController() && !c.isAlone() {
			if _, ok, err := c.ControllerListener(); !ok || err != nil {
				t.Fatalf("a controller of a quorum without a listener: %v", err)
			}
		}
		c.ControllerListenerName()
		c.InterBrokerListener()
		for _, e := range c.Entries() {
			if e.Value != "" || e.Key.Default != "" {
				if err := e.Key.Check(e.Value); err != nil {
					t.Fatalf("in force: %v", err)
				}
			}
		}
	})
}
