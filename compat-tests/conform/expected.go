package main

import (
	"fmt"
	"path"
	"strings"
)

// expectation is a difference that is as it should be. Patterns are those of
// path.Match, without its slashes; an empty one matches everything.
type expectation struct {
	scenario, step, path string
	ours, reference      string
	why                  string
	perhaps              bool // it depends on the moment whether it turns up
}

const hiddenID = "a group of which only an id was given out is shown; Apache Kafka shows it once something else is written to its partition"

const askedAgain = "an instance that has not heard that it is in says so again; Apache Kafka takes it for another process"

// expected are the differences that have a reason. One that does not turn up
// any more is reported: it may be forgotten.
var expected = []expectation{
	// What is not served is not there, and says so.
	{scenario: "ApiVersions/*", path: ".ApiKeys[*]", ours: "not there", reference: "there", why: "transactions, share and streams groups, security and quotas are not served yet, and what is not served is not told"},
	{scenario: "ApiVersions/*", path: ".FinalizedFeatures*", why: "features say which of those a cluster has"},
	{scenario: "ApiVersions/*", path: ".SupportedFeatures[*]", ours: "not there", why: "features say which of those a cluster has"},
	{scenario: "ApiVersions/*", path: ".SupportedFeatures[streambus.metadata.version]", ours: "there", why: "the metadata has levels of its own, which are no releases of Apache Kafka and do not go by the name of those"},
	{scenario: "FindCoordinator/*", path: "*ErrorCode", ours: "\"35 UNSUPPORTED_VERSION\"", why: "transactions and share groups are not served yet"},
	{scenario: "FindCoordinator/*", path: "*Host", ours: "\"\"", why: "transactions and share groups are not served yet", perhaps: true},
	{scenario: "FindCoordinator/*", path: "*Port", ours: "-1", why: "transactions and share groups are not served yet", perhaps: true},
	{scenario: "FindCoordinator/*", path: "*NodeID", ours: "-1", why: "transactions and share groups are not served yet", perhaps: true},
	{path: "*Configs[min.insync.replicas]*", why: "a cluster of Apache Kafka with the feature eligible.leader.replicas sets min.insync.replicas for all brokers"},
	{path: "*Configs[streambus.*", ours: "there", reference: "not there", why: "settings of StreamBus alone"},

	// Errors say what is wrong.
	{path: "*ErrorMessage", ours: "\"a text\"", reference: "null", why: "every error says what is wrong"},
	{path: "*ErrorMessage", ours: "\"a text\"", reference: "\"\"", why: "every error says what is wrong"},
	{path: "*ErrorRecords", ours: "[map[*", reference: "null", why: "the record at fault is named"},
	{path: "*ErrorCode", ours: "\"*\"", reference: "\"-1 UNKNOWN_SERVER_ERROR\"", why: "Apache Kafka fails inside; here the request is refused with what is wrong, or read as it can be"},
	{scenario: "Fetch/isolation", reference: "-1", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Fetch/isolation", path: "*RecordBatches", reference: "0 entries", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Fetch/isolation", path: ".Topics", reference: "null", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Fetch/generated", step: "* Fetch v*", reference: "-1", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Fetch/generated", step: "* Fetch v*", path: "*RecordBatches", reference: "0 entries", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Fetch/generated", step: "* Fetch v*", path: ".Topics", reference: "null", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Fetch/limits", reference: "-1", why: "a negative limit is read as 0; Apache Kafka fails inside"},
	{scenario: "Fetch/limits", path: "*RecordBatches", why: "a negative limit is read as 0; Apache Kafka fails inside, and goes on to the next partition"},
	{scenario: "ListOffsets/generated", reference: "-1", why: "an isolation level that is none is read as uncommitted; Apache Kafka fails inside"},
	{scenario: "Metadata/by id", path: "*", reference: "null", why: "no name and no id: UNKNOWN_TOPIC_ID, and the rest of the answer; Apache Kafka fails inside"},
	{scenario: "Metadata/by id", path: ".ControllerID", reference: "-1", why: "no name and no id: UNKNOWN_TOPIC_ID, and the rest of the answer; Apache Kafka fails inside"},
	{scenario: "Metadata/by id", path: ".Topics[*].Topic", ours: "null", reference: "\"\"", why: "no name and no id: UNKNOWN_TOPIC_ID, and the rest of the answer; Apache Kafka fails inside"},
	{scenario: "DescribeTopicPartitions/*", path: "*AuthorizedOperations", reference: "-2147483648", why: "an empty name is an invalid one; Apache Kafka fails inside"},
	{scenario: "*/generated", path: "", reference: "\"the connection is closed\"", why: "null for a list that may not be null is read as an empty one; Apache Kafka ends the connection"},
	{scenario: "Produce/null for a batch", why: "Apache Kafka never answers"},
	{scenario: "IncrementalAlterConfigs/generated", path: "*ErrorCode", ours: "\"4* INVALID_CONFIG\"", reference: "\"42 INVALID_REQUEST\"", why: "two things are wrong with the request, and the other is told"},
	{scenario: "*AlterConfigs/generated", path: "*ErrorCode", ours: "\"17 INVALID_TOPIC_EXCEPTION\"", reference: "\"42 INVALID_REQUEST\"", why: "two things are wrong with the request, and the other is told"},

	// Better than there.
	{scenario: "FindCoordinator/*", path: "*ErrorMessage", ours: "null", why: "there is no message without an error"},
	{step: "* DeleteGroups *", path: ".Groups", ours: "* entries", reference: "* entries", why: "every group asked for is answered, one named twice too"},
	{scenario: "ConsumerGroupHeartbeat/both protocols", path: "*MemberID", ours: "\"id * of *\"", why: "ids of members begin with the client's in all groups, and come with errors too"},
	{scenario: "ConsumerGroupHeartbeat/both protocols", step: "* Heartbeat v*", path: ".ErrorCode", ours: "\"27 REBALANCE_IN_PROGRESS\"", reference: "\"NONE\"", why: "a member of the classic protocol is told with its next heartbeat that another has left; Apache Kafka tells it later"},
	{scenario: "ConsumerGroupHeartbeat/an instance that has not heard", step: "2 *", why: askedAgain},
	{scenario: "ConsumerGroupHeartbeat/an instance that has not heard", step: "8 *", why: askedAgain},
	{scenario: "JoinGroup/twice by one member", reference: "\"there is no answer\"", why: "who waits is told when another request of the same member takes its place; Apache Kafka forgets it"},
	{scenario: "Groups/ids that are not used", step: "* JoinGroup *", path: ".MemberID", reference: "\"\"", why: "Apache Kafka fails inside"},
	{scenario: "Groups/ids that are not used", path: ".Groups[0].State", ours: "\"Dead\"", reference: "\"Empty\"", why: "an id that is not used leaves no group behind"},
	{scenario: "Groups/ids that are not used", path: ".Groups[0].ErrorCode", ours: "\"69 GROUP_ID_NOT_FOUND\"", reference: "\"NONE\"", why: "an id that is not used leaves no group behind"},
	{scenario: "Groups/ids that are not used", path: ".Groups[0].AuthorizedOperations", ours: "-2147483648", why: "an id that is not used leaves no group behind"},
	{scenario: "Groups/ids that are not used", step: "* ListGroups *", path: ".Groups*", why: "an id that is not used leaves no group behind"},
	{scenario: "Groups/ids that are not used", step: "* DescribeGroups *", path: ".Groups[0].State", ours: "\"Empty\"", reference: "\"Dead\"", why: hiddenID, perhaps: true},
	{scenario: "Groups/ids that are not used", step: "* DescribeGroups *", path: ".Groups[0].ErrorCode", ours: "\"NONE\"", reference: "\"69 GROUP_ID_NOT_FOUND\"", why: hiddenID, perhaps: true},
	{scenario: "Groups/ids that are not used", step: "* DescribeGroups *", path: ".Groups[0].ErrorMessage", ours: "null", reference: "\"a text\"", why: hiddenID, perhaps: true},
	{scenario: "Groups/ids that are not used", step: "* DescribeGroups *", path: ".Groups[0].AuthorizedOperations", reference: "-2147483648", why: hiddenID, perhaps: true},
	{scenario: "Groups/joins that are refused", step: "* JoinGroup *", path: ".ErrorCode", ours: "\"25 UNKNOWN_MEMBER_ID\"", reference: "\"23 INCONSISTENT_GROUP_PROTOCOL\"", why: "a join that is refused leaves no group behind"},
	{scenario: "Groups/joins that are refused", path: ".Groups[0].State", ours: "\"Dead\"", reference: "\"Empty\"", why: "a join that is refused leaves no group behind"},
	{scenario: "Groups/joins that are refused", path: ".Groups[0].ErrorCode", ours: "\"69 GROUP_ID_NOT_FOUND\"", reference: "\"NONE\"", why: "a join that is refused leaves no group behind"},
	{scenario: "Groups/joins that are refused", path: ".Groups[0].AuthorizedOperations", ours: "-2147483648", why: "a join that is refused leaves no group behind"},
	{scenario: "Groups/joins that are refused", step: "* ListGroups *", path: ".Groups", why: "a join that is refused leaves no group behind"},
	{scenario: "ListConfigResources/*", path: ".ConfigResources", why: "there are no loggers whose levels can be set"},
	{scenario: "ElectLeaders/*", path: ".Topics", ours: "null", why: "all partitions are asked for: those are answered for which there was something to do; Apache Kafka names every topic there is as well, with nothing behind"},
	{scenario: "Produce/versions that are only told", why: "an error in each partition tells more than a closed connection"},
	{scenario: "Produce/batches that only one refuses", why: "a producer id without an epoch cannot be fenced; records whose numbers are not 0, 1, 2 get offsets that others have"},
	{scenario: "Produce/bytes that are no batch", why: "bytes behind a batch are refused; Apache Kafka drops them and says that all is well"},
	{scenario: "Produce/times that are refused", step: "11 Produce v9", why: "a batch that claims the broker's time is refused by every topic, not only by those that use it"},
	{scenario: "Produce/twice the same", why: "both batches are kept; Apache Kafka drops one and says nothing"},
	{scenario: "Produce/*", path: "*LogAppendTime", ours: "-1", reference: "1700000000000", why: "a repeated batch gets the answer that it got the first time"},
	{path: "*ActiveProducers[*].LastTimestamp", ours: "\"now\"", why: "when a producer was last heard of is told by the broker's clock; the producer's own may be years off, and its state be given up at once"},
	{scenario: "Fetch/twice the same", why: "every partition asked for is answered"},
	{scenario: "Fetch/session of a topic made again", step: "4 Fetch v13", why: "no topic has the old id any more"},
	{scenario: "Frames/lengths", step: "4 length", why: "a frame without room for a header is refused at once"},
	{scenario: "Frames/lengths", step: "5 length", why: "a frame without room for a header is refused at once"},
	{scenario: "ListOffsets/special times", ours: "-1", why: "a record that was deleted is not the latest"},
	{scenario: "ListOffsets/records without times", why: "a record without a time is not the latest"},
	{scenario: "Metadata/*", path: ".Topics[*].ErrorCode", ours: "\"NONE\"", reference: "\"3 UNKNOWN_TOPIC_OR_PARTITION\"", why: "the answer waits for a topic that is created, so that clients need not ask again"},
	{scenario: "Metadata/*", path: ".Topics[*].Partitions", ours: "[map[*", reference: "null", why: "the answer waits for a topic that is created, so that clients need not ask again"},
	{scenario: "CreateTopics/*", path: "*TopicID", ours: "\"none\"", reference: "\"an id\"", why: "a topic that is only validated has no id"},
	{scenario: "CreateTopics/settings", path: "*Configs[retention.ms].Value", ours: "\"5\"", why: "numbers are kept without spaces, switches in lower case"},
	{scenario: "CreateTopics/settings", path: "*Value", ours: "\"true\"", why: "numbers are kept without spaces, switches in lower case"},
	{scenario: "DescribeTopicPartitions/generated", path: ".Topics", why: "topics that are not there come with the page that they are on"},
	{scenario: "DescribeTopicPartitions/generated", path: ".NextCursor*", why: "topics that are not there come with the page that they are on"},
	{scenario: "*/generated", path: ".Topics", ours: "2 entries", reference: "1 entries", why: "every topic asked for is answered, one named twice too"},
	{scenario: "Fetch/generated", path: "*Partitions", ours: "2 entries", reference: "1 entries", why: "every partition asked for is answered"},
	{scenario: "Produce/batches that are refused", path: "*LogStartOffset", ours: "0", reference: "-1", why: "where the log starts is told"},
	{scenario: "DescribeLogDirs/generated", path: "*Partitions", ours: "2 entries", reference: "1 entries", why: "every partition asked for is answered"},

	// The two were started with different settings.
	{scenario: "DescribeQuorum/*", path: ".Nodes[0].Listeners", ours: "null", why: "a node that is alone needs no controller listener, and has none by default"},
	{scenario: "*/broker", path: "*Configs[*listener*", why: "settings of the start; listeners cannot be changed while the broker runs"},
	{scenario: "*/broker", path: "*Configs[*.id]*", why: "settings of the start"},
	{scenario: "*/broker", path: "*Configs[log.dir*", why: "settings of the start, and no directory that others can write to by default"},
	{scenario: "*/broker", path: "*Configs[controller.*", why: "settings of the start"},
	{scenario: "*/broker", path: "*Configs[process.roles]*", why: "settings of the start"},
	{scenario: "*/broker", path: "*Configs[*.replication.factor]*", why: "settings of the start"},
	{scenario: "*/broker", path: "*Configs[transaction.state.log.min.isr]*", why: "settings of the start"},
	{scenario: "*/broker", path: "*Configs[*]", ours: "not there", reference: "there", why: "settings of parts that are not there: security, quotas, tiered storage, the timing of Kafka's quorum, Java"},
	{scenario: "*/broker", path: "*Configs[*]", ours: "there", reference: "not there", why: "settings of Kafka's authorizer and of versions before; they are accepted"},
	{scenario: "*/broker", path: ".Resources[*].Configs", ours: "null", reference: "[map[ConfigSynonyms:[map[Name:min.insync.replicas*", why: "a cluster of Apache Kafka with the feature eligible.leader.replicas sets min.insync.replicas for all brokers"},
	{scenario: "*/broker", path: "*Configs[metric.reporters]*", why: "metrics are not Java's"},
	{scenario: "*/broker", path: "*ReadOnly", ours: "true", reference: "false", why: "cannot be changed while the broker runs"},
	{scenario: "*/broker", path: "*Configs[authorizer.class.name]*", why: "there is no authorizer, and so no value"},
	{scenario: "*/broker", path: "*Configs[max.connections.per.ip.overrides]*", why: "no value is null here, an empty text there"},
}

// explain finds the reasons of differences, and tells which expectations were
// met.
func explain(ds []difference, met []bool) {
	for i := range ds {
		for j, e := range expected {
			if e.matches(&ds[i]) {
				ds[i].Why = e.why
				met[j] = true
				break
			}
		}
	}
}

func (e *expectation) matches(d *difference) bool {
	return match(e.scenario, d.Scenario) && match(e.step, d.Step) && match(e.path, d.Path) && match(e.ours, d.Ours) && match(e.reference, d.Reference)
}

func match(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	// Only the asterisk is special.
	pattern = strings.NewReplacer("/", "\x00", "[", `\[`, "]", `\]`, "?", `\?`).Replace(pattern)
	ok, err := path.Match(pattern, strings.ReplaceAll(text, "/", "\x00"))
	if err != nil {
		panic(fmt.Sprintf("conform: %s: %v", pattern, err)) // the patterns are constants
	}
	return ok
}

func (e *expectation) String() string {
	return fmt.Sprintf("%s, %s %s: %s here and %s there: %s", e.scenario, e.step, e.path, e.ours, e.reference, e.why)
}
