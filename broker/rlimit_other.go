//go:build !unix

package broker

// openFileLimit is how many files this process may have open: there is no such
// limit here.
func openFileLimit() (uint64, error) { return 1 << 20, nil }
