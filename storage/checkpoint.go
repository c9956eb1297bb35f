package storage

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/streambus/streambus/storage/vfs"
)

const (
	tmpSuffix = ".tmp"

	recoveryPointsName = "recovery-point-offset-checkpoint"
	startsName         = "log-start-offset-checkpoint"
	cleanedName        = "cleaner-offset-checkpoint"
	watermarksName     = "replication-offset-checkpoint"
	compactedName      = "compaction-offset-checkpoint"
)

// checkpointLines calls do for each line of a file of version 0: "0", a count,
// that many lines. Each ends with a newline, so that a file cut short is noticed.
// do returns what is wrong with its line, or "".
func checkpointLines(b []byte, do func(line string) string) error {
	lines := strings.SplitAfter(string(b), "\n")
	if rest := lines[len(lines)-1]; len(lines) < 3 || rest != "" {
		return &contentError{int64(len(b) - len(rest)), "the file ends inside a line"}
	}
	at := int64(0)
	for i, line := range lines[:len(lines)-1] {
		line, reason := strings.TrimSuffix(line, "\n"), ""
		switch i {
		case 0:
			if line != "0" {
				reason = fmt.Sprintf("version %q, 0 is known", line)
			}
		case 1:
			if n, err := strconv.Atoi(line); err != nil || n != len(lines)-3 {
				reason = fmt.Sprintf("it counts %q lines and has %d", line, len(lines)-3)
			}
		default:
			reason = do(line)
		}
		if reason != "" {
			return &contentError{at, reason}
		}
		at += int64(len(line)) + 1
	}
	return nil
}

// logOffsets is the content of a checkpoint: an offset of each log, by its name.
type logOffsets map[string]int64

func (ps logOffsets) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "0\n%d\n", len(ps))
	for _, name := range slices.Sorted(maps.Keys(ps)) {
		topic, partition, _ := splitName(name)
		fmt.Fprintf(&b, "%s %d %d\n", topic, partition, ps[name])
	}
	return []byte(b.String())
}

func decodeLogOffsets(b []byte) (logOffsets, error) {
	ps := make(logOffsets)
	err := checkpointLines(b, func(line string) string {
		var topic string
		var partition int32
		var offset int64
		if _, err := fmt.Sscanf(line, "%s %d %d", &topic, &partition, &offset); err != nil || partition < 0 || offset < 0 {
			return fmt.Sprintf("%q is no topic, partition and offset", line)
		}
		ps[fmt.Sprintf("%s-%d", topic, partition)] = offset
		return ""
	})
	if err != nil {
		return nil, err
	}
	return ps, nil
}

// splitName takes apart the name of a log's directory, <topic>-<n>.
func splitName(name string) (topic string, partition int32, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != name[i+1:] {
		return "", 0, false
	}
	return name[:i], int32(n), true
}

func isLogName(name string) bool {
	_, _, ok := splitName(name)
	return ok
}

// ReplaceFile puts content in the place of a file: whatever happens, the old or
// the new is there, whole. When it returns nil the new one is durable.
func ReplaceFile(fs vfs.FS, name string, content []byte) error {
	if err := writeFile(fs, name+tmpSuffix, content, true); err != nil {
		return err
	}
	if err := fs.Rename(name+tmpSuffix, name); err != nil {
		return err
	}
	return fs.SyncDir(filepath.Dir(name))
}

func writeFile(fs vfs.FS, name string, content []byte, sync bool) error {
	f, err := fs.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadFile reads a whole file.
func ReadFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b := make([]byte, size)
	if size > 0 {
		_, err = f.ReadAt(b, 0)
	}
	return b, errors.Join(err, f.Close())
}

func syncFile(fs vfs.FS, name string) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
