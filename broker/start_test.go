package broker

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/storage/vfs"
)

func set(t *testing.T, cfg *config.Config, key, value string) {
	t.Helper()
	if err := cfg.Set(key, value, config.Flag, "--set"); err != nil {
		t.Fatal(err)
	}
}

// startError is what a broker says that must not start.
func startError(t *testing.T, data string, settings map[string]string) string {
	t.Helper()
	cfg := config.New()
	set(t, cfg, "log.dirs", data)
	set(t, cfg, "streambus.admin.listen", "127.0.0.1:0")
	if settings["listeners"] == "" {
		set(t, cfg, "listeners", "PLAINTEXT://127.0.0.1:0")
	}
	for key, value := range settings {
		if err := cfg.Set(key, value, config.Flag, "--set"); err != nil {
			return err.Error()
		}
	}
	b, err := New(cfg, Disk{FS: vfs.OS(), RaftLog: OpenRaftLog}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err == nil {
		b.Close()
		t.Fatalf("it would start with %v", settings)
	}
	return err.Error()
}

func TestStartsThatAreRefused(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	cfg := config.New()
	set(t, cfg, "log.dirs", data)
	set(t, cfg, "streambus.admin.listen", "127.0.0.1:0")
	set(t, cfg, "listeners", "PLAINTEXT://127.0.0.1:0")
	b, err := New(cfg, Disk{FS: vfs.OS(), RaftLog: OpenRaftLog}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err == nil {
		err = b.enter(t.Context()) // the directory is node 1's from now on
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := startError(t, data, nil); !strings.Contains(got, "in use") {
		t.Errorf("a directory in use: %s", got)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		settings map[string]string
		want     string
	}{
		{map[string]string{"node.id": "2"}, "belongs to node 1"},
		{map[string]string{"listeners": "PLAINTEXT://0.0.0.0:0"}, "cannot be advertised"},
		{map[string]string{"listeners": "PLAINTEXT://:0"}, "set advertised.listeners to"},
		{map[string]string{"listeners": "PLAINTEXT://[::]:0"}, "set advertised.listeners to"},
		{map[string]string{"advertised.listeners": "PLAINTEXT://0.0.0.0:9092"}, "set advertised.listeners to"},
		{map[string]string{"advertised.listeners": "PLAINTEXT://:9092"}, "set advertised.listeners to"},
		{map[string]string{"listeners": "PLAINTEXT://" + taken.Addr().String()}, "listener PLAINTEXT://" + taken.Addr().String() + ": "},
		{map[string]string{"listeners": "PLAINTEXT://" + taken.Addr().String()}, "set listeners to a free port"},
		{map[string]string{"streambus.admin.listen": taken.Addr().String()}, "set streambus.admin.listen to a free port"},
		{map[string]string{"listeners": "PLAINTEXT://192.0.2.1:9092"}, "set listeners to an address of this host"},
		{map[string]string{"max.connections.per.ip.overrides": "somewhere:5"}, "names are not looked up"},
		{map[string]string{"listeners": "SSL://127.0.0.1:0"}, "only PLAINTEXT"},
		{map[string]string{"listeners": "127.0.0.1:0"}, "NAME://host:port"},
		{map[string]string{"advertised.listeners": "OTHER://h:1"}, "only PLAINTEXT"},
		{map[string]string{"inter.broker.listener.name": "IN"}, "IN is no advertised listener"},
		{map[string]string{"security.inter.broker.protocol": "SASL_SSL"}, "security.inter.broker.protocol"},
		{map[string]string{"num.partitions": "none"}, "not a number"},
		{map[string]string{"log.segment.bytes": "1"}, "at least 1048576"},
		{map[string]string{"streambus.flush": "never"}, "ack, os"},
		{map[string]string{"authorizer.class.name": "x"}, "authorizer.class.name"},
		{map[string]string{"process.roles": "broker"}, "nothing says where the controllers are"},
		{map[string]string{"process.roles": "both"}, "a node is broker, controller, or both"},
		{map[string]string{"controller.quorum.voters": "7@127.0.0.1:9093"}, "does not have node 1"},
	} {
		if got := startError(t, data, c.settings); !strings.Contains(got, c.want) {
			t.Errorf("%v: %s", c.settings, got)
		}
	}
}

func TestAdmin(t *testing.T) {
	cfg := config.New()
	set(t, cfg, "log.dirs", t.TempDir())
	set(t, cfg, "streambus.admin.listen", "127.0.0.1:0")
	set(t, cfg, "listeners", "PLAINTEXT://127.0.0.1:0")
	b, err := New(cfg, Disk{FS: vfs.OS(), RaftLog: OpenRaftLog}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	for path, want := range map[string]string{"/health/live": "live", "/health/ready": "ready", "/health/disk": "serves", "/metrics": "streambus_raft_ready_total"} {
		resp, err := http.Get("http://" + b.admin.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s, %v: %.200s", path, resp.Status, err, text)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
