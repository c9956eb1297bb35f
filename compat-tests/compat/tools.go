package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

const (
	topicsTool   = "org.apache.kafka.tools.TopicCommand"
	configsTool  = "kafka.admin.ConfigCommand"
	offsetsTool  = "org.apache.kafka.tools.GetOffsetShell"
	deleteTool   = "org.apache.kafka.tools.DeleteRecordsCommand"
	logDirsTool  = "org.apache.kafka.tools.LogDirsCommand"
	featuresTool = "org.apache.kafka.tools.FeatureCommand"
	versionsTool = "org.apache.kafka.tools.BrokerApiVersionsCommand"
	electTool    = "org.apache.kafka.tools.LeaderElectionCommand"
	quorumTool   = "org.apache.kafka.tools.MetadataQuorumCommand"
	clusterTool  = "org.apache.kafka.tools.ClusterTool"
	consoleIn    = "org.apache.kafka.tools.ConsoleProducer"
	consoleOut   = "org.apache.kafka.tools.consumer.ConsoleConsumer"
	producerPerf = "org.apache.kafka.tools.ProducerPerformance"
	groupsTool   = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
	consumerPerf = "org.apache.kafka.tools.ConsumerPerformance"
	dumpTool     = "org.apache.kafka.tools.DumpLogSegments"
)

// typed is a command line: what it is called here, the tool, its arguments, and
// what goes into it. In arguments, ADDR is the broker's address, DATA its
// directory and DIR one for files.
type typed struct {
	name, class, args, in string
	// kept picks the lines of what was printed that are compared, and changes
	// what differs from run to run in them; nil takes all as it is.
	kept   func(string) string
	before func(ctx context.Context, addr string) error // what is done before, if not nil
}

// commands are what a user may type, in this order.
var commands = []typed{
	{name: "topics: create", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t-one --partitions 3 --replication-factor 1 --config retention.ms=86400000"},
	{name: "topics: create with defaults", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t.two_three"},
	{name: "topics: create again", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t-one"},
	{name: "topics: create again, if not there", class: topicsTool, args: "--bootstrap-server ADDR --create --if-not-exists --topic t-one"},
	{name: "topics: create with too many replicas", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t-replicas --replication-factor 3"},
	{name: "topics: create with an invalid name", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t#bad"},
	{name: "topics: create with an invalid setting", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t-setting --config retention.ms=never"},
	{name: "topics: create with an assignment", class: topicsTool, args: "--bootstrap-server ADDR --create --topic t-assigned --replica-assignment 1,1"},
	{name: "topics: list", class: topicsTool, args: "--bootstrap-server ADDR --list", kept: only(`^t[-.]`)},
	{name: "topics: list some", class: topicsTool, args: "--bootstrap-server ADDR --list --topic t-.*"},
	{name: "topics: describe", class: topicsTool, args: "--bootstrap-server ADDR --describe --topic t-one"},
	{name: "topics: describe an unknown one", class: topicsTool, args: "--bootstrap-server ADDR --describe --topic t-none"},
	{name: "topics: describe overrides", class: topicsTool, args: "--bootstrap-server ADDR --describe --topics-with-overrides --topic t-one"},
	{name: "topics: describe unavailable partitions", class: topicsTool, args: "--bootstrap-server ADDR --describe --unavailable-partitions --topic t-one"},
	{name: "topics: more partitions", class: topicsTool, args: "--bootstrap-server ADDR --alter --topic t-one --partitions 4"},
	{name: "topics: fewer partitions", class: topicsTool, args: "--bootstrap-server ADDR --alter --topic t-one --partitions 2"},
	{name: "topics: describe four partitions", class: topicsTool, args: "--bootstrap-server ADDR --describe --topic t-one"},

	{name: "configs: describe a topic", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type topics --entity-name t-one"},
	{name: "configs: describe all of a topic", class: configsTool, args: "--bootstrap-server ADDR --describe --all --entity-type topics --entity-name t-one", kept: except(`^  (streambus\.flush|min\.insync\.replicas)=`)},
	{name: "configs: describe all of a topic, what differs", class: configsTool, args: "--bootstrap-server ADDR --describe --all --entity-type topics --entity-name t-one", kept: only(`^  (streambus\.flush|min\.insync\.replicas)=`)},
	{name: "configs: alter a topic", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type topics --entity-name t-one --add-config max.message.bytes=2000000,segment.bytes=10000000"},
	{name: "configs: take back a setting", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type topics --entity-name t-one --delete-config retention.ms"},
	{name: "configs: describe it again", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type topics --entity-name t-one"},
	{name: "configs: an invalid value", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type topics --entity-name t-one --add-config retention.ms=x"},
	{name: "configs: an unknown setting", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type topics --entity-name t-one --add-config nothing=x"},
	{name: "configs: an unknown topic", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type topics --entity-name t-none --add-config retention.ms=1"},
	{name: "configs: alter a broker", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type brokers --entity-name 1 --add-config log.retention.ms=700000000"},
	{name: "configs: describe a broker", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type brokers --entity-name 1"},
	{name: "configs: take back a broker's setting", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type brokers --entity-name 1 --delete-config log.retention.ms"},
	{name: "configs: all brokers", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type brokers --entity-default --add-config message.max.bytes=1100000"},
	{name: "configs: describe all brokers", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type brokers --entity-default"},
	{name: "configs: take back the setting of all brokers", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type brokers --entity-default --delete-config message.max.bytes"},
	{name: "configs: a broker's read-only setting", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type brokers --entity-name 1 --add-config node.id=9"},

	{name: "console producer", class: consoleIn, args: "--bootstrap-server ADDR --topic t.two_three --reader-property parse.key=true --reader-property key.separator=:", in: "a:1\nb:2\n:no key\nc:\nd:4\n"},
	{name: "console producer with headers", class: consoleIn, args: "--bootstrap-server ADDR --topic t.two_three --compression-codec zstd --reader-property parse.headers=true --reader-property parse.key=true --reader-property null.marker=NULL", in: "h1:x,h2:y\tk\tv\nNULL\tk2\tNULL\n"},
	{name: "console producer without acknowledgements", class: consoleIn, args: "--bootstrap-server ADDR --topic t.two_three --request-required-acks 1 --sync", in: "plain\n"},
	{name: "console consumer", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --partition 0 --offset earliest --max-messages 8 --timeout-ms 15000 --formatter-property print.key=true --formatter-property print.headers=true --formatter-property print.offset=true --formatter-property print.partition=true"},
	{name: "console consumer from an offset", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --partition 0 --offset 3 --max-messages 2 --timeout-ms 15000"},
	{name: "console consumer at the end", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --partition 0 --offset latest --timeout-ms 1000"},
	{name: "producer performance", class: producerPerf, args: "--bootstrap-server ADDR --topic t-one --num-records 20000 --record-size 200 --throughput -1 --command-property compression.type=lz4", kept: performed},

	{name: "offsets: latest", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time latest"},
	{name: "offsets: earliest", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time earliest"},
	{name: "offsets: max timestamp", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time max-timestamp"},
	{name: "offsets: earliest local", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time earliest-local"},
	{name: "offsets: latest tiered", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time latest-tiered"},
	{name: "offsets: -1", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time -1"},
	{name: "offsets: -2", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time -2"},
	{name: "offsets: -3", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time -3"},
	{name: "offsets: -4", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time -4"},
	{name: "offsets: -5", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time -5"},
	{name: "offsets: earliest pending upload", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time earliest-pending-upload"},
	{name: "offsets: a time", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time 1000"},
	{name: "offsets: a time to come", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time 4000000000000"},
	{name: "offsets: some partitions", class: offsetsTool, args: "--bootstrap-server ADDR --topic-partitions t.two_three:0,t-assigned:0-2"},
	{name: "offsets: an unknown topic", class: offsetsTool, args: "--bootstrap-server ADDR --topic t-none"},

	{name: "delete-records", class: deleteTool, args: "--bootstrap-server ADDR --offset-json-file DIR/delete.json"},
	{name: "delete-records: beyond the end", class: deleteTool, args: "--bootstrap-server ADDR --offset-json-file DIR/beyond.json"},
	{name: "offsets after delete-records", class: offsetsTool, args: "--bootstrap-server ADDR --topic t.two_three --time earliest"},

	{name: "log-dirs", class: logDirsTool, args: "--bootstrap-server ADDR --describe --topic-list t.two_three,t-assigned"},
	{name: "log-dirs: an unknown broker", class: logDirsTool, args: "--bootstrap-server ADDR --describe --broker-list 7"},
	{name: "features", class: featuresTool, args: "--bootstrap-server ADDR describe", kept: eachLine},
	{name: "features: upgrade one that is none", class: featuresTool, args: "--bootstrap-server ADDR upgrade --feature no.such.version=1"},
	{name: "features: disable one that is none", class: featuresTool, args: "--bootstrap-server ADDR disable --feature no.such.version"},
	{name: "features: a release of Kafka to come", class: featuresTool, args: "--bootstrap-server ADDR upgrade --feature metadata.version=9999 --dry-run"},
	{name: "api versions", class: versionsTool, args: "--bootstrap-server ADDR", kept: versionsOf},
	{name: "cluster id", class: clusterTool, args: "cluster-id --bootstrap-server ADDR"},
	{name: "cluster endpoints", class: clusterTool, args: "list-endpoints --bootstrap-server ADDR"},
	{name: "cluster: unregister a broker that is not there", class: clusterTool, args: "unregister --bootstrap-server ADDR --id 7"},
	{name: "quorum: status", class: quorumTool, args: "--bootstrap-server ADDR describe --status", kept: quorumOf},
	{name: "quorum: replication", class: quorumTool, args: "--bootstrap-server ADDR describe --replication", kept: quorumOf},
	{name: "quorum: remove a controller that is not there", class: quorumTool, args: "--bootstrap-server ADDR remove-controller --controller-id 7 --controller-directory-id MkU3OEVBNTcwNTJENDM2Qg"},
	{name: "leader election: preferred", class: electTool, args: "--bootstrap-server ADDR --election-type preferred --topic t-one --partition 0"},
	{name: "leader election: preferred, everywhere", class: electTool, args: "--bootstrap-server ADDR --election-type preferred --all-topic-partitions"},
	{name: "leader election: unclean", class: electTool, args: "--bootstrap-server ADDR --election-type unclean --topic t-one --partition 1"},
	{name: "leader election: unclean, everywhere", class: electTool, args: "--bootstrap-server ADDR --election-type unclean --all-topic-partitions"},
	{name: "leader election: an unknown topic", class: electTool, args: "--bootstrap-server ADDR --election-type preferred --topic t-none --partition 0"},

	{name: "console consumer of a group", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --group g-console --from-beginning --max-messages 4 --timeout-ms 20000 --formatter-property print.offset=true"},
	{name: "console consumer of a group, going on", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --group g-console --from-beginning --max-messages 1 --timeout-ms 20000 --formatter-property print.offset=true"},
	{name: "consumer performance", class: consumerPerf, args: "--bootstrap-server ADDR --topic t-one --num-records 10000 --timeout 20000 --group g-perf", kept: only(`^start`)},
	{name: "groups: list", class: groupsTool, args: "--bootstrap-server ADDR --list", kept: only(`^g-`)},
	{name: "groups: list with states", class: groupsTool, args: "--bootstrap-server ADDR --list --state", kept: groupLines},
	{name: "groups: list empty ones", class: groupsTool, args: "--bootstrap-server ADDR --list --state empty", kept: groupLines},
	{name: "groups: list stable ones", class: groupsTool, args: "--bootstrap-server ADDR --list --state stable"},
	{name: "groups: list with types", class: groupsTool, args: "--bootstrap-server ADDR --list --type", kept: groupLines},
	{name: "groups: describe", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-console"},
	{name: "groups: describe the members", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-console --members --verbose"},
	{name: "groups: describe the state", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-console --state"},
	{name: "groups: describe an unknown one", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-none"},
	{name: "groups: reset, as it would be", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-console --topic t.two_three --to-earliest --dry-run"},
	{name: "groups: reset to the earliest", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-console --topic t.two_three --to-earliest --execute"},
	{name: "groups: reset by a number", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-console --topic t.two_three --shift-by 2 --execute"},
	{name: "groups: reset to a time", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-console --topic t.two_three --to-datetime 2000-01-01T00:00:00.000 --execute"},
	{name: "groups: reset of an unknown group", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-new --topic t.two_three --to-latest --execute"},
	{name: "groups: describe again", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-console"},
	{name: "offsets topic by Kafka's formatter", class: consoleOut, args: "--bootstrap-server ADDR --topic __consumer_offsets --from-beginning --timeout-ms 4000 --formatter org.apache.kafka.tools.consumer.OffsetsMessageFormatter", kept: committedOf},
	{name: "groups by Kafka's formatter", class: consoleOut, args: "--bootstrap-server ADDR --topic __consumer_offsets --from-beginning --timeout-ms 4000 --formatter org.apache.kafka.tools.consumer.GroupMetadataMessageFormatter", kept: committedOf},

	{name: "console consumer of the consumer protocol", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --group g-next --command-property group.protocol=consumer --from-beginning --max-messages 3 --timeout-ms 20000 --formatter-property print.offset=true"},
	{name: "console consumer of the consumer protocol, going on", class: consoleOut, args: "--bootstrap-server ADDR --topic t.two_three --group g-next --command-property group.protocol=consumer --max-messages 2 --timeout-ms 20000 --formatter-property print.offset=true"},
	{name: "consumer groups: list", class: groupsTool, args: "--bootstrap-server ADDR --list --type consumer", kept: groupLines, before: enroll},
	{name: "consumer groups: list with states", class: groupsTool, args: "--bootstrap-server ADDR --list --state --type", kept: groupLines},
	{name: "consumer groups: list stable ones", class: groupsTool, args: "--bootstrap-server ADDR --list --state stable", kept: groupLines},
	{name: "consumer groups: describe", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-members", kept: inRows},
	{name: "consumer groups: describe the offsets, all", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-members --offsets --verbose", kept: inRows},
	{name: "consumer groups: describe the members", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-members --members", kept: inRows},
	{name: "consumer groups: describe the members, all", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-members --members --verbose", kept: inRows},
	{name: "consumer groups: describe the state", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-members --state"},
	{name: "consumer groups: describe the state, all", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-members --state --verbose"},
	{name: "consumer groups: describe one that is empty", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-next"},
	{name: "consumer groups: describe the state of one that is empty", class: groupsTool, args: "--bootstrap-server ADDR --describe --group g-next --state --verbose"},
	{name: "consumer groups: reset one that has members", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-members --topic t-one --to-latest --execute"},
	{name: "consumer groups: reset", class: groupsTool, args: "--bootstrap-server ADDR --reset-offsets --group g-next --topic t.two_three --to-earliest --execute"},
	{name: "consumer groups: delete offsets of one that has members", class: groupsTool, args: "--bootstrap-server ADDR --delete-offsets --group g-members --topic t-one"},
	{name: "consumer groups: delete one that has members", class: groupsTool, args: "--bootstrap-server ADDR --delete --group g-members"},
	{name: "consumer groups: offsets by Kafka's formatter", class: consoleOut, args: "--bootstrap-server ADDR --topic __consumer_offsets --from-beginning --timeout-ms 4000 --formatter org.apache.kafka.tools.consumer.OffsetsMessageFormatter", kept: committedOf},
	{name: "consumer groups: records of one with members, read by Kafka", class: dumpTool, args: "--offsets-decoder --files DATA/__consumer_offsets-" + partitionOf("g-members") + "/00000000000000000000.log", kept: recordsOf},
	{name: "consumer groups: records of one that is empty, read by Kafka", class: dumpTool, args: "--offsets-decoder --files DATA/__consumer_offsets-" + partitionOf("g-next") + "/00000000000000000000.log", kept: recordsOf},
	{name: "consumer groups: delete", class: groupsTool, args: "--bootstrap-server ADDR --delete --group g-next"},

	{name: "configs of groups: describe all", class: configsTool, args: "--bootstrap-server ADDR --describe --all --entity-type groups --entity-name g-console", kept: except(`^  consumer\.assign`)},
	{name: "configs of groups: describe all, what differs", class: configsTool, args: "--bootstrap-server ADDR --describe --all --entity-type groups --entity-name g-console", kept: only(`^  consumer\.assign`)},
	{name: "configs of groups: describe one that is not there", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type groups --entity-name g-later"},
	{name: "configs of groups: alter", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config consumer.session.timeout.ms=50000,consumer.heartbeat.interval.ms=6000"},
	{name: "configs of groups: describe what was altered", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type groups --entity-name g-console"},
	{name: "configs of groups: describe those of all groups", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type groups", kept: groupSettings},
	{name: "configs of groups: no number", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config consumer.session.timeout.ms=x"},
	{name: "configs of groups: a session that is too long", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config consumer.session.timeout.ms=60001"},
	{name: "configs of groups: one good and one bad value", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config consumer.session.timeout.ms=55000,consumer.heartbeat.interval.ms=4999"},
	{name: "configs of groups: a known and an unknown setting", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config consumer.session.timeout.ms=55000,nothing=x"},
	{name: "configs of groups: nowhere for share groups to begin", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config share.auto.offset.reset=nowhere"},
	{name: "configs of groups: describe after what was refused", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type groups --entity-name g-console"},
	{name: "configs of groups: settings of other kinds of groups", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --add-config share.session.timeout.ms=50000,share.auto.offset.reset=earliest,streams.num.standby.replicas=1,errors.deadletterqueue.topic.name=dlq.x"},
	{name: "configs of groups: take back and set", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-name g-console --delete-config consumer.session.timeout.ms --add-config consumer.heartbeat.interval.ms=5500"},
	{name: "configs of groups: describe what is left", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type groups --entity-name g-console"},
	{name: "configs of groups: alter one that is not there, by the short option", class: configsTool, args: "--bootstrap-server ADDR --alter --group g-later --add-config consumer.heartbeat.interval.ms=7000"},
	{name: "configs of groups: describe it", class: configsTool, args: "--bootstrap-server ADDR --describe --group g-later"},
	{name: "configs of groups: describe those of all groups, one of them not there", class: configsTool, args: "--bootstrap-server ADDR --describe --entity-type groups", kept: only(`g-later`)},
	{name: "configs of groups: of all groups in common", class: configsTool, args: "--bootstrap-server ADDR --alter --entity-type groups --entity-default --add-config consumer.session.timeout.ms=50000"},

	{name: "groups: delete offsets", class: groupsTool, args: "--bootstrap-server ADDR --delete-offsets --group g-console --topic t.two_three"},
	{name: "groups: delete", class: groupsTool, args: "--bootstrap-server ADDR --delete --group g-perf"},
	{name: "groups: delete an unknown one", class: groupsTool, args: "--bootstrap-server ADDR --delete --group g-none"},
	{name: "groups: list what is left", class: groupsTool, args: "--bootstrap-server ADDR --list", kept: only(`^g-`)},

	{name: "topics: delete", class: topicsTool, args: "--bootstrap-server ADDR --delete --topic t-one"},
	{name: "topics: delete some", class: topicsTool, args: "--bootstrap-server ADDR --delete --topic t-(assigned|gone)"},
	{name: "topics: delete an unknown one", class: topicsTool, args: "--bootstrap-server ADDR --delete --topic t-none"},
	{name: "topics: list what is left", class: topicsTool, args: "--bootstrap-server ADDR --list", kept: only(`^t[-.]`)},
}

// commandLine runs Kafka's command-line tools against both brokers and compares
// what they print.
func commandLine(ctx context.Context, b *bench, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for name, text := range map[string]string{
		"delete.json": `{"version":1,"partitions":[{"topic":"t.two_three","partition":0,"offset":2}]}`,
		"beyond.json": `{"version":1,"partitions":[{"topic":"t.two_three","partition":0,"offset":2000}]}`,
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	type outcome struct {
		printed []string
		err     error
	}
	outcomes := map[string]chan outcome{}
	for _, s := range []*server.Server{b.kafka, b.ours} {
		done := make(chan outcome, 1)
		outcomes[s.Name] = done
		go func() {
			all, err := typeAll(ctx, b, s)
			done <- outcome{all, err}
		}()
	}
	kafka, ours := <-outcomes[b.kafka.Name], <-outcomes[b.ours.Name]
	if err := errors.Join(kafka.err, ours.err); err != nil {
		return err
	}
	for i, c := range commands {
		r.check(c.name, kafka.printed[i], ours.printed[i])
	}
	return nil
}

func typeAll(ctx context.Context, b *bench, s *server.Server) (all []string, err error) {
	tools, err := b.tools(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tools.close()) }()
	for _, c := range commands {
		if c.before != nil {
			if err := c.before(ctx, s.Addr); err != nil {
				return nil, fmt.Errorf("before %s against %s: %w", c.name, s.Name, err)
			}
		}
		args := strings.Fields(strings.NewReplacer("ADDR", s.Addr, "DATA", s.Data, "DIR", b.dir).Replace(c.args))
		p, err := tools.run(c.class, c.in, args...)
		if err != nil {
			return nil, fmt.Errorf("%s against %s: %w", c.name, s.Name, err)
		}
		all = append(all, comparable(p, s, c.kept))
		if c.class == topicsTool || c.class == configsTool {
			if err := settle(ctx, s.Addr); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// What differs from run to run and from directory to directory.
var (
	topicIDs   = regexp.MustCompile(`(TopicId: )[\w-]{22}`)
	clusterIDs = regexp.MustCompile(`(Cluster ID: )[\w-]+`)
	timesOfDay = regexp.MustCompile(`\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]`)
	ports      = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	// Of batches whose size hangs on how far apart their records were written.
	bytesOf   = regexp.MustCompile(`"(size)":[1-9]\d*`)
	epochs    = regexp.MustCompile(`(Epoch: )\d+`)
	traces    = regexp.MustCompile(`(?m)^\s+at .*\n|^\s+\.\.\. \d+ more\n`)
	endpoints = regexp.MustCompile(`(?m)^(\d+\s+\S+\s+)\d+`)
)

func comparable(p printed, s *server.Server, kept func(string) string) string {
	text := strings.ReplaceAll(p.out, s.Data, "DATA")
	for _, m := range []*regexp.Regexp{topicIDs, clusterIDs} {
		text = m.ReplaceAllString(text, "${1}ID")
	}
	text = timesOfDay.ReplaceAllString(text, "TIME")
	text = ports.ReplaceAllString(text, "ADDR")
	text = endpoints.ReplaceAllString(text, "${1}PORT")
	text = epochs.ReplaceAllString(text, "${1}N")
	text = bytesOf.ReplaceAllString(text, `"$1":N`)
	text = traces.ReplaceAllString(text, "")
	if kept != nil {
		text = kept(text)
	}
	errs := ports.ReplaceAllString(processed.ReplaceAllString(traces.ReplaceAllString(p.errors, ""), ""), "ADDR")
	return fmt.Sprintf("exit %d\n%s%s", p.code, text, errs)
}

var (
	quorumIDs   = regexp.MustCompile(`(ClusterId:\s+|"directoryId": ")[\w-]{22}|^(\d+\s+)[\w-]{22}\b`)
	quorumSpots = regexp.MustCompile(`(LeaderEpoch|HighWatermark|MaxFollowerLagTimeMs):(\s+)\d+`)
	quorumRow   = regexp.MustCompile(`^(\d+\s+ID\s+)\S+(\s+\d+\s+)\d+(\s+)\d+`)
	spaces      = regexp.MustCompile(`[ \t]+`)
)

// quorumOf is what is told of a quorum, without what hangs on the cluster and on
// the moment: ids, terms, offsets, times.
func quorumOf(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		line = quorumIDs.ReplaceAllString(line, "${1}${2}ID")
		line = quorumSpots.ReplaceAllString(line, "${1}:${2}N")
		line = quorumRow.ReplaceAllString(line, "${1}N${2}TIME${3}TIME")
		kept.WriteString(spaces.ReplaceAllString(line, " "))
	}
	return kept.String()
}

var (
	moments   = regexp.MustCompile(`"(commitTimestamp|currentStateTimestamp|topicId)":("[^"]*"|\d+)`)
	processed = regexp.MustCompile(`Processed a total of \d+ messages\n?`)
	named     = regexp.MustCompile(`"g-(console|new|next|members)"`) // what others have committed differs from run to run
	memberIDs = regexp.MustCompile(`(console-consumer|perf-consumer-client)-[\w-]+`)
)

// groupLines are those of groups that were named here.
func groupLines(text string) string { return eachLine(only(`^(GROUP|g-)`)(text)) }

// groupSettings are those of groups that were named here, in the order of the alphabet.
func groupSettings(text string) string {
	all := regexp.MustCompile(`(?m)^Dynamic configs for group g-.*\n(  .*\n)*`).FindAllString(text, -1)
	slices.Sort(all)
	return strings.Join(all, "")
}

// committedOf is the latest of what is in the topic of groups under each key, without
// times and ids, in the order of the alphabet.
func committedOf(text string) string {
	latest := map[string]string{}
	for record := range strings.SplitSeq(strings.ReplaceAll(text, `}{"key"`, "}\n{\"key\""), "\n") {
		if key, value, ok := strings.Cut(record, `,"value":`); ok && named.MatchString(key) {
			latest[key] = memberIDs.ReplaceAllString(moments.ReplaceAllString(value, `"$1":N`), "ID")
		}
	}
	var lines []string
	for key, value := range latest {
		lines = append(lines, key+value)
	}
	return eachLine(strings.Join(lines, "\n"))
}

var amounts = regexp.MustCompile(`\d{3,}\b`)

// inRows is a table without its order, and without how many records of a test there are.
func inRows(text string) string {
	text = spaces.ReplaceAllString(amounts.ReplaceAllString(text, "N"), " ")
	return eachLine(strings.ReplaceAll(text+"\n", " \n", "\n"))
}

// partitionOf is the partition of the topic of groups that a group is in.
func partitionOf(group string) string {
	var hash int32
	for _, c := range group {
		hash = 31*hash + c
	}
	return strconv.Itoa(max(int(hash), -int(hash)) % 50)
}

var (
	groupRecord  = regexp.MustCompile(`key: (\{"type":"\d+".*\}) payload: (.*)`)
	groupMoments = regexp.MustCompile(`"(previousMemberEpoch|\w*[tT]imestamp\w*|topicId)":("[^"]*"|-?\d+)`)
	groupLast    = regexp.MustCompile(`,"(metadataHash|assignmentTimestamp)":-?\d+`) // Apache Kafka does not keep them of a group that is empty
	javaMembers  = regexp.MustCompile(`"memberId":"[\w-]{22,}"`)
)

// recordsOf is the latest under each key of the records of groups that were named here.
// The epoch before a member's is kept here until it has another, so that an answer may
// be lost more than once; Apache Kafka takes each step of a member for a new epoch.
func recordsOf(text string) string {
	latest := map[string]string{}
	for _, m := range groupRecord.FindAllStringSubmatch(text, -1) {
		if named.MatchString(m[1]) {
			latest[javaMembers.ReplaceAllString(m[1], `"memberId":"ID"`)] = groupMoments.ReplaceAllString(groupLast.ReplaceAllString(m[2], ""), `"$1":N`)
		}
	}
	var lines []string
	for key, value := range latest {
		lines = append(lines, key+" "+value)
	}
	return eachLine(strings.Join(lines, "\n"))
}

// only keeps the lines that match.
func only(pattern string) func(string) string { return filter(pattern, true) }

// except keeps the others.
func except(pattern string) func(string) string { return filter(pattern, false) }

func filter(pattern string, matching bool) func(string) string {
	re := regexp.MustCompile(pattern)
	return func(text string) string {
		var kept strings.Builder
		for line := range strings.Lines(text) {
			if re.MatchString(line) == matching {
				kept.WriteString(line)
			}
		}
		return kept.String()
	}
}

var figures = regexp.MustCompile(`[\d.]+`)

// performed is the last line of a performance test, with how many records it
// wrote and without how fast.
func performed(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	n, rest, _ := strings.Cut(last, " ")
	return n + " " + figures.ReplaceAllString(rest, "N") + "\n"
}

// eachLine sorts lines.
func eachLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

var servedAPI = regexp.MustCompile(`(\w+)\((\d+)\): (\d+)(?: to (\d+))? \[usable: (\d+)\]`)

// versionsOf checks that every API has a version that this client uses. Which
// there are is compared as raw requests are.
func versionsOf(text string) string {
	found := servedAPI.FindAllStringSubmatch(text, -1)
	for _, f := range found {
		low, _ := strconv.Atoi(f[3])
		high := low
		if f[4] != "" {
			high, _ = strconv.Atoi(f[4])
		}
		if use, _ := strconv.Atoi(f[5]); use < low || use > high {
			return "unusable: " + f[0] + "\n"
		}
	}
	return fmt.Sprintf("some APIs: %t\n", len(found) > 15)
}
