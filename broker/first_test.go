package broker

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/vfs"
)

// mustSay waits for a line of the log that has all of these in it.
func (n *node) mustSay(t *testing.T, words ...string) {
	t.Helper()
	until(t, "a line with "+strings.Join(words, ", "), func() bool {
		for line := range strings.Lines(n.log.String()) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// Who speaks something else to a listener is told what to do, in the log or in
// the answer, and does not fill the log.
func TestOtherProtocols(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	for range 5 {
		if c, err := tls.Dial("tcp", n.addr(), &tls.Config{InsecureSkipVerify: true}); err == nil {
			c.Close()
			t.Fatal("TLS is served")
		}
		resp, err := http.Get("http://" + n.addr() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "http://" + n.admin.Addr().String() + "/metrics"; err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), want) {
			t.Errorf("%s: %q, %v", resp.Status, text, err)
		}
	}
	n.mustSay(t, "it speaks TLS", "security.protocol=PLAINTEXT", "peer=127.0.0.1:", "listener=PLAINTEXT")
	n.mustSay(t, "it speaks HTTP", "/metrics", "peer=127.0.0.1:", "listener=PLAINTEXT")
	if lines := strings.Count(n.log.String(), "it speaks"); lines != 2 {
		t.Errorf("%d lines of ten connections:\n%s", lines, n.log.String())
	}
	createTopic(newRaw(t, n.addr()), "others-do-not-notice")
}

// What clients are told to connect to is in the log, for each listener.
func TestAdvertisedIsLogged(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{
		"listeners": "INSIDE://127.0.0.1:0,OUTSIDE://127.0.0.1:0", "advertised.listeners": "INSIDE://inside:1,OUTSIDE://outside:2",
		"listener.security.protocol.map": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT",
	})
	n.mustSay(t, "listening", "listener=INSIDE", "advertised=inside:1")
	n.mustSay(t, "listening", "listener=OUTSIDE", "advertised=outside:2")
}

// The limits of connections act, each over all listeners.
func TestConnectionLimits(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{
		"max.connections": "3", "max.connections.per.ip": "2", "max.connections.per.ip.overrides": "127.0.0.9:0",
	})
	refused := func(from string) {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		nc, err := dialer.Dial("tcp", n.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(patience))
		(&raw{t: t, nc: nc, in: bufio.NewReader(nc)}).closed()
	}
	one, two := newRaw(t, n.addr()), newRaw(t, n.addr())
	createTopic(one, "one")
	createTopic(two, "two")
	refused("127.0.0.1")
	n.mustSay(t, "max.connections.per.ip", "limit=2", "peer=127.0.0.1:")
	refused("127.0.0.9")
	n.mustSay(t, "max.connections.per.ip", "limit=0", "peer=127.0.0.9:")
	three := newRawFrom(t, "127.0.0.2", n.addr())
	createTopic(three, "three")
	refused("127.0.0.3")
	n.mustSay(t, "as many as max.connections allows", "limit=3", "peer=127.0.0.3:")
	one.nc.Close()
	until(t, "room for another", func() bool {
		r := newRawFrom(t, "127.0.0.3", n.addr())
		r.nc.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff})
		_, err := r.nc.Read(make([]byte, 1))
		return err == nil
	})
}
