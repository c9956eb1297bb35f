package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Voter is one entry of controller.quorum.voters: a controller, and where its
// listener is.
type Voter struct {
	NodeID int32
	Host   string
	Port   uint16
}

// Addr is where to connect to, as package net has it.
func (v Voter) Addr() string { return net.JoinHostPort(v.Host, strconv.Itoa(int(v.Port))) }

// IsBroker tells whether this node keeps partitions and serves clients.
func (c *Config) IsBroker() bool { return c.hasRole("broker") }

// IsController tells whether this node is one of the quorum.
func (c *Config) IsController() bool { return c.hasRole("controller") }

func (c *Config) hasRole(role string) bool {
	return slices.Contains(image.Items(c.Get("process.roles")), role)
}

// QuorumVoters are the controllers that form a cluster, empty where nobody
// named them.
func (c *Config) QuorumVoters() []Voter {
	voters, err := parseVoters(c.Get("controller.quorum.voters"))
	if err != nil {
		panic("config: controller.quorum.voters was accepted: " + err.Error())
	}
	return voters
}

// BootstrapServers are host:port of controllers, some of which will know the
// others.
func (c *Config) BootstrapServers() []string {
	return image.Items(c.Get("controller.quorum.bootstrap.servers"))
}

// ControllerListenerName is the name of the listener by which controllers are
// reached: the first of controller.listener.names, as in Apache Kafka.
func (c *Config) ControllerListenerName() string {
	return image.Items(c.Get("controller.listener.names"))[0]
}

// ControllerListener is where this node is reached by the others as a
// controller. There is none on a node that is no controller, and need not be on
// one that is alone.
func (c *Config) ControllerListener() (Listener, bool, error) {
	names := image.Items(c.Get("controller.listener.names"))
	if !c.IsController() {
		return Listener{}, false, nil
	}
	all, err := parseListeners(c.Get("listeners"))
	if err != nil {
		return Listener{}, false, fmt.Errorf("listeners: %w", err)
	}
	ours := slices.DeleteFunc(all, func(l Listener) bool { return !slices.Contains(names, l.Name) })
	switch {
	case len(ours) == 0 && c.IsBroker() && c.isAlone():
		return Listener{}, false, nil
	case len(ours) == 0:
		return Listener{}, false, fmt.Errorf("listeners=%s has no listener for controllers, and this node is one: add %s://host:port, or name one of them in controller.listener.names",
			c.Get("listeners"), names[0])
	case len(ours) > 1:
		return Listener{}, false, fmt.Errorf("listeners has %s and %s, both for controllers (controller.listener.names): one is served", ours[0], ours[1])
	case len(names) > 1:
		return Listener{}, false, fmt.Errorf("controller.listener.names=%s has more than %s, which is the one in listeners: each must be there", c.Get("controller.listener.names"), ours[0].Name)
	}
	if err := c.plaintext("listeners", ours[0]); err != nil {
		return Listener{}, false, err
	}
	return ours[0], true, nil
}

// isAlone tells whether nobody has told this node of others.
func (c *Config) isAlone() bool { return len(c.QuorumVoters()) == 0 && len(c.BootstrapServers()) == 0 }

// Validate looks at settings that have to agree with each other. It asks for
// what Apache Kafka asks for, but that a node with both roles needs neither
// voters nor a listener for controllers while it is alone.
func (c *Config) Validate() error {
	node, voters := c.NodeID(), c.QuorumVoters()
	isVoter := slices.ContainsFunc(voters, func(v Voter) bool { return v.NodeID == node })
	switch {
	case c.IsController() && len(voters) > 0 && !isVoter:
		return fmt.Errorf("controller.quorum.voters=%s does not have node %d, and process.roles says that this node is a controller: add %d@host:port to it on every node, or set process.roles=broker",
			c.Get("controller.quorum.voters"), node, node)
	case !c.IsController() && isVoter:
		return fmt.Errorf("controller.quorum.voters=%s has node %d, and process.roles=broker says that this node is no controller: set process.roles=broker,controller, or give this node another node.id",
			c.Get("controller.quorum.voters"), node)
	case !c.IsController() && c.isAlone():
		return errors.New("process.roles=broker, and nothing says where the controllers are: set controller.quorum.voters or controller.quorum.bootstrap.servers")
	}
	if err := c.validateListeners(); err != nil {
		return err
	}
	if _, _, err := c.ControllerListener(); err != nil {
		return err
	}
	if _, err := c.Listeners(); err != nil {
		return err
	}
	return c.validateInterBroker()
}

// validateListeners refuses listeners of a role that this node does not have.
func (c *Config) validateListeners() error {
	all, err := parseListeners(c.Get("listeners"))
	if err != nil {
		return fmt.Errorf("listeners: %w", err)
	}
	for _, l := range all {
		switch {
		case c.isForControllers(l) && !c.IsController():
			return fmt.Errorf("listeners has %s, which is for controllers (controller.listener.names), and process.roles=broker says that this node is none: leave it out", l)
		case !c.isForControllers(l) && !c.IsBroker():
			return fmt.Errorf("listeners has %s, which is not in controller.listener.names=%s, and process.roles=controller says that this node serves no clients: leave it out", l, c.Get("controller.listener.names"))
		}
	}
	return nil
}

func (c *Config) isForControllers(l Listener) bool {
	return slices.Contains(image.Items(c.Get("controller.listener.names")), l.Name)
}

// Balance is how long partitions may be led by others than their first
// replicas, 0 for ever.
func (c *Config) Balance() time.Duration {
	if !c.Bool("auto.leader.rebalance.enable") {
		return 0
	}
	return image.Millis(min(c.Number("leader.imbalance.check.interval.seconds"), 1<<31-1) * 1000)
}

// shortSession says that one lost heartbeat fences a broker, where it does.
func (c *Config) shortSession() string {
	beat, session := c.Number("broker.heartbeat.interval.ms"), c.Number("broker.session.timeout.ms")
	if 2*beat <= session {
		return ""
	}
	return fmt.Sprintf("broker.session.timeout.ms=%d is less than twice broker.heartbeat.interval.ms=%d: a broker is fenced when one heartbeat is late", session, beat)
}

// parseVoters reads Kafka's id@host:port,... form.
func parseVoters(list string) ([]Voter, error) {
	var voters []Voter
	for _, entry := range image.Items(list) {
		number, addr, ok := strings.Cut(entry, "@")
		if !ok {
			return nil, fmt.Errorf("%q is not of the form id@host:port", entry)
		}
		id, err := strconv.ParseUint(number, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q: the id of a node must be a number from 0 to %s", entry, maxInt)
		}
		host, port, err := hostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", entry, err)
		}
		v := Voter{int32(id), host, port}
		for _, other := range voters {
			if other.NodeID == v.NodeID {
				return nil, fmt.Errorf("%q: node %d is given twice", entry, v.NodeID)
			}
			if other.Addr() == v.Addr() {
				return nil, fmt.Errorf("%q: node %d has the same address", entry, other.NodeID)
			}
		}
		voters = append(voters, v)
	}
	return voters, nil
}

// hostPort reads an address that can be connected to.
func hostPort(addr string) (string, uint16, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return "", 0, fmt.Errorf("%q is not of the form host:port", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, errors.New("the port must be a number from 1 to 65535")
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", 0, fmt.Errorf("%s is no address that others can connect to", host)
	}
	return host, uint16(n), nil
}

func voterList(v string) error {
	_, err := parseVoters(v)
	return err
}

func serverList(v string) error {
	for _, entry := range image.Items(v) {
		if _, _, err := hostPort(entry); err != nil {
			return fmt.Errorf("%q: %w", entry, err)
		}
	}
	return nil
}

// someRoles accepts broker, controller, or both.
func someRoles(v string) error {
	roles := image.Items(v)
	sorted := slices.Sorted(slices.Values(roles))
	distinct := len(slices.Compact(sorted)) == len(roles)
	known := !slices.ContainsFunc(roles, func(r string) bool { return r != "broker" && r != "controller" })
	if len(roles) == 0 || !distinct || !known {
		return errors.New("a node is broker, controller, or both: broker,controller")
	}
	return nil
}

func someNames(v string) error {
	if len(image.Items(v)) == 0 {
		return errors.New("a name is needed")
	}
	return nil
}
