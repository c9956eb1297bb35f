// Package config has what a broker can be told: the table of settings under
// the names of Kafka's server.properties, where values come from (a flag, the
// environment, a file, the metadata), and what is in force.
package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/magiconair/properties"

	"github.com/streambus/streambus/raftmeta/image"
)

// Origin is where a value of this process came from. The greater one wins.
type Origin int

// Origins, in the order of precedence.
const (
	Default Origin = iota
	File
	Environment
	Flag
)

func (o Origin) String() string { return [...]string{"default", "file", "environment", "flag"}[o] }

// Config is what one process was told. It does not change once the broker runs.
type Config struct {
	Version string

	values   map[string]value
	warnings []string
}

type value struct {
	text   string
	origin Origin
	where  string
}

// New is the configuration of a broker that nobody configured.
func New() *Config { return &Config{Version: "dev", values: map[string]value{}} }

// Set gives a setting a value. where is for messages: the name of a file, of a
// variable. A setting that is not known is noted as a warning; a wrong value is
// an error that names key, value and reason.
func (c *Config) Set(key, text string, origin Origin, where string) error {
	k, ok := FindKey(key)
	if !ok {
		c.unknown(key, where)
		return nil
	}
	text = k.Form(strings.TrimSpace(text))
	if text != "" || k.Default != "" {
		if err := k.Check(text); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	if old, set := c.values[key]; !set || old.origin <= origin {
		c.values[key] = value{text, origin, where}
	}
	return nil
}

// ReadFile reads a file of Kafka's server.properties format.
func (c *Config) ReadFile(name string) error {
	loader := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
	p, err := loader.LoadFile(name)
	if err != nil {
		return fmt.Errorf("the configuration file %s cannot be read: %w", name, err)
	}
	return c.setAll(p.Map(), File, func(string) string { return name })
}

func (c *Config) setAll(values map[string]string, origin Origin, where func(key string) string) error {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := c.Set(key, values[key], origin, where(key)); err != nil {
			return err
		}
	}
	return nil
}

// ReadEnvironment takes what the apache/kafka image takes from variables:
// KAFKA_LOG_RETENTION_HOURS is log.retention.hours; two underscores stand for
// one, three for a dash. KAFKA_CFG_ is another image's prefix for the same.
func (c *Config) ReadEnvironment(environ []string) error {
	values, names := map[string]string{}, map[string]string{}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		key, ok := strings.CutPrefix(name, "KAFKA_")
		switch {
		case !ok:
			continue
		case isJVM(name):
			c.warn("%s is ignored: there is no Java machine here", name)
			continue
		}
		key = keyOfVariable(strings.TrimPrefix(key, "CFG_"))
		if _, known := FindKey(key); !known && slices.Contains(imageVariables, name) {
			continue
		}
		values[key], names[key] = text, name
	}
	return c.setAll(values, Environment, func(key string) string { return names[key] })
}

var fromVariable = strings.NewReplacer("___", "-", "__", "_", "_", ".")

func keyOfVariable(name string) string { return fromVariable.Replace(strings.ToLower(name)) }

// imageVariables are set in the images themselves and are no settings.
var imageVariables = []string{"KAFKA_HOME", "KAFKA_VERSION", "KAFKA_MODE", "KAFKA_USER", "KAFKA_CLUSTER_ID", "KAFKA_KRAFT_CLUSTER_ID"}

func isJVM(name string) bool {
	for _, word := range []string{"_HEAP_OPTS", "_JVM_", "_OPTS", "_LOG4J", "_JMX_", "_GC_"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func (c *Config) unknown(key, where string) {
	switch {
	case strings.HasPrefix(key, "zookeeper."):
		c.warn("%s: %s is ignored: there is no ZooKeeper here", where, key)
	case strings.HasPrefix(key, "ssl.") || strings.HasPrefix(key, "sasl.") || strings.Contains(key, ".ssl.") || strings.Contains(key, ".sasl."):
		c.warn("%s: %s is ignored: listeners are plaintext only", where, key)
	default:
		c.warn("%s: %s is not a setting of this broker and is ignored%s", where, key, didYouMean(key))
	}
}

func (c *Config) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// Warnings are what whoever starts the broker should read: settings that are
// not known, and known ones that make no difference.
func (c *Config) Warnings() []string {
	all := slices.Clone(c.warnings)
	for _, name := range slices.Sorted(maps.Keys(c.values)) {
		if k, _ := FindKey(name); k.Mode == DynamicOnly || !k.Acts(c.values[name].text) {
			all = append(all, fmt.Sprintf("%s: %s=%s is accepted and makes no difference here", c.values[name].where, name, c.values[name].text))
		}
	}
	if w := c.shortSession(); w != "" {
		all = append(all, w)
	}
	return all
}

// Entry is one setting in force.
type Entry struct {
	Key    *Key
	Value  string
	Origin Origin
	Where  string
}

// Entries are all settings of this process, by name.
func (c *Config) Entries() []Entry {
	entries := make([]Entry, len(keys))
	for i := range keys {
		entries[i] = Entry{Key: &keys[i], Value: keys[i].Default}
		if v, ok := c.values[keys[i].Name]; ok {
			entries[i].Value, entries[i].Origin, entries[i].Where = v.text, v.origin, v.where
		}
	}
	return entries
}

// Get is the value of this process.
func (c *Config) Get(name string) string {
	if v, ok := c.values[name]; ok {
		return v.text
	}
	return mustFind(name).Default
}

// Number is a numeric value of this process.
func (c *Config) Number(name string) int64 { return number(name, c.Get(name)) }

// Bool is a value of this process that is true or false.
func (c *Config) Bool(name string) bool { return c.Get(name) == "true" }

// Millis is a value of this process in milliseconds.
func (c *Config) Millis(name string) time.Duration { return image.Millis(c.Number(name)) }

func number(name, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic("config: " + name + " was accepted and is not a number: " + err.Error())
	}
	return n
}

// NodeID is node.id, or broker.id where only that is set.
func (c *Config) NodeID() int32 {
	if _, set := c.values["node.id"]; !set && c.Number("broker.id") >= 0 {
		return int32(c.Number("broker.id"))
	}
	return int32(c.Number("node.id"))
}

// DataDir is the directory that holds everything this node keeps: log.dirs, or
// log.dir where only that is set.
func (c *Config) DataDir() string {
	if _, set := c.values["log.dirs"]; !set && c.Get("log.dir") != "" {
		return c.Get("log.dir")
	}
	return image.Items(c.Get("log.dirs"))[0]
}

// Source is where a value in force came from, in the numbers of
// DescribeConfigs.
type Source int8

// Sources.
const (
	DynamicTopic   Source = 1
	DynamicBroker  Source = 2
	DynamicCluster Source = 3
	Static         Source = 4
	BuiltIn        Source = 5
	DynamicGroup   Source = 8
)

// Value is what a setting is, by one source.
type Value struct {
	Name   string
	Text   string
	Null   bool // there is no value
	Source Source
}

// Values are what a broker's setting is by each source that has it, the one in
// force first. node is this broker, or image.EveryBroker for what brokers share. As
// in Apache Kafka, a setting that is only set while brokers run has no value before.
func (c *Config) Values(img *image.Image, node int32, name string) []Value {
	var values []Value
	if v, ok := img.BrokerConfig(node, name); ok && node != image.EveryBroker {
		values = append(values, Value{Name: name, Text: v, Source: DynamicBroker})
	}
	if v, ok := img.BrokerConfig(image.EveryBroker, name); ok {
		values = append(values, Value{Name: name, Text: v, Source: DynamicCluster})
	}
	if node == image.EveryBroker {
		return values
	}
	k := mustFind(name)
	if k.Mode == DynamicOnly {
		return values
	}
	if v, ok := c.values[name]; ok {
		values = append(values, Value{Name: name, Text: v.text, Null: v.text == "", Source: Static})
	}
	return append(values, Value{Name: name, Text: k.Default, Null: k.Default == "" && k.Type != image.List, Source: BuiltIn})
}

// Dynamic is the number in force of a setting that is only set while brokers run.
func (c *Config) Dynamic(img *image.Image, name string) int64 {
	if values := c.Values(img, c.NodeID(), name); len(values) > 0 {
		return number(name, values[0].Text)
	}
	return number(name, mustFind(name).Default)
}

// DynamicRate is such a value in bytes a second; what no number of 64 bits is large
// enough for is without limit.
func (c *Config) DynamicRate(img *image.Image, name string) int64 {
	text := mustFind(name).Default
	if values := c.Values(img, c.NodeID(), name); len(values) > 0 {
		text = values[0].Text
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic("config: " + name + " was accepted and is not a number: " + err.Error())
	}
	if f >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(int64(f), 1)
}

// TopicValues are the values behind a topic's setting: its own if it is set,
// then those of the broker.
func (c *Config) TopicValues(img *image.Image, t *image.Topic, k *image.TopicKey) []Value {
	var values []Value
	if v, ok := t.Config(k.Name); ok {
		values = append(values, Value{Name: k.Name, Text: v, Source: DynamicTopic})
	}
	for _, b := range k.Broker {
		for _, v := range c.Values(img, c.NodeID(), b.Name) {
			if !v.Null {
				values = append(values, v)
			}
		}
	}
	if len(values) == 0 {
		values = append(values, Value{Name: k.Name, Text: k.Default, Source: BuiltIn})
	}
	return values
}

// TopicDefaults are the broker's values behind topic settings, by the topic's
// names, where they differ from the built-in ones.
func (c *Config) TopicDefaults(img *image.Image) map[string]string {
	defaults := map[string]string{}
	for i := range image.TopicKeys() {
		k := &image.TopicKeys()[i]
		if v := c.brokerValue(img, k); v != k.Default {
			defaults[k.Name] = v
		}
	}
	return defaults
}

// brokerValue is the first broker's setting behind a topic's that has a value.
func (c *Config) brokerValue(img *image.Image, k *image.TopicKey) string {
	for _, b := range k.Broker {
		if v := c.Values(img, c.NodeID(), b.Name)[0]; !v.Null {
			return b.Topic(v.Text)
		}
	}
	return k.Default
}
