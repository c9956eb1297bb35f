package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// kcat uses librdkafka's tool. What is expected is written down here: it is what
// kcat prints with Apache Kafka.
func kcat(ctx context.Context, b *bench, r *result) error {
	if _, err := exec.LookPath("kcat"); err != nil {
		return fmt.Errorf("%w: apt-get install kcat", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	addr := b.ours.Addr
	do := func(what, in, want string, args ...string) {
		cmd := exec.CommandContext(ctx, "kcat", append([]string{"-b", addr}, args...)...)
		cmd.Stdin = strings.NewReader(in)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		seen := strings.ReplaceAll(out.String(), addr, "ADDR")
		if err != nil {
			seen += err.Error() + ": " + errs.String()
		}
		r.check(what, want, seen)
	}
	if err := createTopic(ctx, addr, "k-one", 2, nil); err != nil {
		return err
	}
	do("metadata", "", `Metadata for k-one (from broker 1: ADDR/1):
 1 brokers:
  broker 1 at ADDR (controller)
 1 topics:
  topic "k-one" with 2 partitions:
    partition 0, leader 1, replicas: 1, isrs: 1
    partition 1, leader 1, replicas: 1, isrs: 1
`, "-L", "-t", "k-one")

	all := ""
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		do("produce with "+codec, "first "+codec+"\nsecond "+codec+"\n", "", "-P", "-t", "k-one", "-p", "0", "-z", codec)
		all += "first " + codec + "\nsecond " + codec + "\n"
	}
	do("consume everything", "", all, "-C", "-t", "k-one", "-p", "0", "-o", "beginning", "-e", "-q")
	do("consume from an offset", "", "8 first zstd\n9 second zstd\n", "-C", "-t", "k-one", "-p", "0", "-o", "8", "-e", "-q", "-f", "%o %s\n")
	do("consume from before the end", "", "second zstd\n", "-C", "-t", "k-one", "-p", "0", "-o", "-1", "-e", "-q")
	do("consume some", "", "first none\nsecond none\nfirst gzip\n", "-C", "-t", "k-one", "-p", "0", "-o", "beginning", "-c", "3", "-q")

	do("produce with key and headers", "k:v\n", "", "-P", "-t", "k-one", "-p", "1", "-K:", "-H", "a=1", "-H", "a=2", "-H", "empty=", "-H", "null")
	do("produce a null value", "gone:\n", "", "-P", "-t", "k-one", "-p", "1", "-K:", "-Z")
	do("produce without acknowledgement", "unacknowledged\n", "", "-P", "-t", "k-one", "-p", "1", "-X", "acks=0")
	do("produce idempotently", "once\n", "", "-P", "-t", "k-one", "-p", "1", "-X", "enable.idempotence=true")
	do("consume keys, headers and null values", "", `0 key 1 "k" value 1 "v" headers a=1,a=2,empty=,null=NULL
1 key 4 "gone" value -1 "" headers `+`
2 key -1 "" value 14 "unacknowledged" headers `+`
3 key -1 "" value 4 "once" headers `+`
`, "-C", "-t", "k-one", "-p", "1", "-o", "beginning", "-e", "-q", "-f", "%o key %K \"%k\" value %S \"%s\" headers %h\n")

	if err := writeAt(ctx, addr, "k-times", 1_700_000_000_000, 1000, 10); err != nil {
		return err
	}
	do("consume from a time", "", "1700000007000 record 7\n1700000008000 record 8\n1700000009000 record 9\n",
		"-C", "-t", "k-times", "-p", "0", "-o", "s@1700000006500", "-e", "-q", "-f", "%T %s\n")
	do("consume between times", "", "record 2\nrecord 3\n",
		"-C", "-t", "k-times", "-p", "0", "-o", "s@1700000002000", "-o", "e@1700000004000", "-q", "-f", "%s\n")
	do("ask for an offset by time", "", "k-times [0] offset 5\n", "-Q", "-t", "k-times:0:1700000004001")
	do("ask for the offset of a time to come", "", "k-times [0] offset -1\n", "-Q", "-t", "k-times:0:1800000000000")
	return nil
}
