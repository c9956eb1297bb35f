package server

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// Links are the ways between the nodes of a cluster, each a direction of its own.
// A proxy in front of a node's listener knows who connects by the client id of the
// first request, which nodes choose by their ids.
type Links struct {
	mu  sync.Mutex
	cut map[[2]int]int // from, to: how many cut it
	// news is closed and made anew when a way is opened.
	news chan struct{}
}

func newLinks() *Links { return &Links{cut: map[[2]int]int{}, news: make(chan struct{})} }

// Cut lets nothing through from one node to another until the function that it
// returns is called. What was sent arrives then, as with packets that are lost and
// sent again.
func (l *Links) Cut(from, to int) (restore func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut[[2]int{from, to}]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.cut[[2]int{from, to}]--
		close(l.news)
		l.news = make(chan struct{})
	}
}

// open waits until a way is open, or the connection is over.
func (l *Links) open(from, to int, over <-chan struct{}) bool {
	for {
		l.mu.Lock()
		cut, news := l.cut[[2]int{from, to}] > 0, l.news
		l.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-news:
		case <-over:
			return false
		}
	}
}

// proxy listens in front of a node, until the process ends.
func (l *Links) proxy(node int, addr string) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.serve(c, node, addr)
		}
	}()
	return ln.Addr().String(), nil
}

func (l *Links) serve(c net.Conn, node int, addr string) {
	defer c.Close()
	first, from, err := firstRequest(c)
	if err != nil {
		return
	}
	over := make(chan struct{})
	if !l.open(from, node, over) || !l.open(node, from, over) {
		return
	}
	t, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer t.Close()
	if _, err := t.Write(first); err != nil {
		return
	}
	var once sync.Once
	end := func() { once.Do(func() { close(over); c.Close(); t.Close() }) }
	var both sync.WaitGroup
	pump := func(to, from net.Conn, a, b int) {
		defer end()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				if !l.open(a, b, over) {
					return
				}
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	both.Go(func() { pump(t, c, from, node) })
	both.Go(func() { pump(c, t, node, from) })
	both.Wait()
}

// firstRequest reads a request up to its client id, which says what node sent it.
func firstRequest(c net.Conn) (head []byte, node int, err error) {
	const before = 4 + 2 + 2 + 4 + 2 // size, key, version, correlation id, length of the client id
	head = make([]byte, before)
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, 0, err
	}
	id := make([]byte, max(0, int16(binary.BigEndian.Uint16(head[before-2:]))))
	if _, err := io.ReadFull(c, id); err != nil {
		return nil, 0, err
	}
	number, ok := strings.CutPrefix(string(id), "node-")
	if node, err = strconv.Atoi(number); err != nil || !ok {
		return nil, 0, fmt.Errorf("a connection of %q, which is no node", id)
	}
	return append(head, id...), node, nil
}
