package driver

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Membership is what a member of a group is told by its arguments, after the word
// member. It reads the topic where the group has committed, or from the start,
// until it is told to end by SIGTERM; then it commits what it has read and leaves.
type Membership struct {
	Bootstrap, Group, Topic string
	How                     string // the assignor, in the library's words
}

// SessionSeconds is after how long a member is taken for dead that does not
// say that it lives, HeartbeatMS how often it says so.
const (
	SessionSeconds = 5
	HeartbeatMS    = 500
)

// Member is a member's command line, with a context that ends when the member shall.
func Member(args []string) (ctx context.Context, m Membership, err error) {
	if len(args) != 4 {
		return nil, m, fmt.Errorf("member: BOOTSTRAP GROUP TOPIC HOW are wanted, not %q", args)
	}
	ctx, _ = signal.NotifyContext(context.Background(), syscall.SIGTERM)
	return ctx, Membership{args[0], args[1], args[2], args[3]}, nil
}

// Read prints that a record was read. It is out when Read returns: what a member
// commits after that it has not lost, however it ends.
func Read(partition int32, offset int64, value []byte) {
	fmt.Fprintf(os.Stdout, "read\t%d\t%d\t%s\n", partition, offset, value)
}

// Committed prints that the broker has acknowledged a commit.
func Committed(partition int32, offset int64) {
	fmt.Fprintf(os.Stdout, "committed\t%d\t%d\n", partition, offset)
}
