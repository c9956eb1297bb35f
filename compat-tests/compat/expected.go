package main

import "regexp"

// expectation is a difference that is as it should be. All are regular
// expressions for the whole of what they match, but part, which is a name.
type expectation struct {
	part, what  string
	kafka, ours string
	why         string
}

const (
	// Apache Kafka's storage tool sets min.insync.replicas for the whole cluster
	// when it turns on eligible leader replicas, which are not served here.
	noClusterMinISR = "Kafka's format command sets min.insync.replicas for all brokers, for its eligible leader replicas; here nobody sets it"
	noFeatures      = "features stand for formats and protocols among Kafka's own brokers, which are not served"
	ownFeature      = "the metadata has levels of its own, which are no releases of Kafka"
	ownWords        = "the words of a message are ours; its class and the exit code are the same"
	ownSetting      = "streambus.flush is a setting of ours"
)

// expected are the differences that have a reason. One that does not turn up any
// more is reported: it may be forgotten.
var expected = []expectation{
	{"Java client", `create-topics, (made|only validated) j-.*`, `.*min\.insync\.replicas=1 DYNAMIC_DEFAULT_BROKER_CONFIG.*`, `[^=]*|.*\[retention\.ms=1000000 DYNAMIC_TOPIC_CONFIG\].*`, noClusterMinISR},
	{"Java client", `configs, described min\.insync\.replicas`, `1 DYNAMIC_DEFAULT_BROKER_CONFIG INT`, `1 DEFAULT_CONFIG INT`, noClusterMinISR},
	{"Java client", `configs, then min\.insync\.replicas`, `1 DYNAMIC_DEFAULT_BROKER_CONFIG INT`, `nothing`, noClusterMinISR},
	{"Java client", `configs, described streambus\.flush`, `nothing`, `ack DEFAULT_CONFIG STRING`, ownSetting},
	{"Java client", `list-offsets, max timestamp of j-deleted-0`, `19 1700000000019 epoch 0`, `-1 -1 epoch -1`, "all records are deleted; Kafka names one below the log's start, which nobody can read, as long as its segment is there"},
	{"Java client", `cluster, (finalized|supported) [a-z.]+\.version`, `.*VersionRange.*`, `nothing`, noFeatures},
	{"Java client", `cluster, (finalized|supported) streambus\.metadata\.version`, `nothing`, `.*VersionRange.*`, ownFeature},

	{"command-line tools", `topics: describe( overrides| four partitions)?`, `.*Configs: min\.insync\.replicas=1,retention\.ms=86400000\n.*`, `.*Configs: retention\.ms=86400000\n.*`, noClusterMinISR},
	{"command-line tools", `configs: describe all brokers`, `.*min\.insync\.replicas=1 .*`, `exit 0\nDefault configs for brokers in the cluster are:\n  message\.max\.bytes=1100000 sensitive=false synonyms=\{DYNAMIC_DEFAULT_BROKER_CONFIG:message\.max\.bytes=1100000\}\n`, noClusterMinISR},
	{"command-line tools", `configs: describe all of a topic, what differs`, `exit 0\n  min\.insync\.replicas=1 .*`, `exit 0\n  min\.insync\.replicas=1 sensitive=false synonyms=\{DEFAULT_CONFIG:min\.insync\.replicas=1\}\n  streambus\.flush=ack .*`, noClusterMinISR + "; " + ownSetting},
	{"command-line tools", `features`, `exit 0\nFeature: eligible\.leader\.replicas\.version .*`, `exit 0\nFeature: group\.version\s+[^\n]*\nFeature: streambus\.metadata\.version\s+SupportedMinVersion: 1\s+SupportedMaxVersion: 2\s+FinalizedVersionLevel: 2\s+Epoch: N\n\n?`, noFeatures + "; " + ownFeature},
	{"command-line tools", `features: (upgrade|disable) one that is none`, `exit 1\nCould not .* no\.such\.version.* Invalid update version .*`, `exit 1\nCould not .* no\.such\.version.* Invalid update version .*`, ownWords},
	{"command-line tools", `features: a release of Kafka to come`, `exit 1\nCan not upgrade metadata\.version to 9999\. .*`, `exit 1\nCan not upgrade metadata\.version to 9999\. .*The controller does not support this feature.*`, ownWords},
	{"command-line tools", `quorum: status`, `.*"directoryId": "ID", "endpoints": .*`, `exit 0\nClusterId: ID\nLeaderId: 1\n.*CurrentVoters: \[\{"id": 1, "directoryId": "ID"\}\]\nCurrentObservers: \[\]\n`, "a node that is alone needs no controller listener, and has none by default"},
	{"command-line tools", `quorum: remove a controller that is not there`, `exit 1\n.*VoterNotFoundException: .*`, `exit 1\n.*VoterNotFoundException: .*`, ownWords},
	{"command-line tools", `topics: create with too many replicas`, `exit 1\nError while executing topic command : Unable to replicate the partition 3 time\(s\): .*`, `exit 1\nError while executing topic command : Unable to replicate the partition 3 time\(s\): .*`, ownWords},
	{"command-line tools", `topics: create with an invalid name`, `exit 1\nError while executing topic command : Topic name is invalid: .*`, `exit 1\nError while executing topic command : Topic name is invalid: .*`, ownWords},
	{"command-line tools", `configs: (an invalid value|an unknown setting)`, `exit 1\n.*: org\.apache\.kafka\.common\.errors\.InvalidConfigurationException: .*`, `exit 1\n.*: org\.apache\.kafka\.common\.errors\.InvalidConfigurationException: .*`, ownWords},
	{"command-line tools", `configs of groups: (no number|a session that is too long|one good and one bad value|nowhere for share groups to begin)`, `exit 1\n.*: org\.apache\.kafka\.common\.errors\.InvalidConfigurationException: .*`, `exit 1\n.*: org\.apache\.kafka\.common\.errors\.InvalidConfigurationException: .*`, ownWords},
	{"command-line tools", `configs of groups: describe all, what differs`, `exit 0\n  consumer\.assignment\.interval\.ms=0 .*\n  consumer\.assignor\.offload\.enable=false .*`, `exit 0\n  consumer\.assignment\.interval\.ms=0 [^\n]*\n`, "here a target is always computed at once, by who asks; Kafka has settings for that, one of them internal"},
	{"command-line tools", `configs: a broker's read-only setting`, `exit 1\n.*: org\.apache\.kafka\.common\.errors\.InvalidRequestException: .*`, `exit 1\n.*: org\.apache\.kafka\.common\.errors\.InvalidRequestException: .*`, ownWords},
}

// reason finds the expectation that a difference meets, or -1.
func reason(part, what, kafka, ours string) int {
	for i, e := range expected {
		if e.part == part && whole(e.what, what) && whole(e.kafka, kafka) && whole(e.ours, ours) {
			return i
		}
	}
	return -1
}

func whole(pattern, text string) bool {
	return regexp.MustCompile(`^(?s:` + pattern + `)$`).MatchString(text)
}
