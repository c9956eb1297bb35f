package server

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed broker.xml
var brokerPOM []byte

//go:embed tools.xml
var toolsPOM []byte

// BrokerJars has Maven fetch Apache Kafka, once, and returns the directory of
// its jars, with kafka-clients of the same version among them.
func BrokerJars(ctx context.Context) (dir string, err error) { return jars(ctx, "broker", brokerPOM) }

// ToolsJars does so for Apache Kafka's command-line tools.
func ToolsJars(ctx context.Context) (dir string, err error) { return jars(ctx, "tools", toolsPOM) }

// jars keeps what a POM asks for in the user's cache directory, under a name
// that changes with it.
func jars(ctx context.Context, name string, pom []byte) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "streambus-compat", fmt.Sprintf("%s-%x", name, sha256.Sum256(pom))[:len(name)+9])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return "", err
	}
	out := filepath.Join(tmp, "jars")
	mvn := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", file, "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+out)
	if text, err := mvn.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetching the jars of %s: %w\n%s", name, err, text)
	}
	return dir, os.Rename(out, dir)
}
