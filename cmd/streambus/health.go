package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streambus/streambus/broker/config"
)

func healthCommand() *cobra.Command {
	var admin func() (string, error)
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask a broker on this host whether it is ready; the exit code is the answer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr, err := admin()
			if err != nil {
				return err
			}
			client := http.Client{Timeout: 5 * time.Second}
			resp, err := client.Get("http://" + addr + "/health/ready")
			if err != nil {
				return fmt.Errorf("no broker answers on its admin listener: %w", err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", strings.TrimSpace(string(text)))
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	admin = adminFlag(cmd, "broker")
	return cmd
}

// adminFlag adds the flag that says where a node's admin listener is. Without it
// that is where serve listens with the same variables: a health check inside a
// container has nothing else to know it by.
func adminFlag(cmd *cobra.Command, node string) func() (string, error) {
	const name, key = "admin-listen", "streambus.admin.listen"
	addr := cmd.Flags().String(name, config.New().Get(key), fmt.Sprintf("host:port of the %s's admin listener; KAFKA_STREAMBUS_ADMIN_LISTEN sets it too", node))
	return func() (string, error) {
		if !cmd.Flags().Changed(name) {
			cfg := config.New()
			if err := cfg.ReadEnvironment(os.Environ()); err != nil {
				return "", usageError{err}
			}
			*addr = cfg.Get(key)
		}
		host, port, err := net.SplitHostPort(*addr)
		if err != nil {
			return "", usagef("--%s %s: must be of the form host:port", name, *addr)
		}
		// All interfaces are an address to listen at. A connection would come to this
		// host, but by way of a proxy where HTTP_PROXY names one.
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		return net.JoinHostPort(host, port), nil
	}
}
