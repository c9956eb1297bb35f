//go:build race

package storage

// oneOf is how many cases of the long tests there are for one that is gone through. With
// the race detector each takes several times as long, and few say as much about races.
const oneOf = 3
