package broker

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Who holds connections to the admin listener takes no more files than it may.
func TestAdminConnectionsAreBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- serveAdmin(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	served := func(c net.Conn) bool {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return false
		}
		n, _ := c.Read(make([]byte, 100))
		return n > 0
	}
	var held []net.Conn
	for range maxAdminConnections {
		c := dial()
		if !served(c) {
			t.Fatalf("connection %d is not served", len(held)+1)
		}
		held = append(held, c)
	}
	if served(dial()) {
		t.Error("one more is served")
	}
	held[0].Close()
	until(t, "room", func() bool { return served(dial()) })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
