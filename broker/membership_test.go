package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// info is where the quorum stands, as the admin listener of a node says.
func (p *process) info() (i raftmeta.Info, err error) {
	client := http.Client{Timeout: 2 * time.Second}
	resp, err := client.Get("http://127.0.0.1:" + p.admin + "/quorum")
	if err != nil {
		return i, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return i, errors.New(resp.Status)
	}
	return i, json.NewDecoder(resp.Body).Decode(&i)
}

// leader is the node that leads the quorum, once one does.
func (c *processes) leader() (leads *process) {
	c.t.Helper()
	c.eventually("somebody leads", func() error {
		if leads = c.active(c.t.Context()); leads == nil {
			return errors.New("nobody leads")
		}
		return nil
	})
	return leads
}

// quorumOf waits until exactly these nodes vote, each with the raft id of its
// directory, and returns the ids by node.
func (c *processes) quorumOf(nodes ...*process) map[int32]uint64 {
	c.t.Helper()
	ids := map[int32]uint64{}
	c.eventually("the quorum is as wanted", func() error {
		i, err := c.leader().info()
		if err != nil {
			return err
		}
		var voters []uint64
		clear(ids)
		for _, v := range i.Controllers {
			ids[v.NodeID] = v.RaftID
			voters = append(voters, v.RaftID)
		}
		slices.Sort(voters)
		if len(ids) != len(nodes) || !slices.Equal(voters, i.Voters) || len(i.Learners) > 0 || i.Joint {
			return fmt.Errorf("%+v", i)
		}
		// All of them have to know, and not the leader alone: until then it is still
		// the voters before that decide who leads when it is lost.
		for _, p := range nodes {
			if ids[p.id] == 0 {
				return fmt.Errorf("node %d is not among %v", p.id, ids)
			}
			if own, err := p.info(); err != nil || own.Joint || !slices.Equal(own.Voters, voters) {
				return fmt.Errorf("node %d sees %+v: %v", p.id, own, err)
			}
		}
		return nil
	})
	return ids
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// refuses launches a node that must end by itself, and say certain things.
func (c *processes) refuses(p *process, says ...string) {
	c.t.Helper()
	c.launch(p)
	select {
	case <-p.exited:
	case <-time.After(patience):
		c.t.Fatalf("node %d does not refuse to run:\n%s", p.id, p.out.text())
	}
	said := p.out.text()
	if p.cmd.ProcessState.ExitCode() <= 0 {
		c.t.Errorf("node %d ends with %v", p.id, p.cmd.ProcessState)
	}
	for _, text := range says {
		if !strings.Contains(said, text) {
			c.t.Errorf("node %d does not say %q:\n%s", p.id, text, said)
		}
	}
}

// A controller whose directory is gone is another one, with the same node id. It
// takes the place of its predecessor, and nobody notices.
func TestWipedVoter(t *testing.T) {
	c := startCluster(t, 3)
	cluster := c.clusterID()
	before := c.quorumOf(c.nodes...)
	pulse := c.startPulse(cluster)
	for _, leads := range []bool{false, true} {
		p := c.leader()
		if !leads {
			p = c.nodes[p.id%3]
		}
		pulse.gap()
		p.signal(os.Kill)
		p.data = t.TempDir()
		begun := time.Now()
		c.launch(p)
		c.started(p)
		after := c.quorumOf(c.nodes...)
		c.eventually("the predecessor is gone", func() error {
			if after = c.quorumOf(c.nodes...); after[p.id] == before[p.id] {
				return fmt.Errorf("node %d still has raft id %d", p.id, before[p.id])
			}
			return nil
		})
		t.Logf("node %d, leader: %v: in its place after %s; no change of the metadata for %s", p.id, leads, time.Since(begun), pulse.gap())
		for _, other := range c.nodes {
			if other != p && after[other.id] != before[other.id] {
				t.Errorf("node %d had raft id %d and has %d", other.id, before[other.id], after[other.id])
			}
		}
		before = after
	}
	pulse.end()
	// What was made before is there, at the newcomers too.
	p := c.leader()
	out, err := exec.Command(c.bin, "quorum", "--admin-listen", "127.0.0.1:"+p.admin).CombinedOutput()
	if err != nil {
		t.Fatalf("streambus quorum: %v\n%s", err, out)
	}
	for node, id := range before {
		if !strings.Contains(string(out), fmt.Sprintf("%016x", id)) && !strings.Contains(string(out), fmt.Sprint(id)) {
			t.Errorf("streambus quorum does not show raft id %d of node %d:\n%s", id, node, out)
		}
	}
}

// A data directory that does not belong to a node is refused, and so is a cluster
// that does not belong to a directory.
func TestForeignDirectory(t *testing.T) {
	c := startCluster(t, 3)
	cluster := c.clusterID()
	pulse := c.startPulse(cluster)
	p := c.nodes[2]
	own := p.data
	c.terminate(p)

	p.data = copyDir(t, c.nodes[1].data)
	c.refuses(p, "belongs to node 2", "this is node 3")

	// A cluster of its own, under the same node id.
	other := newProcesses(t)
	x := other.add(asBoth)
	x.id = p.id
	x.data = t.TempDir()
	other.voters = x.voter()
	other.launch(x)
	other.started(x)
	foreign := other.clusterID()
	other.terminate(x)
	p.data = copyDir(t, x.data)
	c.refuses(p, cluster, foreign, "controller.quorum.voters")

	// Its own directory, and voters of another cluster.
	p.data = own
	other.launch(x)
	other.started(x)
	ours := c.voters
	c.voters = fmt.Sprintf("%s,%s", p.voter(), strings.Replace(x.voter(), "3@", "7@", 1))
	other.terminate(x)
	x.id, x.data = 7, t.TempDir()
	other.voters = x.voter()
	other.launch(x)
	other.started(x)
	foreign = other.clusterID()
	c.refuses(p, cluster, foreign, "controller.quorum.voters")
	// As a broker that is no controller too.
	b := c.add(asBroker)
	c.voters = ours
	c.launch(b)
	c.started(b)
	c.terminate(b)
	c.voters = x.voter()
	c.refuses(b, cluster, foreign, "controller.quorum.voters")

	c.voters = ours
	c.launch(p)
	c.started(p)
	c.quorumOf(c.nodes[:3]...)
	if i, err := x.info(); err != nil || len(i.Voters) != 1 {
		t.Errorf("the other cluster has become %+v, %v", i, err)
	}
	t.Logf("no change of the metadata for %s", pulse.gap())
}

// Controllers come and go while the cluster works.
func TestMembershipWhileRunning(t *testing.T) {
	c := startCluster(t, 3)
	cluster := c.clusterID()
	c.quorumOf(c.nodes...)
	pulse := c.startPulse(cluster)
	controllers := c.as(901, cluster) // 900 is the pulse

	p := c.add(asController)
	p.settings = []string{"controller.quorum.voters=", fmt.Sprintf("controller.quorum.bootstrap.servers=%s,%s", c.nodes[0].controllerAddr(), c.nodes[1].controllerAddr())}
	c.launch(p)
	c.logged(p, "waits to be added")
	c.quorumOf(c.nodes[:3]...)
	voter := c.asVoter(p)
	pulse.gap()
	c.submit(controllers, &control.PutVoter{New: true, Voter: voter})
	c.started(p)
	ids := c.quorumOf(c.nodes...)
	t.Logf("a fourth was added; no change of the metadata for %s", pulse.gap())

	for round, leads := range []bool{false, true, false} {
		var gone *process
		leader := c.leader()
		for _, x := range c.nodes {
			if (leader == x) == leads && (gone == nil || strings.Contains(x.roles, asBroker)) {
				gone = x
			}
		}
		pulse.gap()
		c.submit(controllers, &control.RemoveVoter{RaftID: ids[gone.id]})
		var left []*process
		for _, x := range c.nodes {
			if x != gone {
				left = append(left, x)
			}
		}
		term := func() uint64 {
			i, err := c.leader().info()
			if err != nil {
				t.Fatal(err)
			}
			return i.Term
		}
		c.quorumOf(left...)
		gap := pulse.gap()
		t.Logf("node %d was removed, leader: %v; no change of the metadata for %s", gone.id, leads, gap)
		if gap > 2*time.Second {
			t.Error("that is an election, where the office should have been handed over")
		}
		if strings.Contains(gone.roles, asBroker) { // it goes on as one, and follows other controllers
			topic := fmt.Sprint("after-", gone.id)
			c.submit(controllers, &control.CreateTopic{Name: topic, ID: newUUID(), Partitions: 1, ReplicationFactor: 1})
			c.eventually("a broker that is no controller any more follows", func() error {
				row, err := metadata(gone, topic, 2*time.Second)
				if err == nil && row.ErrorCode != 0 {
					err = fmt.Errorf("error %d", row.ErrorCode)
				}
				return err
			})
		}
		// It lives, and stands for election in vain.
		at := term()
		if round < 2 {
			<-time.After(3 * time.Second)
		}
		if now := term(); now != at {
			t.Errorf("the removed node %d has brought the others from term %d to %d", gone.id, at, now)
		}
		if gap := pulse.gap(); gap > time.Second {
			t.Errorf("with the removed node %d alive no change of the metadata for %s", gone.id, gap)
		}
		c.terminate(gone)
		c.mu.Lock()
		c.nodes = left
		c.mu.Unlock()
	}
	c.quorumOf(c.nodes...)
	pulse.end()
}

// asVoter is how a node says it is a controller.
func (c *processes) asVoter(p *process) image.Voter {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	a, err := sayHello(ctx, p)
	if err != nil {
		c.t.Fatal(err)
	}
	var port uint16
	fmt.Sscan(p.controllers, &port)
	return image.Voter{
		RaftID: a.RaftID, NodeID: a.NodeID, DirectoryID: a.DirectoryID, Levels: a.Levels,
		Endpoints: []image.Endpoint{{Name: "CONTROLLER", Host: "127.0.0.1", Port: port}},
	}
}
