package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

// program asks a library that is a program of its own. One request is under way
// at a time.
type program struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *json.Decoder
}

func start(bin string, bootstrap []string) (*program, error) {
	p := &program{cmd: exec.Command(bin, strings.Join(bootstrap, ","))}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.answers = json.NewDecoder(out)
	return p, p.cmd.Start()
}

func (p *program) close() error {
	return errors.Join(p.in.Close(), p.cmd.Wait())
}

// ask ends the program when ctx ends: what it answers later would be taken for
// the answer to the next request.
func (p *program) ask(ctx context.Context, r driver.Request) (a driver.Answer, err error) {
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	defer stop()
	if err := json.NewEncoder(p.in).Encode(r); err != nil {
		return a, err
	}
	if err := p.answers.Decode(&a); err != nil {
		return a, errors.Join(fmt.Errorf("%s does not answer: %w", p.cmd.Path, err), ctx.Err())
	}
	switch {
	case a.Unsupported != "":
		return a, driver.Unsupported(a.Unsupported)
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (p *program) Metadata(ctx context.Context, topic string) (driver.Metadata, error) {
	a, err := p.ask(ctx, driver.Request{Metadata: &topic})
	if err != nil {
		return driver.Metadata{}, err
	}
	return *a.Metadata, nil
}

func (p *program) Produce(ctx context.Context, q driver.Produce) error {
	_, err := p.ask(ctx, driver.Request{Produce: &q})
	return err
}

func (p *program) Fetch(ctx context.Context, q driver.Fetch) ([]driver.Record, error) {
	a, err := p.ask(ctx, driver.Request{Fetch: &q})
	return a.Records, err
}
