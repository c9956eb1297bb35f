package storage

import (
	"encoding/base64"
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	deletedDirSuffix = "-delete"
	strayDirSuffix   = "-stray"
	// maxNameBytes is what file systems allow for a name. The topic's is cut to
	// make room for what is added.
	maxNameBytes = 255

	metadataName = "partition.metadata"
)

// ErrDeleted refuses work on a log that DeleteLog has taken away.
var ErrDeleted = errors.New("the log has been deleted")

// DeleteLog takes a log out of the directory, open or not. When it returns nil
// no crash brings the log back, another of its name may be opened at once, and
// what there was is removed by a Sweep, after LogConfig.DeleteDelay. Until then
// regions read before can be sent. A log without a directory is deleted too.
func (d *Dir) DeleteLog(name string, now time.Time) error {
	if err := d.Failed(); err != nil {
		return err
	}
	d.mu.Lock()
	l := d.logs[name]
	d.mu.Unlock()
	if l == nil {
		to, err := d.moveAside(name, deletedDirSuffix)
		if err == nil && to != "" {
			d.bury(nil, name, removal{dir: to, at: now})
		}
		return err
	}
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if l.gone.Swap(true) { // first: a round must not take what it misses for a failure
		return nil
	}
	to, err := d.moveAside(name, deletedDirSuffix)
	if err != nil {
		l.gone.Store(false)
		return err
	}
	r := removal{log: l, dir: to, at: now.Add(l.config().DeleteDelay)}
	if to != "" {
		l.moved.Store(&to)
	}
	for _, f := range l.take().files {
		d.files.release(f)
	}
	d.bury(l, name, r)
	return nil
}

// bury forgets a log whose directory has been moved. No checkpoint is being
// written that knows it: one that came later would be taken for the next log's.
func (d *Dir) bury(l *Log, name string, r removal) {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.logs[name] == l {
		delete(d.logs, name)
	}
	d.dirty = slices.DeleteFunc(d.dirty, func(dirty *Log) bool { return dirty == l })
	delete(d.left, name)
	delete(d.starts, name)
	d.buried[name] = true
	d.moved.Store(true)
	if r.dir != "" {
		d.due = append(d.due, r)
	}
}

// SetAside renames the directory of a log that no partition claims, durably, and
// returns its new name. Nothing opens or removes it from then on.
func (d *Dir) SetAside(name string) (to string, err error) {
	if err := d.Failed(); err != nil {
		return "", err
	}
	d.mu.Lock()
	open := d.logs[name] != nil
	d.mu.Unlock()
	if open {
		return "", fmt.Errorf("log %s is open and cannot be set aside", name)
	}
	if to, err = d.moveAside(name, strayDirSuffix); err == nil && to != "" {
		d.bury(nil, name, removal{})
	}
	return to, err
}

// moveAside renames a log's directory, durably, to a name that was never used in
// this life of the directory; to is "" if there is no such directory.
func (d *Dir) moveAside(name, suffix string) (to string, err error) {
	topic, partition, ok := splitName(name)
	if !ok {
		return "", fmt.Errorf("%q is not the name of a log", name)
	}
	for {
		tail := fmt.Sprintf("-%d.%032x%s", partition, d.serial.Add(1), suffix)
		to = topic[:min(len(topic), maxNameBytes-len(tail))] + tail
		_, err := d.fs.Stat(filepath.Join(d.path, to))
		if errors.Is(err, iofs.ErrNotExist) {
			break
		}
		if err != nil {
			return "", d.refused(err)
		}
	}
	err = d.fs.Rename(filepath.Join(d.path, name), filepath.Join(d.path, to))
	if errors.Is(err, iofs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", d.refused(err)
	}
	return to, d.mustSync(d.fs.SyncDir(d.path))
}

// isDeletedDir tells whether a name is one that DeleteLog gives.
func isDeletedDir(name string) bool {
	name, deleted := strings.CutSuffix(name, deletedDirSuffix)
	i := strings.LastIndexByte(name, '.')
	return deleted && i > 0 && isLogName(name[:i])
}

// removeDir removes the directory of a deleted log.
func (d *Dir) removeDir(r removal) (removed int, err error) {
	d.files.forgetLog(r.log)
	dir := filepath.Join(d.path, r.dir)
	names, err := d.fs.List(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := d.fs.Remove(filepath.Join(dir, name)); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, d.fs.Remove(dir)
}

// unlessGone is for syncs that find the directory of a deleted log gone.
func (l *Log) unlessGone(err error) error {
	if l.gone.Load() && errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}

// encodeMetadata is partition.metadata, which says whose partition a directory is.
func encodeMetadata(topicID [16]byte) []byte {
	return fmt.Appendf(nil, "version: 0\ntopic_id: %s", base64.RawURLEncoding.EncodeToString(topicID[:]))
}

func decodeMetadata(b []byte) (topicID [16]byte, err error) {
	encoded, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), "version: 0\ntopic_id: ")
	id, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if !ok || err != nil || len(id) != len(topicID) || strings.ContainsAny(encoded, "\r\n") {
		return topicID, &contentError{0, "it is not version 0 and the id of a topic"}
	}
	return [16]byte(id), nil
}

// claim makes sure that the log's directory is the wanted topic's. That of
// another one is set aside, and so is one that does not say whose it is and was
// never known to be durable: a crash soon after its first append may have left
// it, and it may be that of an older topic of this name. One that is durable and
// says nothing comes from before there were ids, and is claimed.
func (l *Log) claim(point int64) (aside string, err error) {
	if l.topicID == ([16]byte{}) {
		return "", nil
	}
	name := filepath.Join(l.path(), metadataName)
	b, err := readFile(l.d.fs, name)
	var id [16]byte
	if err == nil {
		id, err = decodeMetadata(b)
	}
	switch {
	case err == nil && id == l.topicID:
		return "", nil
	case err == nil:
	case isDamage(err) && point > 0:
		return "", in(name, err)
	case errors.Is(err, iofs.ErrNotExist) && point > 0:
		return "", replaceFile(l.d.fs, name, encodeMetadata(l.topicID))
	case !isDamage(err) && !errors.Is(err, iofs.ErrNotExist):
		return "", err
	}
	if aside, err = l.d.moveAside(l.name, strayDirSuffix); err != nil {
		return "", err
	}
	return aside, l.d.forget(l.name)
}
