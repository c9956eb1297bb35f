package broker

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// ready is what a node answers that is asked whether clients can be served: nothing
// if they can, else why not.
func (p *process) ready() (why string, err error) {
	resp, err := http.Get("http://127.0.0.1:" + p.admin + "/health/ready")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusOK {
		return "", err
	}
	return strings.TrimSpace(string(text)), nil
}

// A broker is ready for as long as the controllers count on it: through an election,
// not while none can be reached for longer than its session, and again after that.
func TestReadiness(t *testing.T) {
	c := newProcesses(t, asController, asController, asController, asBroker)
	for _, p := range c.nodes {
		p.settings = []string{"broker.session.timeout.ms=6000"}
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	b := c.nodes[3]
	by := c.as(900, c.clusterID())
	c.submit(by, setRetention(1))

	gone := c.leader()
	begun := time.Now()
	gone.pause()
	elected := make(chan raftmeta.Outcome, 1)
	go func() { elected <- c.submit(by, setRetention(2)) }()
	for over := false; !over; {
		select {
		case <-elected:
			over = true
		case <-time.After(20 * time.Millisecond):
		}
		if why, err := b.ready(); err != nil || why != "" {
			t.Fatalf("during an election: %s, %v", why, err)
		}
	}
	for _, p := range c.nodes[:3] {
		p.pause()
	}
	c.eventually("a broker that no controller answers is not ready", func() error {
		why, err := b.ready()
		switch {
		case err == nil && why == "":
			err = errors.New("it is")
		case err == nil && !strings.HasPrefix(why, "no controller has answered for"):
			t.Fatalf("it says %s", why)
		}
		return err
	})
	// The last answer was given within a second before, or came during the election.
	if after := time.Since(begun); after < 5*time.Second {
		t.Errorf("it said so after %s", after)
	}
	for _, p := range c.nodes[:3] {
		p.resume()
	}
	c.eventually("it is ready again", func() error {
		why, err := b.ready()
		if err == nil && why != "" {
			err = errors.New(why)
		}
		return err
	})
	if why, err := c.nodes[0].ready(); err != nil || why != "" {
		t.Errorf("a controller is not ready: %s, %v", why, err)
	}
}

// What a broker says of its standing follows from whether it is fenced, when it was
// answered last, and until when it had a lease.
func TestStanding(t *testing.T) {
	const session = 9 * time.Second
	now := time.Now()
	incarnation := image.UUID{7}
	registered, _ := image.Apply(image.Empty(), 1, []image.Record{
		&image.ClusterRecord{ClusterID: "c", Level: 1},
		&image.BrokerRecord{ID: 1, Incarnation: incarnation, Fenced: true, Dirs: []image.UUID{{1}}},
	})
	counted, _ := image.Apply(registered, 2, []image.Record{&image.BrokerChangeRecord{ID: 1, Epoch: 1}})
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, x := range []struct {
		img                       *image.Image
		admitted, answered, until time.Time
		want                      string
	}{
		{counted, ago(0), ago(0), time.Time{}, ""}, // just started
		{counted, ago(time.Hour), ago(0), now.Add(time.Second), ""},
		{counted, ago(time.Hour), ago(session), ago(session), ""},
		{counted, ago(time.Hour), ago(session + 1), ago(8 * time.Second), "no controller has answered for 9s,"},
		{counted, ago(time.Hour), ago(0), ago(session + 1), "have granted no lease for 9s,"},
		{counted, ago(session + 1), ago(0), time.Time{}, "have granted no lease for 9s,"},
		{registered, ago(time.Hour), ago(0), now.Add(time.Second), "is fenced"},
		{image.Empty(), ago(time.Hour), ago(0), now.Add(time.Second), "is fenced"},
	} {
		s := newSession(nil, nil, nil, control.RegisterBroker{ID: 1, Incarnation: incarnation})
		s.admitted, s.answered = x.admitted, x.answered
		if !x.until.IsZero() {
			s.lease.Granted(x.until.Add(-time.Second), time.Second)
		}
		if got := fmt.Sprint(s.standing(x.img, now, session)); got != "<nil>" && x.want == "" || !strings.Contains(got, x.want) {
			t.Errorf("%+v: %s", x, got)
		}
	}
}
