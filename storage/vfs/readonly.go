package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrReadOnly is what ReadOnly answers to a call that would change something.
var ErrReadOnly = errors.New("opened for reading only")

// ReadOnly returns the machine's file system for those who only look: files are
// opened without the right to write, and no call creates, changes or locks
// anything.
func ReadOnly() FS { return &readOnlyFS{} }

type readOnlyFS struct{ osFS }

func (*readOnlyFS) Open(name string) (File, error) { return openFile(name, os.O_RDONLY) }

func refuse(op, name string) error { return fmt.Errorf("%s %s: %w", op, name, ErrReadOnly) }

func (*readOnlyFS) Create(name string) (File, error)    { return nil, refuse("create", name) }
func (*readOnlyFS) Rename(from, _ string) error         { return refuse("rename", from) }
func (*readOnlyFS) Remove(name string) error            { return refuse("remove", name) }
func (*readOnlyFS) Mkdir(dir string) error              { return refuse("mkdir", dir) }
func (*readOnlyFS) MkdirAll(dir string) error           { return refuse("mkdir", dir) }
func (*readOnlyFS) SyncDir(dir string) error            { return refuse("syncdir", dir) }
func (*readOnlyFS) SyncAll(dir string) error            { return refuse("syncall", dir) }
func (*readOnlyFS) Lock(name string) (io.Closer, error) { return nil, refuse("lock", name) }
