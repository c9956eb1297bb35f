package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// nodes is how many brokers the clusters have that are started here.
const nodes = 3

// cluster is what the clients are tried on.
type cluster struct {
	what      string
	bootstrap []string
	// Brokers are numbered from 1. Of a cluster that was not started here none is
	// killed: these are nil.
	kill, revive func(ctx context.Context, node int32) error
	close        func() error
}

func given(bootstrap string) *cluster {
	return &cluster{what: "the brokers of -bootstrap", bootstrap: strings.Split(bootstrap, ","), close: func() error { return nil }}
}

func processes(ctx context.Context, bin, dir string) (*cluster, error) {
	all, err := server.Cluster(ctx, bin, dir, nodes, map[string]string{"default.replication.factor": "3", "min.insync.replicas": "2"})
	if err != nil {
		return nil, err
	}
	c := &cluster{
		what:   "local processes",
		kill:   func(_ context.Context, node int32) error { return all[node-1].Kill() },
		revive: func(ctx context.Context, node int32) error { return all[node-1].Start(ctx) },
		close: func() (err error) {
			for _, s := range all {
				err = errors.Join(err, s.Stop())
			}
			return err
		},
	}
	for _, s := range all {
		c.bootstrap = append(c.bootstrap, s.Addr)
	}
	return c, nil
}

// project sets these containers apart from others of the same file.
const project = "streambus-compat"

// containers starts what docker-compose.yml has, with the image of the sources.
func containers(ctx context.Context, root string, e *engine) (*cluster, error) {
	file := []string{"-f", filepath.Join(root, "docker-compose.yml"), "-p", project}
	compose := func(ctx context.Context, args ...string) error {
		_, err := e.run(ctx, append(append(e.compose, file...), args...)...)
		return err
	}
	if _, err := e.run(ctx, "make", "-C", root, "image"); err != nil {
		return nil, err
	}
	down := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return compose(ctx, "down", "-v")
	}
	if err := errors.Join(down(), compose(ctx, "up", "-d")); err != nil {
		return nil, errors.Join(err, down())
	}
	healthy := func(ctx context.Context) error { return e.healthy(ctx, nodes) }
	if err := healthy(ctx); err != nil {
		return nil, errors.Join(err, down())
	}
	service := func(node int32) string { return fmt.Sprint("streambus-", node) }
	return &cluster{
		what:      "containers, " + e.what,
		bootstrap: []string{"127.0.0.1:19091", "127.0.0.1:19092", "127.0.0.1:19093"},
		kill:      func(ctx context.Context, node int32) error { return compose(ctx, "kill", service(node)) },
		revive: func(ctx context.Context, node int32) error {
			return errors.Join(compose(ctx, "start", service(node)), healthy(ctx))
		},
		close: down,
	}, nil
}

// engine is a docker engine.
type engine struct {
	what    string
	env     []string
	compose []string // the command
	close   func() error
}

// installTime is what Debian's packages may take, startTime a daemon.
const (
	installTime = 5 * time.Minute
	startTime   = 30 * time.Second
	healthTime  = 2 * time.Minute
	pollTime    = 100 * time.Millisecond
)

// findEngine finds a docker engine, or installs and starts one for this run where
// it may.
func findEngine(ctx context.Context, dir string) (*engine, error) {
	e := &engine{env: os.Environ(), close: func() error { return nil }}
	if version, err := e.version(ctx); err == nil {
		e.what = "docker " + version
		return e, e.findCompose(ctx)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("no docker engine answers, and only root may start one")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		if err := e.install(ctx); err != nil {
			return nil, fmt.Errorf("no docker engine answers, and none can be installed: %w", err)
		}
	}
	if err := e.start(ctx, dir); err != nil {
		return nil, fmt.Errorf("no docker engine can be started: %w", err)
	}
	if err := e.findCompose(ctx); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *engine) version(ctx context.Context) (string, error) {
	out, err := e.run(ctx, "docker", "version", "--format", "{{.Server.Version}}")
	return strings.TrimSpace(out), err
}

func (e *engine) findCompose(ctx context.Context) error {
	for _, e.compose = range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if _, err := e.run(ctx, append(e.compose, "version")...); err == nil {
			return nil
		}
	}
	return errors.New("there is neither docker compose nor docker-compose")
}

func (e *engine) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, installTime)
	defer cancel()
	if _, err := e.run(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	_, err := e.run(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y", "--no-install-recommends", "docker.io", "docker-compose", "iptables")
	return err
}

// start runs a daemon with everything of its own in a directory, until close.
func (e *engine) start(ctx context.Context, dir string) error {
	host := "unix://" + filepath.Join(dir, "docker.sock")
	cmd := exec.Command("dockerd", "-H", host, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "-p", filepath.Join(dir, "pid"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	e.close = func() error {
		cmd.Process.Signal(os.Interrupt)
		<-exited
		return nil
	}
	e.env = append(e.env, "DOCKER_HOST="+host)
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		version, err := e.version(ctx)
		if err == nil {
			e.what = "docker " + version + ", started for this run"
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("dockerd has ended: %s", lastLine(said.Bytes()))
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("dockerd does not answer within %v", startTime), e.close())
		case <-time.After(pollTime):
		}
	}
}

// healthy returns when so many containers of the project say that they are.
func (e *engine) healthy(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	for {
		out, err := e.run(ctx, "docker", "ps", "--filter", "label=com.docker.compose.project="+project, "--filter", "health=healthy", "-q")
		if err == nil && len(strings.Fields(out)) == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d of %d containers are healthy", len(strings.Fields(out)), n), err)
		case <-time.After(pollTime):
		}
	}
}

func (e *engine) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = e.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, lastLine(errs.Bytes()))
	}
	return out.String(), nil
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}
