package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/streambus/streambus/raftmeta/image"
)

// PerIPOverrides are the addresses that may have more or fewer connections than
// max.connections.per.ip.
func (c *Config) PerIPOverrides() map[netip.Addr]int {
	overrides, err := parseOverrides(c.Get("max.connections.per.ip.overrides"))
	if err != nil {
		panic("config: max.connections.per.ip.overrides was accepted: " + err.Error())
	}
	return overrides
}

// parseOverrides reads address:count,... Apache Kafka takes names as well, and
// looks them up once, at its start; here a name is refused, since what it stood
// for then may be another host by now.
func parseOverrides(list string) (map[netip.Addr]int, error) {
	overrides := map[netip.Addr]int{}
	for _, entry := range image.Items(list) {
		at := strings.LastIndexByte(entry, ':')
		if at < 0 {
			return nil, fmt.Errorf("%q is not of the form address:count", entry)
		}
		addr, err := netip.ParseAddr(strings.Trim(entry[:at], "[]"))
		if err != nil {
			return nil, fmt.Errorf("%q: %q is not an IP address; names are not looked up", entry, entry[:at])
		}
		n, err := strconv.ParseUint(entry[at+1:], 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q: the count must be a number from 0 on", entry)
		}
		overrides[addr.Unmap()] = int(n)
	}
	return overrides, nil
}

func overrideList(v string) error {
	_, err := parseOverrides(v)
	return err
}
