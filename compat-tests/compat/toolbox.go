package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
)

// toolbox runs Kafka's command-line tools, in one process.
type toolbox struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (b *bench) tools(ctx context.Context) (*toolbox, error) {
	cmd := b.java(ctx, b.toolsJars, "Tools")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &toolbox{cmd, in, bufio.NewReaderSize(out, 1<<20)}, cmd.Start()
}

// printed is what a tool has printed.
type printed struct {
	code        int
	out, errors string
}

func (t *toolbox) run(class, typed string, args ...string) (printed, error) {
	var line []string
	for _, f := range append([]string{class, typed}, args...) {
		line = append(line, field(f))
	}
	if _, err := io.WriteString(t.in, strings.Join(line, " ")+"\n"); err != nil {
		return printed{}, err
	}
	answer, err := t.out.ReadString('\n')
	if err != nil {
		return printed{}, fmt.Errorf("%s ended without an answer: %w", class, err)
	}
	fields := strings.Fields(answer)
	if len(fields) != 3 {
		return printed{}, fmt.Errorf("%s: an answer that is none: %q", class, answer)
	}
	code, err := strconv.Atoi(fields[0])
	if err != nil {
		return printed{}, err
	}
	var texts [2]string
	for i, f := range fields[1:] {
		if f == "-" {
			continue
		}
		text, err := base64.StdEncoding.DecodeString(f)
		if err != nil {
			return printed{}, err
		}
		texts[i] = string(text)
	}
	return printed{code, texts[0], texts[1]}, nil
}

func field(s string) string {
	if s == "" {
		return "-"
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

func (t *toolbox) close() error {
	return errors.Join(t.in.Close(), t.cmd.Wait())
}
