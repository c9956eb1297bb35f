package broker

import (
	"log/slog"
	"math"
)

const (
	// fewFiles is a limit of open files below which a broker runs and should not
	// have to: there are fewer than 5,000 connections then, and a client easily
	// has ten.
	fewFiles = 10_000
	// ownFiles are for listeners, the raft log, the admin server and its clients.
	ownFiles = 128
	// logFiles is what files of logs may take where there is enough: 4,096 that
	// are kept open for nobody, and as many in use or with unsynced writes.
	logFiles = 8192
)

// fileBudget is who may have how many of the files that the process may have
// open. Connections are bounded so that those of logs can be opened: a broker
// that accepts and cannot write is no use to anybody.
type fileBudget struct {
	logs        int // files of logs that nobody uses and that stay open
	connections int
}

func divideFiles(limit uint64) fileBudget {
	n := int(min(limit, math.MaxInt32))
	logs := min(logFiles, n/2)
	return fileBudget{logs: logs / 2, connections: max(n-logs-ownFiles, n/4)}
}

// limitFiles divides the limit of open files. max.connections counts where it is
// not at its default, whatever the limit is.
func limitFiles(maxConnections int64, limit uint64, log *slog.Logger) fileBudget {
	budget := divideFiles(limit)
	room := budget.connections
	if maxConnections != math.MaxInt32 {
		budget.connections = int(maxConnections)
	}
	if limit < fewFiles {
		log.Warn("few files may be open at a time: raise the hard limit to 100000 or more (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of docker)",
			"limit", limit, "connections", budget.connections, "idle-files-of-logs", budget.logs)
	}
	if budget.connections > room {
		log.Warn("max.connections is more than the limit of open files has room for beside the files of logs: lower it, or raise the limit (ulimit -Hn)",
			"max.connections", budget.connections, "room", room, "limit", limit)
	}
	return budget
}
