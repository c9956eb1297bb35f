package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Files of the limits stay until the round is over: where the disk is told of
// freed blocks, a removal would slow down the syncs of the row that follows.

// connected gives both ends of a connection over loopback.
func connected() (client, server net.Conn, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		return nil, nil, err
	}
	server, err = ln.Accept()
	return client, server, err
}

// pump writes to one end of a connection for the span, while drain reads from
// the other until it ends.
func pump(span time.Duration, size int, drain func(net.Conn) error) ([]figure, error) {
	client, server, err := connected()
	if err != nil {
		return nil, err
	}
	defer server.Close()
	drained := make(chan error, 1)
	go func() { drained <- drain(server) }()
	buf, n := randomBytes(size), int64(0)
	begun := time.Now()
	for err == nil && time.Since(begun) < span {
		var m int
		m, err = client.Write(buf)
		n += int64(m)
	}
	err = errors.Join(err, client.Close(), <-drained)
	return []figure{rate(n, time.Since(begun))}, err
}

func discard(nc net.Conn) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, nc, make([]byte, 64<<10))
	return err
}

func loopback(b *bench) ([]figure, error) { return pump(b.span/2, 64<<10, discard) }

func pingPong(b *bench) ([]figure, error) {
	return roundTrips(b.span/2, 64, func([]byte) error { return nil })
}

// roundTrips sends size bytes and gets as many back, once do was done at the
// other end.
func roundTrips(span time.Duration, size int, do func([]byte) error) ([]figure, error) {
	client, server, err := connected()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	served := make(chan error, 1)
	go func() {
		defer server.Close()
		buf := make([]byte, size)
		for {
			if _, err := io.ReadFull(server, buf); err == io.EOF {
				served <- nil
				return
			} else if err = errors.Join(err, do(buf)); err != nil {
				served <- err
				return
			}
			server.Write(buf)
		}
	}()
	buf := randomBytes(size)
	times, err := repeat(span, func() error {
		if _, err := client.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(client, buf)
		return err
	})
	client.Close()
	if err := errors.Join(err, <-served); err != nil {
		return nil, err
	}
	return append(percentiles(times), figure{"acks/s", float64(len(times)) / span.Seconds()}), nil
}

// echo answers once what it got is in a file and, if durable, synced.
func echo(durable bool) measure {
	return func(b *bench) ([]figure, error) {
		f, err := b.file("echo")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return roundTrips(b.span/2, recordBytes, func(p []byte) error {
			_, err := f.Write(p)
			if err == nil && durable {
				err = datasync(f)
			}
			return err
		})
	}
}

// echoes is n connections at once, each with one message under way.
func echoes(n int) measure {
	return func(b *bench) ([]figure, error) {
		results, fails := make([][]figure, n), make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			f, err := b.file("echoes")
			if err != nil {
				return nil, err
			}
			defer f.Close()
			all.Go(func() {
				results[i], fails[i] = roundTrips(b.span/2, recordBytes, func(p []byte) error {
					_, err := f.Write(p)
					return err
				})
			})
		}
		all.Wait()
		if err := errors.Join(fails...); err != nil {
			return nil, err
		}
		sum := results[0]
		for _, r := range results[1:] {
			sum[2].value += r[2].value
		}
		return sum, nil // the times are those of the first
	}
}

func (b *bench) file(name string) (*os.File, error) {
	*b.next++
	return os.Create(filepath.Join(b.scratch, fmt.Sprint(name, "-", *b.next)))
}

func fdatasync(b *bench) ([]figure, error) {
	f, err := b.file("fdatasync")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page := randomBytes(4096)
	times, err := repeat(b.span/2, func() error {
		if _, err := f.Write(page); err != nil {
			return err
		}
		return datasync(f)
	})
	if err != nil {
		return nil, err
	}
	return percentiles(times), nil
}

// bareStart is the start of a process of the same size that does nothing.
func bareStart(bin string) measure {
	return func(*bench) ([]figure, error) {
		begun := time.Now()
		err := exec.Command(bin, "version").Run()
		return []figure{{"ms to where it serves", millis(time.Since(begun))}}, err
	}
}

// received writes what it gets over loopback to a file. If durable, syncs
// follow one another meanwhile, and the last one ends it.
func received(durable bool) measure {
	return func(b *bench) ([]figure, error) {
		if err := b.touchMemory(); err != nil {
			return nil, err
		}
		f, err := b.file("received")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return pump(b.span/2, 1<<20, func(nc net.Conn) error {
			over, synced := make(chan struct{}), make(chan error, 1)
			go func() { synced <- syncUntil(f, durable, over) }()
			_, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{nc}, make([]byte, 1<<20))
			close(over)
			return errors.Join(err, <-synced)
		})
	}
}

// syncUntil syncs without a pause, and once more when over is closed.
func syncUntil(f *os.File, durable bool, over <-chan struct{}) error {
	for durable {
		select {
		case <-over:
			return datasync(f)
		default:
		}
		if err := datasync(f); err != nil {
			return err
		}
	}
	return nil
}

// sent sends a file that is in memory over loopback, again and again.
func sent(b *bench) ([]figure, error) {
	const size = 512 << 20
	f, err := b.file("sent")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for page := randomBytes(1 << 20); err == nil; {
		if n, _ := f.Seek(0, io.SeekCurrent); n == size {
			break
		}
		_, err = f.Write(page)
	}
	if err != nil {
		return nil, err
	}
	client, server, err := connected()
	if err != nil {
		return nil, err
	}
	drained := make(chan error, 1)
	go func() { drained <- discard(server) }()
	n, begun := int64(0), time.Now()
	for err == nil && time.Since(begun) < b.span/2 {
		var m int64
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			m, err = io.Copy(client, f) // sendfile
		}
		n += m
	}
	err = errors.Join(err, client.Close(), <-drained, server.Close())
	return []figure{rate(n, time.Since(begun))}, err
}

// groupCommit is n writers, each with a file of its own, that wait for one
// flusher: whatever was written while it syncs waits for its next round.
func groupCommit(n int) measure {
	return func(b *bench) ([]figure, error) {
		files, err := b.directories(n)
		if err != nil {
			return nil, err
		}
		defer closeAll(files)
		g := group{wake: make(chan struct{}, 1)}
		record := randomBytes(recordBytes)
		var (
			all   sync.WaitGroup
			mu    sync.Mutex
			times []time.Duration
			fails []error
		)
		for _, f := range files {
			all.Go(func() {
				mine, err := repeat(b.span/2, func() error {
					if _, err := f.Write(record); err != nil {
						return err
					}
					return g.wait()
				})
				mu.Lock()
				times, fails = append(times, mine...), append(fails, err)
				mu.Unlock()
			})
		}
		go func() { all.Wait(); close(g.wake) }()
		g.flush(files[0])
		perSecond := float64(len(times)) / (b.span / 2).Seconds()
		return append(percentiles(times), figure{"acks/s", perSecond}), errors.Join(fails...)
	}
}

// group is those who wait for the next sync.
type group struct {
	wake chan struct{} // holds a token while somebody waits

	mu      sync.Mutex
	waiting []chan error
}

func (g *group) wait() error {
	synced := make(chan error, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, synced)
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
	return <-synced
}

func (g *group) flush(f *os.File) {
	for range g.wake {
		g.mu.Lock()
		waiting := g.waiting
		g.waiting = nil
		g.mu.Unlock()
		err := syncfs(f)
		for _, w := range waiting {
			w <- err
		}
	}
}

// bareSweeps appends to each of n files in directories of their own and syncs
// the file system.
func bareSweeps(n int) measure {
	return func(b *bench) ([]figure, error) {
		begun := time.Now()
		files, err := b.directories(n)
		if err != nil {
			return nil, err
		}
		defer closeAll(files)
		record := randomBytes(recordBytes)
		sweep := func() error {
			for _, f := range files {
				if _, err := f.Write(record); err != nil {
					return err
				}
			}
			return syncfs(files[0])
		}
		if err := sweep(); err != nil {
			return nil, err
		}
		first := time.Since(begun)
		later, err := repeat(b.span/2, sweep)
		if err != nil {
			return nil, err
		}
		return []figure{{firstSweep, millis(first)}, {laterSweeps, percentiles(later)[0].value}}, nil
	}
}

// directories makes n directories with a file each.
func (b *bench) directories(n int) ([]*os.File, error) {
	*b.next++
	var files []*os.File
	for i := range n {
		dir := filepath.Join(b.scratch, fmt.Sprintf("%d-%d", *b.next, i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return files, err
		}
		f, err := os.Create(filepath.Join(dir, "log"))
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
