package config

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/streambus/streambus/raftmeta/image"
)

// Listener is one entry of listeners: a name, and where to listen.
type Listener struct{ Name, Host, Port string }

// Addr is where to listen, as package net has it.
func (l Listener) Addr() string { return net.JoinHostPort(l.Host, l.Port) }

func (l Listener) String() string { return l.Name + "://" + l.Addr() }

// Listeners are those that clients connect to: none on a node that is no broker.
func (c *Config) Listeners() ([]Listener, error) {
	if !c.IsBroker() {
		return nil, nil
	}
	listeners, err := c.clientListeners("listeners")
	if err == nil && len(listeners) == 0 {
		err = fmt.Errorf("listeners=%s has no listener for clients", c.Get("listeners"))
	}
	return listeners, err
}

func (c *Config) clientListeners(key string) ([]Listener, error) {
	all, err := parseListeners(c.Get(key))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	var clients []Listener
	for _, l := range all {
		if c.isForControllers(l) {
			continue
		}
		if err := c.plaintext(key, l); err != nil {
			return nil, err
		}
		clients = append(clients, l)
	}
	return clients, nil
}

// plaintext refuses a listener of another protocol.
func (c *Config) plaintext(key string, l Listener) error {
	if p := c.securityProtocol(l); p != "PLAINTEXT" {
		return fmt.Errorf("%s: %s is a listener of the protocol %s, and only PLAINTEXT is served; give its name a protocol in listener.security.protocol.map if that is what it is", key, l, p)
	}
	return nil
}

// securityProtocol is what listener.security.protocol.map says, or the name. As
// in Apache Kafka listeners for controllers are PLAINTEXT where nobody has set
// the map.
func (c *Config) securityProtocol(l Listener) string {
	for _, pair := range image.Items(c.Get("listener.security.protocol.map")) {
		if n, protocol, _ := strings.Cut(pair, ":"); n == l.Name {
			return protocol
		}
	}
	if _, set := c.values["listener.security.protocol.map"]; !set && c.isForControllers(l) {
		return "PLAINTEXT"
	}
	return l.Name
}

// parseListeners reads Kafka's NAME://host:port,... form. An empty host means
// all interfaces.
func parseListeners(list string) ([]Listener, error) {
	var ls []Listener
	for _, entry := range image.Items(list) {
		name, addr, ok := strings.Cut(entry, "://")
		host, port, err := net.SplitHostPort(addr)
		if !ok || err != nil || name == "" {
			return nil, fmt.Errorf("%q is not of the form NAME://host:port", entry)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("%q: the port must be a number up to 65535", entry)
		}
		if names(ls, name) {
			return nil, fmt.Errorf("%q: the listener name %s is given twice", entry, name)
		}
		ls = append(ls, Listener{name, host, port})
	}
	return ls, nil
}

func listenerList(v string) error {
	_, err := parseListeners(v)
	return err
}

// advertised are the listeners that clients are told of, as they were configured.
func (c *Config) advertised() ([]Listener, error) {
	if c.Get("advertised.listeners") != "" {
		return c.clientListeners("advertised.listeners")
	}
	return c.Listeners()
}

// InterBrokerListener is the name of the listener by which nodes reach brokers:
// inter.broker.listener.name or, as in Apache Kafka, the one that has the name of
// security.inter.broker.protocol. Where there is none of that name Kafka does not
// start; here it is the first, since most nodes have one, and call it as they like.
func (c *Config) InterBrokerListener() string {
	if name := c.Get("inter.broker.listener.name"); name != "" {
		return name
	}
	protocol := c.Get("security.inter.broker.protocol")
	advertised, err := c.advertised()
	if err != nil || len(advertised) == 0 || names(advertised, protocol) {
		return protocol
	}
	return advertised[0].Name
}

func names(ls []Listener, name string) bool {
	return slices.ContainsFunc(ls, func(l Listener) bool { return l.Name == name })
}

// validateInterBroker refuses a listener for nodes that this broker does not
// advertise. A node that is no broker may name one it does not have: it is what
// brokers are reached by from there.
func (c *Config) validateInterBroker() error {
	name := c.Get("inter.broker.listener.name")
	if name == "" {
		return nil
	}
	if _, set := c.values["security.inter.broker.protocol"]; set {
		return fmt.Errorf("inter.broker.listener.name=%s and security.inter.broker.protocol are both set: leave one of them out", name)
	}
	if c.isForControllers(Listener{Name: name}) {
		return fmt.Errorf("inter.broker.listener.name=%s is a listener for controllers (controller.listener.names), and brokers are to be reached by it: name one for clients", name)
	}
	if !c.IsBroker() {
		return nil
	}
	advertised, err := c.advertised()
	if err != nil || names(advertised, name) {
		return err
	}
	return fmt.Errorf("inter.broker.listener.name=%s is no advertised listener, and other nodes are to reach this one by it: add %s://host:port to listeners and advertised.listeners, or name one of %v", name, name, advertised)
}

// Endpoints is what each listener advertises, given where it really listens.
func (c *Config) Endpoints(bound []Listener) ([]image.Endpoint, error) {
	advertised := bound
	if c.Get("advertised.listeners") != "" {
		var err error
		if advertised, err = c.advertised(); err != nil {
			return nil, err
		}
	}
	var es []image.Endpoint
	for _, a := range advertised {
		if !names(bound, a.Name) {
			return nil, fmt.Errorf("advertised.listeners names %s, which is not in listeners", a.Name)
		}
		if ip := net.ParseIP(a.Host); a.Host == "" || ip != nil && ip.IsUnspecified() {
			return nil, fmt.Errorf("%s cannot be advertised: clients cannot connect to it; set advertised.listeners to a name or address they reach this host by", a)
		}
		port, err := strconv.ParseUint(a.Port, 10, 16)
		if err != nil {
			return nil, err
		}
		es = append(es, image.Endpoint{Name: a.Name, Host: a.Host, Port: uint16(port)})
	}
	return es, nil
}
