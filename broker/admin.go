package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminHandler serves metrics and health. Live means that the process answers;
// ready that clients can be served, and that the controllers count on this broker: it
// may end, and come again. The disk is apart from them: a node whose disk is
// full goes on, and somebody has to make room.
// /why tells what changed in the metadata, see [history.Question]; /quorum where the
// controllers stand, as this one sees it; /partition which replicas are in sync, and
// why, see [Partitions].
func adminHandler(metrics prometheus.Gatherer, ready, disk func() error, why whyFunc, quorum, partition http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /health/ready", health("ready", ready))
	mux.HandleFunc("GET /health/disk", health("the disk serves", disk))
	mux.HandleFunc("GET /why", func(w http.ResponseWriter, r *http.Request) { answerWhy(w, r, why) })
	mux.HandleFunc("GET /quorum", quorum)
	mux.HandleFunc("GET /partition", partition)
	return mux
}

// health answers good, or what is wrong.
func health(good string, check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := check(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, good)
	}
}

// maxAdminConnections bounds those of metrics and health, within ownFiles: they
// must not take the files that logs need.
const maxAdminConnections = 64

// boundedListener closes connections beyond a number at once, as those of clients
// are.
type boundedListener struct {
	net.Listener
	open chan struct{} // holds a token for each
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.open <- struct{}{}:
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.open })}, nil
		default:
			c.Close()
		}
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// serveAdmin serves h on ln until ctx ends.
func serveAdmin(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(&boundedListener{ln, make(chan struct{}, maxAdminConnections)}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
