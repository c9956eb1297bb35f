package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

func TestGroupTable(t *testing.T) {
	for i := range groupKeys {
		k := &groupKeys[i]
		if i > 0 && groupKeys[i-1].Name >= k.Name {
			t.Errorf("%s is there twice, or out of order", k.Name)
		}
		if err := k.Check(k.Default); err != nil || k.Doc == "" {
			t.Errorf("%s: the default: %v; documentation %q", k.Name, err, k.Doc)
		}
		if b, ok := FindKey(k.Broker); ok && b.Default != k.Default {
			t.Errorf("%s is %s by default, and the broker's %s is %s", k.Name, k.Default, b.Name, b.Default)
		}
		for _, bound := range []string{k.Low, k.High} {
			if _, ok := FindKey(bound); ok != k.Acts("none of the defaults") {
				t.Errorf("%s: the bound %q is there: %v", k.Name, bound, ok)
			}
		}
	}
}

func withGroup(settings ...image.Setting) *image.Image {
	img, _ := image.Apply(image.Empty(), 1, []image.Record{&image.GroupConfigsRecord{Group: "g", Configs: settings}})
	return img
}

func configured(t *testing.T, settings ...string) *Config {
	t.Helper()
	c := New()
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		if err := c.Set(name, value, File, "file"); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestGroupValues(t *testing.T) {
	c := configured(t, "group.consumer.session.timeout.ms=46000")
	img := withGroup(image.Setting{Key: "consumer.session.timeout.ms", Value: "50000"}, image.Setting{Key: "share.auto.offset.reset", Value: "earliest"})
	for name, want := range map[string][]Value{
		"consumer.session.timeout.ms": {
			{Name: "consumer.session.timeout.ms", Text: "50000", Source: DynamicGroup},
			{Name: "group.consumer.session.timeout.ms", Text: "46000", Source: Static},
			{Name: "group.consumer.session.timeout.ms", Text: "45000", Source: BuiltIn},
		},
		"consumer.heartbeat.interval.ms": {{Name: "group.consumer.heartbeat.interval.ms", Text: "5000", Source: BuiltIn}},
		"share.auto.offset.reset": {
			{Name: "share.auto.offset.reset", Text: "earliest", Source: DynamicGroup},
			{Name: "share.auto.offset.reset", Text: "latest", Source: BuiltIn},
		},
		"share.session.timeout.ms": {{Name: "group.share.session.timeout.ms", Text: "45000", Source: BuiltIn}}, // of which the broker has no setting
	} {
		k, ok := FindGroupKey(name)
		if !ok {
			t.Fatalf("no setting %s", name)
		}
		if got := c.GroupValues(img, "g", k); !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n%v, want\n%v", name, got, want)
		}
	}
}

// A value that was allowed once keeps to bounds that the broker has been given since.
func TestGroupBounds(t *testing.T) {
	c := configured(t, "group.consumer.min.session.timeout.ms=30000", "group.consumer.session.timeout.ms=40000", "group.consumer.max.session.timeout.ms=50000")
	for value, inForce := range map[string]time.Duration{
		"": 40 * time.Second, "29999": 30 * time.Second, "30000": 30 * time.Second, "45000": 45 * time.Second, "50000": 50 * time.Second, "50001": 50 * time.Second,
	} {
		var set []image.Setting
		if value != "" {
			set = append(set, image.Setting{Key: consumerSession, Value: value})
		}
		if got := c.OfGroup(withGroup(set...), "g", consumerSession); got != inForce {
			t.Errorf("%q is %v in force, want %v", value, got, inForce)
		}
		if value == "" {
			continue
		}
		k, _ := FindGroupKey(consumerSession)
		if err := c.Allows(k, value); (err == nil) != (number(k.Name, value) == inForce.Milliseconds()) {
			t.Errorf("%s: %v", value, err)
		}
	}
	k, _ := FindGroupKey("share.session.timeout.ms")
	if err := c.Allows(k, "1"); err != nil {
		t.Errorf("a setting that does nothing has bounds: %v", err)
	}
}

func TestGroupSettingsTogether(t *testing.T) {
	c := configured(t, "group.consumer.min.session.timeout.ms=1000", "group.consumer.max.heartbeat.interval.ms=50000", "group.consumer.max.session.timeout.ms=48000")
	for _, x := range []struct {
		session, heartbeat string
		allowed            bool
	}{
		{"", "", true},
		{"5001", "", true},
		{"5000", "", false}, // the broker's heartbeats
		{"", "44999", true},
		{"", "45000", false}, // the broker's session
		{"20000", "19999", true},
		{"20000", "20000", false},
		{"50000", "47999", true},
		{"50000", "48000", false}, // of which 48 s are in force
	} {
		set := map[string]string{"share.session.timeout.ms": "1"}
		if x.session != "" {
			set[consumerSession] = x.session
		}
		if x.heartbeat != "" {
			set[consumerHeartbeat] = x.heartbeat
		}
		if err := c.AllowsTogether(set); (err == nil) != x.allowed {
			t.Errorf("a session of %q and heartbeats of %q: %v", x.session, x.heartbeat, err)
		}
	}
}

func TestWhereShareGroupsBegin(t *testing.T) {
	k, _ := FindGroupKey("share.auto.offset.reset")
	for value, want := range map[string]bool{
		"earliest": true, "latest": true, "by_duration:P1D": true, "by_duration:PT1H30M": true, "by_duration:P2DT3.5S": true, "by_duration:pt1m": true,
		"": false, "Latest": false, "none": false, "by_duration:": false, "by_duration:P": false, "by_duration:PT": false, "by_duration:P1DT": false,
		"by_duration:-PT1H": false, "by_duration:PT1": false, "by_duration:P1H": false, "by_duration:PT1M1H": false, "PT1H": false,
	} {
		if err := k.Check(value); (err == nil) != want {
			t.Errorf("%q: %v", value, err)
		}
	}
}
