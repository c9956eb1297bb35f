package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// remote is how a command reaches a broker: flags that all of them have.
type remote struct {
	bootstrap string
	timeout   time.Duration
}

func remoteFlags(cmd *cobra.Command) *remote {
	r := &remote{}
	cmd.Flags().StringVarP(&r.bootstrap, "bootstrap", "b", "127.0.0.1:9092", "host:port of a broker, or several with commas")
	cmd.Flags().DurationVar(&r.timeout, "timeout", 10*time.Second, "how long to wait for the broker's answers")
	return r
}

// retryPause stands between two attempts of the client.
const retryPause = 250 * time.Millisecond

// session is a client whose broker has answered once.
type session struct {
	*remote
	client *kgo.Client
	admin  *kadm.Client
}

// open connects. Its caller closes the session.
func (r *remote) open(ctx context.Context, opts ...kgo.Opt) (*session, error) {
	if r.timeout <= 0 {
		return nil, usagef("--timeout %v: must be more than nothing", r.timeout)
	}
	seeds := strings.Split(r.bootstrap, ",")
	for _, s := range seeds {
		_, port, err := net.SplitHostPort(s)
		if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
			return nil, usagef("--bootstrap %s: must be host:port", s)
		}
	}
	opts = append(opts, kgo.ClientID("streambus"), kgo.SoftwareNameAndVersion("streambus", version),
		kgo.SeedBrokers(seeds...), kgo.DialTimeout(r.timeout),
		// Longer pauses, and such that grow, would outlast the time-out.
		kgo.RetryBackoffFn(func(int) time.Duration { return retryPause }),
		kgo.MetadataMinAge(retryPause),
		// A connection that is being set up does not heed the context.
		kgo.RequestTimeoutOverhead(min(max(r.timeout, 100*time.Millisecond), 15*time.Minute)))
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		switch {
		case errors.Is(err, context.Canceled):
			return nil, err
		case timedOut(err):
			err = fmt.Errorf("nothing said within %v", r.timeout)
		case hungUp(err):
			err = errors.New("it closes connections before it answers: it is stopping, has as many as its max.connections, or wants TLS")
		}
		return nil, fmt.Errorf("no broker answers at %s (%w): \"streambus serve\" starts one, --bootstrap names another", r.bootstrap, err)
	}
	admin := kadm.NewClient(client)
	admin.SetTimeoutMillis(int32(min(r.timeout.Milliseconds(), 1<<31-1)))
	return &session{r, client, admin}, nil
}

func (s *session) close() { s.client.Close() }

// failed explains why a call had no answer. A broker was there when the
// session was opened, so that one it cannot dial was named by that broker.
func (s *session) failed(call string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case isDial(err):
		return fmt.Errorf("%s: the broker at %s tells clients to connect elsewhere, where nothing answers (%w): look at its advertised.listeners", call, s.bootstrap, err)
	case timedOut(err):
		return fmt.Errorf("%s: no answer from %s within %v: it may have been done or not; --timeout waits longer", call, s.bootstrap, s.timeout)
	case hungUp(err):
		return fmt.Errorf("%s: the broker at %s closed the connection before it answered, as one does that is stopped: it may have been done or not", call, s.bootstrap)
	}
	return fmt.Errorf("%s: asking the broker at %s: %w", call, s.bootstrap, err)
}

// hungUp tells whether a new connection was closed for an answer. The client's
// own words for that guess at SASL, which these commands do not speak.
func hungUp(err error) bool {
	var e *kgo.ErrFirstReadEOF
	return errors.As(err, &e)
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func isDial(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && e.Op == "dial"
}

// refused puts a broker's refusal into words: its message if it sent one.
func refused(topic string, err error, message string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return fmt.Errorf("topic %s does not exist: \"streambus topic create %[1]s\" creates it, \"streambus topic list\" says what there is", topic)
	case errors.Is(err, kerr.TopicAlreadyExists):
		return fmt.Errorf("topic %s is there already: \"streambus topic alter\" changes it", topic)
	}
	code := (*kerr.Error)(nil)
	switch {
	case !errors.As(err, &code):
		return fmt.Errorf("topic %s: %w", topic, err)
	case message == "":
		message = code.Description
	}
	return fmt.Errorf("topic %s: %s (%s)", topic, message, code.Message)
}

// topic asks for one topic, which must be there.
func (s *session) topic(ctx context.Context, name string) (kadm.TopicDetail, error) {
	meta, err := s.admin.Metadata(ctx, name)
	if err != nil {
		return kadm.TopicDetail{}, s.failed("topic "+name, err)
	}
	t := meta.Topics[name]
	return t, refused(name, t.Err, "")
}

// completeTopics completes the names of topics in a shell.
func (r *remote) completeTopics(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return r.complete(cmd, args, func(ctx context.Context, s *session) ([]string, error) {
		topics, err := s.admin.ListTopics(ctx)
		return topics.Names(), err
	})
}

// complete gives names that are not among the arguments yet. A broker that is not
// there must not hold the user's prompt.
func (r *remote) complete(cmd *cobra.Command, args []string, list func(context.Context, *session) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	short := remote{r.bootstrap, min(r.timeout, time.Second)}
	ctx, cancel := context.WithTimeout(cmd.Context(), short.timeout)
	defer cancel()
	s, err := short.open(ctx)
	if err != nil {
		return nil, directive
	}
	defer s.close()
	names, err := list(ctx, s)
	if err != nil {
		return nil, directive
	}
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) }), directive
}

// completeTopic completes the one topic that a command takes.
func (r *remote) completeTopic(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return r.completeTopics(cmd, args, word)
}
