package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// quorumInfo is what the admin route /quorum answers, as far as it is shown.
type quorumInfo struct {
	Term, Commit, Applied, Last uint64
	State                       string
	Node                        int32
	Voters, Learners            []uint64
	Joint                       bool
	Waiting                     int
	Active                      bool
	Controllers                 []struct {
		RaftID    uint64
		NodeID    int32
		Endpoints []struct {
			Host string
			Port uint16
		}
	}
	Progress []struct {
		RaftID   uint64
		Match    uint64
		State    string
		Active   bool
		Snapshot uint64
	}
}

func quorumCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quorum",
		Short: "Tell where the controllers stand, as one of them sees it",
		Args:  cobra.NoArgs,
	}
	admin := adminFlag(cmd, "controller")
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		addr, err := admin()
		if err != nil {
			return err
		}
		body, err := askAdmin(cmd.Context(), "controller", addr, "/quorum")
		if err != nil {
			return err
		}
		if out.json() {
			_, err := cmd.OutOrStdout().Write(body)
			return err
		}
		var q quorumInfo
		if err := json.Unmarshal(body, &q); err != nil {
			return err
		}
		return out.print(cmd.OutOrStdout(), q, func(w io.Writer) { writeQuorum(w, &q) })
	}
	return cmd
}

// maxAdminAnswer bounds what is read of an answer of the admin listener.
const maxAdminAnswer = 64 << 20

// askAdmin gets what a node answers on its admin listener.
func askAdmin(ctx context.Context, node, addr, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no %s answers on its admin listener: %w", node, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", strings.TrimSpace(string(body)))
	}
	return body, nil
}

func writeQuorum(w io.Writer, q *quorumInfo) {
	leader := "nobody"
	if q.Node >= 0 {
		leader = fmt.Sprintf("node %d", q.Node)
	}
	fmt.Fprintf(w, "leader\t%s\nthis node\t%s\nterm\t%d\ncommitted\t%d\napplied\t%d\nlog end\t%d\nwaiting\t%d\n", leader, q.State, q.Term, q.Commit, q.Applied, q.Last, q.Waiting)
	if q.Joint {
		fmt.Fprintln(w, "members\tbeing changed")
	}
	fmt.Fprintln(w, "\nNODE\tROLE\tADDRESS\tHAS\tSTATE\tRAFT ID")
	for _, c := range q.Controllers {
		role := "joining"
		switch {
		case slices.Contains(q.Voters, c.RaftID):
			role = "voter"
		case slices.Contains(q.Learners, c.RaftID):
			role = "learner"
		}
		addr := "-"
		if len(c.Endpoints) > 0 {
			addr = fmt.Sprintf("%s:%d", c.Endpoints[0].Host, c.Endpoints[0].Port)
		}
		match, state := "-", "-"
		for _, p := range q.Progress {
			if p.RaftID == c.RaftID {
				match, state = fmt.Sprint(p.Match), p.State
				if !p.Active {
					state += ", silent"
				}
				if p.Snapshot > 0 {
					state += fmt.Sprintf(" %d", p.Snapshot)
				}
			}
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\n", c.NodeID, role, addr, match, state, c.RaftID)
	}
}
