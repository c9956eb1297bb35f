package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// with is a configuration of key=value lines.
func with(t *testing.T, lines string) *Config {
	t.Helper()
	c := New()
	for _, line := range strings.Fields(lines) {
		key, text, _ := strings.Cut(line, "=")
		if err := c.Set(key, text, Flag, "--set"); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// What each node of a cluster is told, and what it makes of it: its listeners for
// clients, what of them is advertised, its listener for controllers, or why it
// does not start.
func TestRoles(t *testing.T) {
	const (
		three    = "controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093 "
		combined = "listeners=PLAINTEXT://h:9092,CONTROLLER://:9093 "
	)
	for _, c := range []struct{ settings, want string }{
		// A node alone.
		{"", "[PLAINTEXT://127.0.0.1:9092] [{PLAINTEXT 127.0.0.1 9092}] none"},
		{combined, "[PLAINTEXT://h:9092] [{PLAINTEXT h 9092}] CONTROLLER://:9093"},
		{"listeners=CONTROLLER://:9093", "listeners=CONTROLLER://:9093 has no listener for clients"},
		{"process.roles=controller listeners=CONTROLLER://:9093", "[] [] CONTROLLER://:9093"},

		// Both roles in a quorum.
		{three + combined, "[PLAINTEXT://h:9092] [{PLAINTEXT h 9092}] CONTROLLER://:9093"},
		{three + combined + "node.id=3", "[PLAINTEXT://h:9092] [{PLAINTEXT h 9092}] CONTROLLER://:9093"},
		{three + combined + "advertised.listeners=PLAINTEXT://x:1,CONTROLLER://x:2", "[PLAINTEXT://h:9092] [{PLAINTEXT x 1}] CONTROLLER://:9093"},
		{three + combined + "node.id=4", "controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093 does not have node 4, and process.roles says that this node is a controller: add 4@host:port to it on every node, or set process.roles=broker"},
		{three, "listeners=PLAINTEXT://127.0.0.1:9092 has no listener for controllers, and this node is one: add CONTROLLER://host:port, or name one of them in controller.listener.names"},
		{"controller.quorum.bootstrap.servers=a:9093", "listeners=PLAINTEXT://127.0.0.1:9092 has no listener for controllers, and this node is one: add CONTROLLER://host:port, or name one of them in controller.listener.names"},
		{"controller.quorum.bootstrap.servers=a:9093 " + combined, "[PLAINTEXT://h:9092] [{PLAINTEXT h 9092}] CONTROLLER://:9093"},
		{three + "controller.listener.names=X listeners=PLAINTEXT://h:1,X://:2", "[PLAINTEXT://h:1] [{PLAINTEXT h 1}] X://:2"},
		{three + "controller.listener.names=X,Y listeners=PLAINTEXT://h:1,X://:2,Y://:3", "listeners has X://:2 and Y://:3, both for controllers (controller.listener.names): one is served"},
		{three + "controller.listener.names=X,Y listeners=PLAINTEXT://h:1,X://:2", "controller.listener.names=X,Y has more than X, which is the one in listeners: each must be there"},
		{three + combined + "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:SSL", "listeners: CONTROLLER://:9093 is a listener of the protocol SSL, and only PLAINTEXT is served; give its name a protocol in listener.security.protocol.map if that is what it is"},
		{three + combined + "listener.security.protocol.map=PLAINTEXT:PLAINTEXT", "listeners: CONTROLLER://:9093 is a listener of the protocol CONTROLLER, and only PLAINTEXT is served; give its name a protocol in listener.security.protocol.map if that is what it is"},

		// A controller that is no broker.
		{three + "process.roles=controller listeners=CONTROLLER://:9093", "[] [] CONTROLLER://:9093"},
		{three + "process.roles=controller listeners=CONTROLLER://:9093 advertised.listeners=CONTROLLER://x:1", "[] [] CONTROLLER://:9093"},
		{three + "process.roles=controller listeners=CONTROLLER://:9093 advertised.listeners=PLAINTEXT://x:1", "advertised.listeners names PLAINTEXT, which is not in listeners"},
		{three + "process.roles=controller " + combined, "listeners has PLAINTEXT://h:9092, which is not in controller.listener.names=CONTROLLER, and process.roles=controller says that this node serves no clients: leave it out"},
		{three + "process.roles=controller listeners=", "listeners= has no listener for controllers, and this node is one: add CONTROLLER://host:port, or name one of them in controller.listener.names"},

		// A broker that is no controller.
		{three + "process.roles=broker node.id=4", "[PLAINTEXT://127.0.0.1:9092] [{PLAINTEXT 127.0.0.1 9092}] none"},
		{"process.roles=broker controller.quorum.bootstrap.servers=a:9093", "[PLAINTEXT://127.0.0.1:9092] [{PLAINTEXT 127.0.0.1 9092}] none"},
		{"process.roles=broker", "process.roles=broker, and nothing says where the controllers are: set controller.quorum.voters or controller.quorum.bootstrap.servers"},
		{three + "process.roles=broker", "controller.quorum.voters=1@a:9093,2@b:9093,3@c:9093 has node 1, and process.roles=broker says that this node is no controller: set process.roles=broker,controller, or give this node another node.id"},
		{three + "process.roles=broker node.id=4 " + combined, "listeners has CONTROLLER://:9093, which is for controllers (controller.listener.names), and process.roles=broker says that this node is none: leave it out"},
	} {
		cfg := with(t, c.settings)
		got := func() string {
			if err := cfg.Validate(); err != nil {
				return err.Error()
			}
			clients, err := cfg.Listeners()
			if err != nil {
				return err.Error()
			}
			var advertised []image.Endpoint
			if advertised, err = cfg.Endpoints(clients); err != nil {
				return err.Error()
			}
			controller := "none"
			l, ok, err := cfg.ControllerListener()
			if err != nil {
				return err.Error()
			}
			if ok {
				controller = l.String()
			}
			return fmt.Sprintf("%v %v %s", clients, advertised, controller)
		}()
		if got != c.want {
			t.Errorf("%s\n\t%s\n\twant %s", c.settings, got, c.want)
		}
	}
}

// By which listener nodes reach brokers, or why a node does not start.
func TestInterBrokerListener(t *testing.T) {
	const two = "listener.security.protocol.map=IN:PLAINTEXT,OUT:PLAINTEXT,CONTROLLER:PLAINTEXT listeners=OUT://h:1,IN://h:2 "
	for _, c := range []struct{ settings, want string }{
		{"", "PLAINTEXT"},
		{"inter.broker.listener.name=PLAINTEXT", "PLAINTEXT"},
		{"security.inter.broker.protocol=PLAINTEXT", "PLAINTEXT"},
		{"inter.broker.listener.name=IN", "inter.broker.listener.name=IN is no advertised listener, and other nodes are to reach this one by it: add IN://host:port to listeners and advertised.listeners, or name one of [PLAINTEXT://127.0.0.1:9092]"},
		{two, "OUT"},
		{two + "inter.broker.listener.name=IN", "IN"},
		{two + "inter.broker.listener.name=in", "inter.broker.listener.name=in is no advertised listener, and other nodes are to reach this one by it: add in://host:port to listeners and advertised.listeners, or name one of [OUT://h:1 IN://h:2]"},
		{two + "advertised.listeners=IN://h:2", "IN"},
		{two + "advertised.listeners=OUT://h:1 inter.broker.listener.name=IN", "inter.broker.listener.name=IN is no advertised listener, and other nodes are to reach this one by it: add IN://host:port to listeners and advertised.listeners, or name one of [OUT://h:1]"},
		{two + "advertised.listeners=SSL://h:1 inter.broker.listener.name=IN", "advertised.listeners: SSL://h:1 is a listener of the protocol SSL, and only PLAINTEXT is served; give its name a protocol in listener.security.protocol.map if that is what it is"},
		{"listener.security.protocol.map=OUT:PLAINTEXT,PLAINTEXT:PLAINTEXT listeners=OUT://h:1,PLAINTEXT://h:2", "PLAINTEXT"},
		{two + "inter.broker.listener.name=IN security.inter.broker.protocol=PLAINTEXT", "inter.broker.listener.name=IN and security.inter.broker.protocol are both set: leave one of them out"},
		{two + "inter.broker.listener.name=CONTROLLER", "inter.broker.listener.name=CONTROLLER is a listener for controllers (controller.listener.names), and brokers are to be reached by it: name one for clients"},
		{"process.roles=controller listeners=CONTROLLER://:9093 inter.broker.listener.name=IN", "IN"},
		{"process.roles=controller listeners=CONTROLLER://:9093", "PLAINTEXT"},
	} {
		cfg := with(t, c.settings)
		got := cfg.InterBrokerListener()
		if err := cfg.Validate(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s\n\t%s\n\twant %s", c.settings, got, c.want)
		}
	}
}

func TestQuorum(t *testing.T) {
	c := with(t, "process.roles=controller controller.quorum.voters=1@a:9093,02@[::1]:9094 controller.quorum.bootstrap.servers=a:1,b:2 controller.listener.names=X,Y")
	if got := c.QuorumVoters(); !reflect.DeepEqual(got, []Voter{{1, "a", 9093}, {2, "::1", 9094}}) {
		t.Errorf("voters %v", got)
	}
	if got := c.QuorumVoters()[1].Addr(); got != "[::1]:9094" {
		t.Errorf("the address of a voter is %s", got)
	}
	if got := fmt.Sprintln(c.BootstrapServers(), c.ControllerListenerName(), c.IsBroker(), c.IsController()); got != "[a:1 b:2] X false true\n" {
		t.Errorf("it has %s", got)
	}
	if got := New(); len(got.QuorumVoters()) != 0 || !got.IsBroker() || !got.IsController() || got.ControllerListenerName() != "CONTROLLER" {
		t.Errorf("a node that nobody configured is one of %v, broker %v, controller %v", got.QuorumVoters(), got.IsBroker(), got.IsController())
	}
}

// What acts is not said to make no difference, and a session that one lost
// heartbeat ends is warned of.
func TestHeartbeatWarnings(t *testing.T) {
	for settings, want := range map[string]string{
		"controller.quorum.voters=1@a:1 controlled.shutdown.enable=false":               "[]",
		"broker.heartbeat.interval.ms=1000 broker.session.timeout.ms=2000":              "[]",
		"broker.heartbeat.interval.ms=1001 broker.session.timeout.ms=2000":              "[broker.session.timeout.ms=2000 is less than twice broker.heartbeat.interval.ms=1001: a broker is fenced when one heartbeat is late]",
		"inter.broker.listener.name=PLAINTEXT security.inter.broker.protocol=PLAINTEXT": "[]",
		"num.network.threads=2": "[--set: num.network.threads=2 is accepted and makes no difference here]",
	} {
		if got := fmt.Sprint(with(t, settings).Warnings()); got != want {
			t.Errorf("%s: %s", settings, got)
		}
	}
}

func TestBalance(t *testing.T) {
	for want, settings := range map[time.Duration][]string{
		5 * time.Minute: nil,
		7 * time.Second: {"leader.imbalance.check.interval.seconds=7"},
		0:               {"leader.imbalance.check.interval.seconds=7", "auto.leader.rebalance.enable=false"},
	} {
		c := New()
		for _, s := range settings {
			key, value, _ := strings.Cut(s, "=")
			if err := c.Set(key, value, Flag, "test"); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.Balance(); got != want {
			t.Errorf("%v: %s, want %s", settings, got, want)
		}
	}
	c := New()
	if err := c.Set("leader.imbalance.check.interval.seconds", maxLong, Flag, "test"); err != nil || c.Balance() < 24*time.Hour {
		t.Errorf("%v: the longest is %s", err, c.Balance())
	}
}
