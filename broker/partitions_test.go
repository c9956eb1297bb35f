package broker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/streambus/streambus/raftmeta/control"
)

// partition is what the command prints when it asks a node.
func (c *processes) partition(p *process, name string) (string, error) {
	out, err := exec.CommandContext(c.t.Context(), c.bin, "partition", name, "--admin-listen", "127.0.0.1:"+p.admin).CombinedOutput()
	return string(out), err
}

// tells returns when what a node prints of t-0 matches.
func (c *processes) tells(p *process, what string) {
	c.t.Helper()
	pattern := regexp.MustCompile("(?m)" + what)
	c.eventually(fmt.Sprintf("node %d tells %s", p.id, what), func() error {
		out, err := c.partition(p, "t-0")
		if err == nil && !pattern.MatchString(out) {
			err = errors.New(out)
		}
		return err
	})
}

// moving returns when so many partitions that a node leads are being moved.
func (c *processes) moving(p *process, n float64) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%v partitions are being moved", n), func() error {
		m := scrapeAt(c.t, "127.0.0.1:"+p.admin)
		if got, ok := m.values["kafka_server_replicamanager_reassigningpartitions"]; !ok || got != n {
			return fmt.Errorf("node %d says %v, %v", p.id, got, ok)
		}
		return nil
	})
}

// Who asks is told which follower is in sync and which is not, and the reason: one
// that was killed, one that is stopped, and both when they are back.
func TestPartitionsTell(t *testing.T) {
	c := newProcesses(t, asBoth, asBoth, asBoth)
	for _, p := range c.nodes {
		// The session of a stopped broker outlasts what the test needs.
		p.settings = []string{"replica.lag.time.max.ms=2000", "broker.session.timeout.ms=60000"}
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	c.replicated("t")
	c.put("t", "first")
	c.inSync("t", 3)
	leader, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(slices.Clone(c.nodes), func(x *process) bool { return x == leader })
	killed, stopped := others[0], others[1]
	const all = `0s +\S+ ago +\S+ ago +it has everything$` // behind, fetched, link
	row := func(p *process, standing, why string) string {
		return fmt.Sprintf("^%d +%s +.* %s", p.id, standing, why)
	}
	c.tells(leader, row(leader, "in", "it leads$"))
	for _, p := range others {
		c.tells(leader, row(p, "in", all))
		c.tells(p, fmt.Sprintf(`^leader +node %d, .*: this is what node %d knows, which follows$`, leader.id, p.id))
		c.tells(p, `^link +connected for .*, [12] fetches under way, last answer .* ago$`)
		c.tells(p, `^waits for +more: it has all that it was told of$`)
	}

	killed.signal(os.Kill)
	c.tells(leader, row(killed, "out", "the controllers have it as fenced$"))
	c.put("t", "without one")
	c.launch(killed)
	c.started(killed)
	c.tells(leader, row(killed, "in", all))

	by := c.as(900, c.clusterID())
	before := scrapeAt(t, "127.0.0.1:"+leader.admin)
	stopped.pause()
	c.put("t", "without another")
	c.tells(leader, row(stopped, "out", `flushed to \d+ of \d+, behind for .*s, more than replica\.lag\.time\.max\.ms \(2s\); it may enter from \d+ on, the high watermark$`))
	c.submit(by, &control.CreateTopic{Name: "m", ID: newUUID(), Partitions: -1, ReplicationFactor: -1, Assignments: [][]int32{{leader.id}}})
	c.submit(by, &control.AlterPartitionReassignments{Partitions: []control.Reassign{{TopicPartition: control.TopicPartition{Topic: "m"}, Replicas: []int32{leader.id, stopped.id}}}})
	c.moving(leader, 1)
	stopped.resume()
	c.moving(leader, 0)
	c.tells(leader, row(stopped, "in", all))

	after := scrapeAt(t, "127.0.0.1:"+leader.admin)
	for _, name := range []string{"kafka_server_replicamanager_isrshrinks_total", "kafka_server_replicamanager_isrexpands_total", "kafka_server_brokertopicmetrics_replicationbytesout_total"} {
		if after.values[name] <= before.values[name] {
			t.Errorf("%s was %v, and is %v", name, before.values[name], after.values[name])
		}
	}
	c.eventually("the follower has everything", func() error {
		m := scrapeAt(t, "127.0.0.1:"+stopped.admin)
		lag, ok := m.values[`kafka_server_replicafetchermanager_maxlag{clientId="Replica"}`]
		if in := m.values["kafka_server_brokertopicmetrics_replicationbytesin_total"]; !ok || lag != 0 || in == 0 {
			return fmt.Errorf("it lacks %v (%v), and got %v bytes", lag, ok, in)
		}
		return nil
	})
	c.same("t")

	leader.pause() // for long: its connections stay
	c.tells(killed, fmt.Sprintf(`^waits for +an answer of node %d, which has said nothing for`, leader.id))
	leader.resume()
	c.tells(killed, `^waits for +more: it has all that it was told of$`)
}

// A node says where to ask about what it has no replica of, and a topic's answer has
// a bound.
func TestPartitionsElsewhere(t *testing.T) {
	c := startNodes(t, asBoth, asBroker, asController)
	c.submit(c.as(900, c.clusterID()), &control.CreateTopic{Name: "t", ID: newUUID(), Partitions: 2 * (maxStates + 5), ReplicationFactor: 1})
	refused := func(p *process, name, says string) {
		t.Helper()
		if out, err := c.partition(p, name); err == nil || out != "streambus: "+says+"\n" {
			t.Errorf("node %d says of %s: %s, %v", p.id, name, out, err)
		}
	}
	leader, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	other := c.nodes[2-leader.id]
	refused(other, "t-0", fmt.Sprintf("node %d has no replica of t-0: node %d leads it, the replicas are on [%d]", other.id, leader.id, leader.id))
	refused(c.nodes[2], "t-0", "node 3 is no broker: it has no replicas")
	for _, p := range c.nodes[:2] {
		c.eventually("all partitions are there", func() error {
			out, err := c.partition(p, "t")
			if n := len(regexp.MustCompile("(?m)^partition ").FindAllString(out, -1)); err == nil && (n != maxStates || !regexp.MustCompile("\n5 more partitions are left out").MatchString(out)) {
				err = fmt.Errorf("%d partitions, which end with %s", n, lastLines(out, 3))
			}
			return err
		})
	}
}
