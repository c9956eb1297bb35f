package broker

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Config is what a broker is started with. Settings hold Kafka's
// server.properties keys; NewConfig fills in every default.
type Config struct {
	Version     string
	DataDir     string
	AdminListen string // host:port of the admin HTTP listener
	settings    map[string]string
}

// setting is one server.properties key: what it is without being set, and what
// it may be.
type setting struct {
	key, value string
	check      func(string) error
}

// settingTable has every key that is read. Keys that topics inherit are named
// by the topic table of package image.
var settingTable = []setting{
	{"node.id", "1", integer(0, 1<<31-1)},
	{"listeners", "PLAINTEXT://127.0.0.1:9092", listenerList},
	{"advertised.listeners", "", optional(listenerList)},
	{"num.partitions", "1", integer(1, 10_000)},
	{"default.replication.factor", "1", integer(1, 1)},
	{"auto.create.topics.enable", "true", boolean},
	{"socket.request.max.bytes", "104857600", integer(1024, 1<<31-1)},
	{"connections.max.idle.ms", "600000", integer(1, 1<<62)},
	{"fetch.max.bytes", "57671680", integer(1024, 1<<31-1)},
	{"producer.id.expiration.ms", "86400000", integer(1, 1<<62)},
}

// NewConfig is the configuration of a broker that nobody configured.
func NewConfig() Config {
	return Config{Version: "dev", DataDir: "data", AdminListen: "127.0.0.1:9644", settings: map[string]string{}}
}

// Set gives a setting another value than its default.
func (c *Config) Set(key, value string) error {
	for _, s := range settingTable {
		if s.key == key {
			if err := s.check(value); err != nil {
				return fmt.Errorf("%s=%s: %w", key, value, err)
			}
			c.settings[key] = value
			return nil
		}
	}
	if topicKey, ok := image.TopicKeyOfBrokerKey(key); ok {
		if err := image.ValidateTopicConfig(map[string]string{topicKey: value}); err != nil {
			return fmt.Errorf("%s=%s: %w", key, value, err)
		}
		c.settings[key] = value
		return nil
	}
	return fmt.Errorf("%s: not a setting of this broker; it has: %s", key, strings.Join(settingKeys(), ", "))
}

func settingKeys() []string {
	keys := image.BrokerKeys()
	for _, s := range settingTable {
		keys = append(keys, s.key)
	}
	slices.Sort(keys)
	return keys
}

func (c *Config) get(key string) string {
	if v, ok := c.settings[key]; ok {
		return v
	}
	i := slices.IndexFunc(settingTable, func(s setting) bool { return s.key == key })
	return settingTable[i].value
}

// number reads an integer setting. Set and the table's defaults have passed
// its check.
func (c *Config) number(key string) int64 {
	n, err := strconv.ParseInt(c.get(key), 10, 64)
	if err != nil {
		panic("broker: setting " + key + " is not a number: " + err.Error())
	}
	return n
}

func (c *Config) millis(key string) time.Duration {
	// Longer than a hundred years is for ever, and does not overflow.
	return time.Duration(min(c.number(key), 100*365*24*3600*1000)) * time.Millisecond
}

// topicDefaults are the broker's values behind topic keys, by topic key.
func (c *Config) topicDefaults() map[string]string {
	d := map[string]string{}
	for key, value := range c.settings {
		if topicKey, ok := image.TopicKeyOfBrokerKey(key); ok {
			d[topicKey] = value
		}
	}
	return d
}

// NodeID is node.id.
func (c *Config) NodeID() int32 { return int32(c.number("node.id")) }

// listenAddr is one entry of listeners: a name, and where to listen.
type listenAddr struct{ name, host, port string }

func (l listenAddr) String() string { return l.name + "://" + net.JoinHostPort(l.host, l.port) }

// parseListeners reads Kafka's NAME://host:port,... form. An empty host means
// all interfaces.
func parseListeners(list string) ([]listenAddr, error) {
	var ls []listenAddr
	for entry := range strings.SplitSeq(list, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(entry), "://")
		host, port, err := net.SplitHostPort(addr)
		if !ok || err != nil || name == "" {
			return nil, fmt.Errorf("%q is not of the form NAME://host:port", entry)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("%q: the port must be a number up to 65535", entry)
		}
		if name != "PLAINTEXT" {
			return nil, fmt.Errorf("%q: only PLAINTEXT listeners are served", entry)
		}
		if slices.ContainsFunc(ls, func(l listenAddr) bool { return l.name == name }) {
			return nil, fmt.Errorf("%q: the listener name %s is given twice", entry, name)
		}
		ls = append(ls, listenAddr{name, host, port})
	}
	return ls, nil
}

// endpoints is what each listener advertises, given where it really listens.
func (c *Config) endpoints(bound []listenAddr) ([]image.Endpoint, error) {
	advertised := bound
	if list := c.get("advertised.listeners"); list != "" {
		var err error
		if advertised, err = parseListeners(list); err != nil {
			return nil, fmt.Errorf("advertised.listeners: %w", err)
		}
	}
	var es []image.Endpoint
	for _, a := range advertised {
		if !slices.ContainsFunc(bound, func(b listenAddr) bool { return b.name == a.name }) {
			return nil, fmt.Errorf("advertised.listeners names %s, which is not in listeners", a.name)
		}
		if ip := net.ParseIP(a.host); a.host == "" || ip != nil && ip.IsUnspecified() {
			return nil, fmt.Errorf("%s cannot be advertised: clients cannot connect to it; set advertised.listeners to a name or address they reach this host by", a)
		}
		port, err := strconv.ParseUint(a.port, 10, 16)
		if err != nil {
			return nil, err
		}
		es = append(es, image.Endpoint{Name: a.name, Host: a.host, Port: uint16(port)})
	}
	return es, nil
}

func integer(low, high int64) func(string) error {
	return func(v string) error {
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < low || n > high {
			return fmt.Errorf("must be a whole number from %d to %d", low, high)
		}
		return nil
	}
}

func boolean(v string) error {
	if v != "true" && v != "false" {
		return fmt.Errorf("must be true or false")
	}
	return nil
}

func listenerList(v string) error {
	_, err := parseListeners(v)
	return err
}

func optional(check func(string) error) func(string) error {
	return func(v string) error {
		if v == "" {
			return nil
		}
		return check(v)
	}
}
