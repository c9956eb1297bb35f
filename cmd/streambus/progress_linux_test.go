package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal gives the two ends of a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// A bar is for who looks at a terminal while records go elsewhere, and know
// where they end.
func TestProgress(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines")
	b.must(t, "one\ntwo\nthree\n", "produce", "lines")
	for _, c := range []struct {
		args       []string
		outToo     bool // stdout is the terminal as well
		onTerminal string
		not        string
	}{
		{[]string{"-e"}, false, "(3/3)", "one"},
		{[]string{"-c", "2"}, false, "(2/2)", "one"},
		{[]string{"-e", "--from", "end"}, false, "", "lines"},
		{[]string{"-e"}, true, "one", "3/3"},
	} {
		master, slave := terminal(t)
		cmd := command(t.Context(), t, append([]string{"consume", "lines", "-b", b.address}, c.args...)...)
		cmd.Stderr = slave
		if c.outToo {
			cmd.Stdout = slave
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		// It ends with an error when nobody has the other end any more.
		shown, _ := io.ReadAll(master)
		if err := cmd.Wait(); err != nil || !strings.Contains(string(shown), c.onTerminal) || strings.Contains(string(shown), c.not) {
			t.Errorf("%q: %v: %q", c.args, err, shown)
		}
	}
}
