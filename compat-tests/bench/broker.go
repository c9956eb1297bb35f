package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// bench is what the rows of one round share: a fresh broker, and a directory
// that also takes the files of the limits.
type bench struct {
	span    time.Duration
	dir     string // of the broker's data; scratch is beside it
	scratch string
	bin     string
	cmd     *exec.Cmd
	addr    string
	admin   string
	start   []figure
	next    int
}

// start runs a broker on an empty directory and takes the time of each part of
// the way to the first acknowledged record.
func start(bin, parent string, span time.Duration) (*bench, error) {
	dir, err := os.MkdirTemp(parent, "streambus-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{span: span, dir: filepath.Join(dir, "data"), scratch: filepath.Join(dir, "limits"), bin: bin}
	if err := errors.Join(os.Mkdir(b.dir, 0o755), os.Mkdir(b.scratch, 0o755)); err != nil {
		return nil, err
	}
	if err := settle(dir); err != nil {
		return nil, err
	}
	if err := b.firstAck(); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

// firstAck fills in start.
func (b *bench) firstAck() error {
	begun := time.Now()
	last := begun
	part := func(name string) {
		now := time.Now()
		b.start = append(b.start, figure{name, millis(now.Sub(last))})
		last = now
	}
	if err := b.exec(); err != nil {
		return err
	}
	part("ms to the line that says so")
	ctx := context.Background()
	cl, err := b.client(kgo.DefaultProduceTopic("first"), kgo.AllowAutoTopicCreation())
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.Ping(ctx); err != nil {
		return err
	}
	part("ms to connect, first metadata")
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = true
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr("first")
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if code := resp.Topics[0].ErrorCode; code != 0 {
		return fmt.Errorf("creating the first topic: error %d", code)
	}
	part("ms to create a topic")
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("first")}).FirstErr(); err != nil {
		return err
	}
	part("ms to the first ack")
	b.start = append(b.start, figure{"ms in all", millis(last.Sub(begun))})
	return nil
}

// exec starts the process and returns when it says that it has started.
func (b *bench) exec() error {
	var err error
	if b.addr, err = freeAddr(); err != nil {
		return err
	}
	if b.admin, err = freeAddr(); err != nil {
		return err
	}
	b.cmd = exec.Command(b.bin, "serve", "--data-dir", b.dir, "--listeners", "PLAINTEXT://"+b.addr, "--admin-listen", b.admin)
	stderr, err := b.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := b.cmd.Start(); err != nil {
		return err
	}
	var log strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&log, lines.Text())
		if strings.Contains(lines.Text(), "msg=started") {
			go io.Copy(os.Stderr, stderr)
			return nil
		}
	}
	return fmt.Errorf("the broker does not start:\n%s", log.String())
}

func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

func (b *bench) stop() error { return errors.Join(b.end(), os.RemoveAll(filepath.Dir(b.dir))) }

// end stops the process, and leaves its files.
func (b *bench) end() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return b.cmd.Wait()
}

// settle waits for what was written and removed before. Where the disk is told
// of freed blocks, the sync after a large removal takes part in that.
func settle(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for range 2 {
		if err := syncfs(d); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.addr), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(1 << 20), kgo.MaxBufferedRecords(100_000),
	}, opts...)...)
}

// topic makes a fresh topic.
func (b *bench) topic(partitions int32, flush string) (string, error) {
	cl, err := b.client()
	if err != nil {
		return "", err
	}
	defer cl.Close()
	b.next++
	name := fmt.Sprintf("bench-%d", b.next)
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	c := kmsg.NewCreateTopicsRequestTopicConfig()
	c.Name, c.Value = "streambus.flush", &flush
	t.Configs = append(t.Configs, c)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(context.Background(), cl)
	if err == nil && resp.Topics[0].ErrorCode != 0 {
		err = fmt.Errorf("creating %s: error %d", name, resp.Topics[0].ErrorCode)
	}
	return name, err
}

// cpu is the processor time that the broker has used.
func (b *bench) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// metrics reads the broker's metrics, by name and labels.
func (b *bench) metrics() (map[string]float64, error) {
	resp, err := http.Get("http://" + b.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && name != "#" {
			if m[name], err = strconv.ParseFloat(value, 64); err != nil {
				return nil, err
			}
		}
	}
	return m, lines.Err()
}

// onDisk is how many bytes the segments of a topic have.
func (b *bench) onDisk(topic string) (int64, error) {
	files, err := b.segments(topic)
	var sum int64
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		sum += info.Size()
	}
	return sum, err
}

func (b *bench) segments(topic string) ([]string, error) {
	return filepath.Glob(filepath.Join(b.dir, topic+"-*", "*.log"))
}

// touchMemory has the machine hand over the pages that a row will write to:
// virtual machines give idle memory back, and getting it again costs several
// times the write itself.
func (b *bench) touchMemory() error {
	name := filepath.Join(b.scratch, "touch")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	page := make([]byte, 1<<20)
	for range 3 << 10 {
		if _, err := f.Write(page); err != nil {
			break
		}
	}
	return errors.Join(f.Close(), os.Remove(name))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
