package broker

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/streambus/streambus/"

// layers says which packages of the module each package may import. A package
// that is not here has no place yet.
var layers = map[string]string{
	"cmd/streambus":           "broker broker/adopt broker/config broker/history broker/inspect broker/replica protocol storage/vfs",
	"broker":                  "broker/config broker/controller broker/coordinator broker/fetch broker/group broker/handler broker/history broker/peer broker/replica broker/server protocol raftmeta raftmeta/control raftmeta/follow raftmeta/image raftmeta/liveness raftmeta/quorum raftmeta/transport raftmeta/wal storage storage/vfs",
	"broker/coordinator":      "broker/group broker/partition broker/replica protocol raftmeta/image storage/batch",
	"broker/group":            "broker/group/assign protocol",
	"broker/group/assign":     "",
	"broker/controller":       "broker/peer protocol raftmeta raftmeta/control raftmeta/transport",
	"broker/history":          "raftmeta/image storage/vfs",
	"broker/server":           "protocol",
	"broker/peer":             "protocol raftmeta raftmeta/control raftmeta/follow raftmeta/image raftmeta/liveness",
	"broker/config":           "raftmeta/image",
	"broker/handler":          "broker/config broker/coordinator broker/fetch broker/group broker/partition broker/replica protocol raftmeta raftmeta/control raftmeta/image storage/batch",
	"broker/fetch":            "broker/partition broker/replica protocol storage",
	"broker/replica":          "broker/partition broker/peer protocol raftmeta/image storage storage/batch",
	"broker/partition":        "raftmeta/image",
	"broker/adopt":            "broker/inspect raftmeta/image storage storage/vfs",
	"broker/inspect":          "raftmeta/image raftmeta/quorum raftmeta/wal storage storage/batch storage/vfs",
	"raftmeta":                "raftmeta/control raftmeta/follow raftmeta/image raftmeta/liveness raftmeta/office raftmeta/quorum raftmeta/wal",
	"raftmeta/office":         "raftmeta/control raftmeta/image raftmeta/liveness raftmeta/quorum",
	"raftmeta/quorum":         "raftmeta/control raftmeta/image",
	"raftmeta/follow":         "raftmeta/image",
	"raftmeta/control":        "raftmeta/image",
	"raftmeta/liveness":       "raftmeta/image",
	"raftmeta/image":          "",
	"raftmeta/wal":            "",
	"raftmeta/wal/memwal":     "raftmeta/wal",
	"raftmeta/transport":      "",
	"storage":                 "storage/batch storage/vfs",
	"storage/batch":           "",
	"storage/batch/batchtest": "storage/batch",
	"storage/vfs":             "",
	"protocol":                "",
}

// modules says which packages may use which module from outside.
var modules = map[string]string{
	"github.com/twmb/franz-go/pkg/kmsg":   "protocol broker/controller broker/group broker/handler broker/fetch broker/peer cmd/streambus",
	"github.com/twmb/franz-go/pkg/kgo":    "cmd/streambus",
	"github.com/twmb/franz-go/pkg/kadm":   "cmd/streambus",
	"github.com/twmb/franz-go/pkg/kerr":   "cmd/streambus",
	"github.com/schollz/progressbar/v3":   "cmd/streambus",
	"go.etcd.io/raft/v3":                  "raftmeta/quorum raftmeta/wal raftmeta/wal/memwal",
	"go.etcd.io/bbolt":                    "raftmeta/wal",
	"google.golang.org/protobuf":          "raftmeta/quorum raftmeta/wal raftmeta/wal/memwal",
	"github.com/benbjohnson/immutable":    "raftmeta/image",
	"github.com/prometheus/client_golang": "broker broker/coordinator broker/server broker/replica raftmeta raftmeta/transport",
	"github.com/spf13/cobra":              "cmd/streambus",
	"github.com/klauspost/compress":       "storage/batch",
	"github.com/pierrec/lz4/v4":           "storage/batch",
	"github.com/spf13/pflag":              "cmd/streambus",
	"github.com/magiconair/properties":    "broker/config",
	"golang.org/x/sync":                   "broker broker/coordinator broker/server broker/replica",
	"golang.org/x/sys":                    "storage/vfs raftmeta/wal",
	"golang.org/x/term":                   "cmd/streambus",
}

// cores have no clock, goroutine, channel, lock, file, socket or random source.
var cores = []string{"broker/group", "broker/group/assign", "broker/partition", "raftmeta/office", "raftmeta/quorum", "raftmeta/follow", "raftmeta/control", "raftmeta/liveness", "raftmeta/image"}

// quiet packages start no goroutine and set no timer: their callers own loops.
var quiet = []string{"storage"}

var impure = []string{"os", "net", "sync", "sync/atomic", "math/rand", "math/rand/v2", "crypto/rand", "context", "log/slog"}

type source struct {
	pkg  string
	path string
	file *ast.File
}

// sources parses every file that is not a test. It reads rather than asks the
// go command: the test cache notices a file that changed, not a command's
// answer that would.
func sources(t *testing.T) []source {
	var all []source
	root := ".."
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "data" || ownModule(p)) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path.Dir(p))
		all = append(all, source{filepath.ToSlash(rel), p, f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// ownModule tells whether a directory is a module of its own: what judges the
// product is no part of it.
func ownModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		allowed, known := layers[s.pkg]
		if !known {
			t.Errorf("%s: package %s has no row in the table of layers", s.path, s.pkg)
			continue
		}
		for _, spec := range s.file.Imports {
			imp := strings.Trim(spec.Path.Value, `"`)
			inner, ours := strings.CutPrefix(imp, module)
			switch {
			case ours && !slices.Contains(strings.Fields(allowed), inner):
				t.Errorf("%s: %s may not import %s", s.path, s.pkg, inner)
			case !ours && strings.Contains(strings.Split(imp, "/")[0], "."):
				if !moduleAllowed(imp, s.pkg) {
					t.Errorf("%s: %s may not use %s", s.path, s.pkg, imp)
				}
			}
		}
	}
}

func moduleAllowed(imp, pkg string) bool {
	for module, users := range modules {
		if imp == module || strings.HasPrefix(imp, module+"/") {
			return slices.Contains(strings.Fields(users), pkg)
		}
	}
	return false
}

func TestPackageComments(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

func TestPurity(t *testing.T) {
	for _, s := range sources(t) {
		core := slices.Contains(cores, s.pkg)
		if !core && !slices.Contains(quiet, s.pkg) {
			continue
		}
		for _, spec := range s.file.Imports {
			if imp := strings.Trim(spec.Path.Value, `"`); core && slices.Contains(impure, imp) {
				t.Errorf("%s: a pure core imports %s", s.path, imp)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: starts a goroutine", s.path)
			case *ast.SelectStmt, *ast.ChanType, *ast.SendStmt:
				t.Errorf("%s: uses channels", s.path)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}, n.Sel.Name) {
					t.Errorf("%s: reads the clock with time.%s", s.path, n.Sel.Name)
				}
			}
			return true
		})
	}
}
