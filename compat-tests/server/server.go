// Package server runs the brokers that are compared, as processes on loopback:
// this project's and Apache Kafka from its published jars, of one node or several.
package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readyTime is what a broker may take to serve.
const readyTime = 90 * time.Second

// pollTime is how exactly Start tells when a broker serves.
const pollTime = 2 * time.Millisecond

// stopTime is what a broker may take to stop before it is killed.
const stopTime = 30 * time.Second

// Server is a broker's process.
type Server struct {
	Name    string
	Addr    string    // where clients connect
	Admin   string    // where StreamBus serves its metrics
	Data    string    // its data directory
	Started time.Time // when its process last was

	ofMany  int // nodes of its cluster; 0 where it is alone
	args    []string
	cmd     *exec.Cmd
	exited  chan struct{}
	failure error // why it exited; after exited is closed
	output  *output
}

// StreamBus starts the binary bin with these settings on top of its defaults.
func StreamBus(ctx context.Context, bin, dir string, settings map[string]string) (*Server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &Server{Name: "streambus", Addr: addr, Admin: admin, Data: filepath.Join(dir, "streambus")}
	s.args = []string{bin, "serve", "--data-dir", s.Data, "--listeners", "PLAINTEXT://" + addr, "--admin-listen", admin, "--log-level", "warn"}
	for _, k := range sortedKeys(settings) {
		s.args = append(s.args, "--set", k+"="+settings[k])
	}
	return s, s.Start(ctx)
}

// Cluster starts n nodes of the binary bin as one cluster, each of them broker
// and controller, and returns when each knows all. Node ids are from 1.
func Cluster(ctx context.Context, bin, dir string, n int, settings map[string]string) ([]*Server, error) {
	return cluster(ctx, bin, dir, n, settings, nil)
}

// LinkedCluster is a cluster whose nodes reach each other over links that can be
// cut. Clients reach them as always.
func LinkedCluster(ctx context.Context, bin, dir string, n int, settings map[string]string) ([]*Server, *Links, error) {
	links := newLinks()
	nodes, err := cluster(ctx, bin, dir, n, settings, links)
	return nodes, links, err
}

// NodeName is the name of a cluster's node, and of its data directory.
func NodeName(id int) string { return fmt.Sprintf("streambus-%d", id) }

func cluster(ctx context.Context, bin, dir string, n int, settings map[string]string, links *Links) (nodes []*Server, err error) {
	free, err := freeAddrs(4 * n)
	if err != nil {
		return nil, err
	}
	var voters []string
	for id := 1; id <= n; id++ {
		addr, controllers, admin, brokers := free[4*id-4], free[4*id-3], free[4*id-2], free[4*id-1]
		name := NodeName(id)
		s := &Server{Name: name, Addr: addr, Admin: admin, Data: filepath.Join(dir, name), ofMany: n}
		s.args = []string{bin, "serve", "--data-dir", s.Data, "--admin-listen", admin, "--log-level", "warn",
			"--set", fmt.Sprint("node.id=", id), "--set", "controller.listener.names=CONTROLLER"}
		listeners := "PLAINTEXT://" + addr + ",CONTROLLER://" + controllers
		if links != nil {
			listeners += ",BROKERS://" + brokers
			if controllers, err = links.proxy(id, controllers); err != nil {
				return nil, err
			}
			if brokers, err = links.proxy(id, brokers); err != nil {
				return nil, err
			}
			s.args = append(s.args, "--advertised-listeners", "PLAINTEXT://"+addr+",BROKERS://"+brokers,
				"--set", "inter.broker.listener.name=BROKERS",
				"--set", "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,BROKERS:PLAINTEXT")
		}
		s.args = append(s.args, "--listeners", listeners)
		voters = append(voters, fmt.Sprintf("%d@%s", id, controllers))
		nodes = append(nodes, s)
	}
	for _, s := range nodes {
		s.args = append(s.args, "--set", "controller.quorum.voters="+strings.Join(voters, ","))
		for _, k := range sortedKeys(settings) {
			s.args = append(s.args, "--set", k+"="+settings[k])
		}
	}
	return nodes, startAll(ctx, nodes)
}

// startAll starts the nodes of a cluster: none of them serves before all are there.
func startAll(ctx context.Context, nodes []*Server) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := make(chan error)
	for _, s := range nodes {
		go func() { started <- s.Start(ctx) }()
	}
	for range nodes {
		if e := <-started; e != nil {
			err = errors.Join(err, e)
			cancel()
		}
	}
	if err != nil {
		for _, s := range nodes {
			if s.exited != nil && s.Running() {
				err = errors.Join(err, s.Kill())
			}
		}
	}
	return err
}

// Kafka formats a directory and starts Apache Kafka in KRaft combined mode on
// it, with these settings on top of its defaults; heap is as for -Xmx.
func Kafka(ctx context.Context, jars, dir, heap string, settings map[string]string) (*Server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	controller, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s := &Server{Name: "kafka", Addr: addr, Data: filepath.Join(dir, "kafka")}
	err = s.format(ctx, jars, heap, controller, map[string]string{
		"node.id":                                  "1",
		"controller.quorum.bootstrap.servers":      controller,
		"offsets.topic.replication.factor":         "1",
		"transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr":            "1",
	}, settings, "--standalone")
	if err != nil {
		return nil, err
	}
	return s, s.Start(ctx)
}

// KafkaCluster does so for n nodes of one cluster, each of them broker and
// controller, and returns when each knows all. Node ids are from 1.
func KafkaCluster(ctx context.Context, jars, dir, heap string, n int, settings map[string]string) (nodes []*Server, err error) {
	free, err := freeAddrs(2 * n)
	if err != nil {
		return nil, err
	}
	var voters []string
	for id := 1; id <= n; id++ {
		voters = append(voters, fmt.Sprintf("%d@%s", id, free[2*id-1]))
	}
	for id := 1; id <= n; id++ {
		name := fmt.Sprintf("kafka-%d", id)
		s := &Server{Name: name, Addr: free[2*id-2], Data: filepath.Join(dir, name), ofMany: n}
		err := s.format(ctx, jars, heap, free[2*id-1], map[string]string{
			"node.id":                  fmt.Sprint(id),
			"controller.quorum.voters": strings.Join(voters, ","),
		}, settings)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, s)
	}
	return nodes, startAll(ctx, nodes)
}

// format writes a Kafka node's settings, formats its directory and says how it is
// started. The later settings count.
func (s *Server) format(ctx context.Context, jars, heap, controller string, role, settings map[string]string, how ...string) error {
	all := map[string]string{
		"process.roles":                  "broker,controller",
		"listeners":                      "PLAINTEXT://" + s.Addr + ",CONTROLLER://" + controller,
		"advertised.listeners":           "PLAINTEXT://" + s.Addr,
		"controller.listener.names":      "CONTROLLER",
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       s.Data,
	}
	maps.Copy(all, role)
	maps.Copy(all, settings)
	var text strings.Builder
	for _, k := range sortedKeys(all) {
		fmt.Fprintf(&text, "%s=%s\n", k, all[k])
	}
	file := s.Data + ".properties"
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return err
	}
	java := []string{"java", "-Xms" + heap, "-Xmx" + heap, "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(jars, "*")}
	format := slices.Concat(java, []string{"kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", file}, how)
	if out, err := exec.CommandContext(ctx, format[0], format[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("formatting Kafka's directory: %w\n%s", err, out)
	}
	s.args = slices.Concat(java, []string{"kafka.Kafka", file})
	return nil
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func freeAddr() (string, error) {
	free, err := freeAddrs(1)
	if err != nil {
		return "", err
	}
	return free[0], nil
}

// freeAddrs are all different.
func freeAddrs(n int) (free []string, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		free = append(free, ln.Addr().String())
	}
	return free, nil
}

// Launch starts the process.
func (s *Server) Launch() error {
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.output = &output{}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.exited = make(chan struct{})
	s.Started = time.Now()
	if err := s.cmd.Start(); err != nil {
		close(s.exited)
		return err
	}
	go func() {
		s.failure = s.cmd.Wait()
		close(s.exited)
	}()
	return nil
}

// Start starts the process and returns when it serves clients.
func (s *Server) Start(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		if s.serves(ctx) {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s has ended: %v\n%s", s.Name, s.failure, s.output)
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not serve within %v\n%s", s.Name, readyTime, s.output), s.Kill())
		case <-time.After(pollTime):
		}
	}
}

// serves asks for the cluster, which must have this broker and all others.
func (s *Server) serves(ctx context.Context) bool {
	nc, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		return false
	}
	nc.Close()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Addr), kgo.RequestRetries(0))
	if err != nil {
		return false
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(ctx, cl)
	return err == nil && len(resp.Brokers) >= max(1, s.ofMany)
}

// Pid is the process's number.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Running tells whether the process has not ended.
func (s *Server) Running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Output is the end of what it printed.
func (s *Server) Output() string { return s.output.String() }

// Signal sends the process a signal.
func (s *Server) Signal(sig os.Signal) error { return s.cmd.Process.Signal(sig) }

// Kill ends the process at once.
func (s *Server) Kill() error {
	err := s.cmd.Process.Kill()
	<-s.exited
	return err
}

// Stop ends the process orderly.
func (s *Server) Stop() error {
	select {
	case <-s.exited:
		return fmt.Errorf("%s had ended by itself: %v\n%s", s.Name, s.failure, s.output)
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTime):
		return errors.Join(fmt.Errorf("%s does not stop within %v", s.Name, stopTime), s.Kill())
	}
}

// output keeps the end of what a process prints.
type output struct {
	mu sync.Mutex
	b  []byte
}

const keptOutput = 16 << 10

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b, p...)
	if len(o.b) > 2*keptOutput {
		o.b = bytes.Clone(o.b[len(o.b)-keptOutput:])
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.b)
}
