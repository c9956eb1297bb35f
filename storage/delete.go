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

// ErrDeleted refuses work on a log that DeleteLogs has taken away.
var ErrDeleted = errors.New("the log has been deleted")

// DeleteLogs takes logs out of the directory, open or not. When it returns nil
// no crash brings them back, others of their names may be opened at once, and
// what there was is removed by a Sweep, after LogConfig.DeleteDelay. Until then
// regions read before can be sent. Logs without a directory are deleted too. An
// error leaves those that it is about as they were, unless it closes the directory.
func (d *Dir) DeleteLogs(now time.Time, names ...string) error {
	if err := d.Failed(); err != nil {
		return err
	}
	var (
		errs   []error
		graves []removal
		moved  bool
	)
	for _, name := range names {
		r, err := d.takeAway(name, deletedDirSuffix, now)
		if err != nil {
			errs = append(errs, fmt.Errorf("log %s: %w", name, err))
			continue
		}
		graves = append(graves, r)
		moved = moved || r.dir != ""
	}
	if moved { // one sync for all of them
		if err := d.mustSync(d.fs.SyncDir(d.path)); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	d.bury(graves)
	return errors.Join(errs...)
}

// takeAway moves a log's directory and ends its use. The move is not durable yet.
func (d *Dir) takeAway(name, suffix string, now time.Time) (removal, error) {
	d.mu.Lock()
	l := d.logs[name]
	d.mu.Unlock()
	if l == nil {
		to, err := d.moveAside(name, suffix)
		return removal{name: name, dir: to, at: now}, err
	}
	l.swapMu.Lock()
	defer l.swapMu.Unlock()
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if !l.made { // what may be in its place is not the log's
		l.gone.Store(true)
		return removal{log: l, name: name, at: now}, nil
	}
	l.gone.Store(true) // first: a round must not take what it misses for a failure
	to, err := d.moveAside(name, suffix)
	if err != nil {
		l.gone.Store(false)
		return removal{}, err
	}
	if to != "" {
		l.moved.Store(&to)
	}
	for _, f := range l.take().files {
		d.files.release(f)
	}
	return removal{log: l, name: name, dir: to, at: now.Add(l.config().DeleteDelay)}, nil
}

// bury forgets logs whose directories have been moved. No checkpoint is being
// written that knows them: one that came later would be taken for the next
// log's of the name.
func (d *Dir) bury(graves []removal) {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range graves {
		if d.logs[r.name] == r.log {
			delete(d.logs, r.name)
		}
		delete(d.left, r.name)
		delete(d.starts, r.name)
		d.buried[r.name] = true
		if r.dir != "" {
			d.due = append(d.due, r)
		}
	}
	d.dirty = slices.DeleteFunc(d.dirty, func(l *Log) bool { return l.gone.Load() })
	d.moved.Store(true)
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
	to, err = d.moveAside(name, strayDirSuffix)
	if err != nil || to == "" {
		return "", err
	}
	if err := d.mustSync(d.fs.SyncDir(d.path)); err != nil {
		return "", err
	}
	d.bury([]removal{{name: name}})
	return to, nil
}

// SetAside ends the use of a log as DeleteLogs does, but its directory stays, under
// the name that is returned: "" if it has none.
func (l *Log) SetAside(now time.Time) (to string, err error) {
	if err := l.d.Failed(); err != nil {
		return "", err
	}
	r, err := l.d.takeAway(l.name, strayDirSuffix, now)
	if err != nil {
		return "", err
	}
	if to = r.dir; to != "" {
		if err := l.d.mustSync(l.d.fs.SyncDir(l.d.path)); err != nil {
			return "", err
		}
	}
	r.dir = "" // nothing removes it
	l.d.bury([]removal{r})
	l.d.files.forgetLog(l)
	return to, nil
}

// moveAside renames a log's directory to a name that was never used in this life
// of the directory; to is "" if there is no such directory. The caller makes it
// durable.
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
	return to, nil
}

// isDeletedDir tells whether a name is one that DeleteLogs gives.
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
	b, err := ReadFile(l.d.fs, name)
	var id [16]byte
	if err == nil {
		id, err = decodeMetadata(b)
	}
	switch {
	case err == nil && id == l.topicID:
		return "", nil
	case err == nil:
	case IsDamage(err) && point > 0:
		return "", in(name, err)
	case errors.Is(err, iofs.ErrNotExist) && point > 0:
		return "", ReplaceFile(l.d.fs, name, encodeMetadata(l.topicID))
	case !IsDamage(err) && !errors.Is(err, iofs.ErrNotExist):
		return "", err
	}
	if aside, err = l.d.moveAside(l.name, strayDirSuffix); err != nil {
		return "", err
	}
	if err := l.d.mustSync(l.d.fs.SyncDir(l.d.path)); err != nil {
		return "", err
	}
	return aside, l.d.forget(l.name)
}
