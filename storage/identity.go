package storage

import (
	"encoding/base64"
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

const identityName = "meta.properties"

// Identity says which cluster and node a directory belongs to, and which
// directory it is.
type Identity struct {
	ClusterID   string
	NodeID      int32
	DirectoryID [16]byte
}

// Identity reads the directory's identity; ok is false if it has none yet.
func (d *Dir) Identity() (id Identity, ok bool, err error) {
	id, err = ReadIdentity(d.fs, filepath.Join(d.path, identityName))
	if errors.Is(err, iofs.ErrNotExist) {
		return Identity{}, false, nil
	}
	return id, err == nil, err
}

// Format gives the directory its identity, once.
func (d *Dir) Format(id Identity) error {
	old, ok, err := d.Identity()
	switch {
	case err != nil:
		return err
	case ok && old != id:
		return fmt.Errorf("%s is node %d of cluster %s already and cannot become node %d of cluster %s: use another directory",
			d.path, old.NodeID, old.ClusterID, id.NodeID, id.ClusterID)
	case ok:
		return nil
	case id.ClusterID == "" || strings.ContainsAny(id.ClusterID, "\r\n\\"):
		return fmt.Errorf("%q cannot be a cluster id", id.ClusterID)
	}
	return ReplaceFile(d.fs, filepath.Join(d.path, identityName), id.encode())
}

func (id Identity) encode() []byte {
	return fmt.Appendf(nil, "version=1\ncluster.id=%s\nnode.id=%d\ndirectory.id=%s\n",
		id.ClusterID, id.NodeID, base64.RawURLEncoding.EncodeToString(id.DirectoryID[:]))
}

func decodeIdentity(b []byte) (Identity, error) {
	values, at := make(map[string]string), make(map[string]int64)
	pos := int64(0)
	for line := range strings.Lines(string(b)) {
		begin := pos
		pos += int64(len(line))
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, _ := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		values[key], at[key] = strings.TrimSpace(value), begin
	}
	bad := func(key, format string, args ...any) (Identity, error) {
		return Identity{}, &contentError{at[key], fmt.Sprintf(format, args...)}
	}
	if _, ok := values["version"]; !ok {
		return bad("version", "version is missing")
	}
	if v := values["version"]; v != "1" {
		return Identity{}, fmt.Errorf("version %q is not known here, 1 is: start the release that wrote the directory", v)
	}
	node, err := strconv.ParseInt(values["node.id"], 10, 32)
	if err != nil {
		return bad("node.id", "node.id %q is not a number", values["node.id"])
	}
	id := Identity{ClusterID: values["cluster.id"], NodeID: int32(node)}
	if id.ClusterID == "" {
		return bad("cluster.id", "cluster.id is missing")
	}
	raw, err := base64.RawURLEncoding.DecodeString(values["directory.id"])
	if err != nil || len(raw) != len(id.DirectoryID) {
		return bad("directory.id", "directory.id %q is not 16 bytes in base64url", values["directory.id"])
	}
	copy(id.DirectoryID[:], raw)
	return id, nil
}
