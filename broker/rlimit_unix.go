//go:build unix

package broker

import "syscall"

// openFileLimit is how many files this process may have open. The Go runtime has
// raised the soft limit to the hard one before main.
func openFileLimit() (uint64, error) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return uint64(l.Cur), err
}
