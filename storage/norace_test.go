//go:build !race

package storage

const oneOf = 1
