//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const cassandraVersion = "5.0.5"

// cassandraYAML is a node of its own: its two ports are filled in.
const cassandraYAML = `cluster_name: tulle
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
commitlog_sync: periodic
commitlog_sync_period: 10000ms
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "127.0.0.1:%[1]d"
listen_address: 127.0.0.1
storage_port: %[1]d
rpc_address: 127.0.0.1
native_transport_port: %[2]d
endpoint_snitch: SimpleSnitch
memtable_heap_space: 128MiB
memtable_offheap_space: 64MiB
file_cache_size: 32MiB
networking_cache_size: 16MiB
concurrent_reads: 8
concurrent_writes: 8
auto_snapshot: false
`

// opened are the packages of Java that Cassandra reaches into.
const opened = `java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.lang.reflect java.base/java.math java.base/java.net java.base/java.nio java.base/java.util
java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/jdk.internal.loader java.base/jdk.internal.math java.base/jdk.internal.misc java.base/jdk.internal.module
java.base/jdk.internal.perf java.base/jdk.internal.ref java.base/jdk.internal.reflect java.base/jdk.internal.util.jar java.base/sun.nio.ch java.logging/java.util.logging
java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry java.rmi/sun.rmi.server java.rmi/sun.rmi.transport java.rmi/sun.rmi.transport.tcp java.sql/java.sql
jdk.compiler/com.sun.tools.javac.file jdk.management.jfr/jdk.management.jfr jdk.management/com.sun.management.internal`

func startCassandra(ctx context.Context, dir, work string) (*process, error) {
	lib, err := jars(ctx, dir, "org.apache.cassandra:cassandra-all:"+cassandraVersion)
	if err != nil {
		return nil, err
	}
	storage, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	native, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	yaml := filepath.Join(work, "cassandra.yaml")
	if err := os.WriteFile(yaml, fmt.Appendf(nil, cassandraYAML, storage, native), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"-Xms256m", "-Xmx1g", "-Djdk.attach.allowAttachSelf=true", "-Dcassandra.config=file://" + yaml, "-Dcassandra.storagedir=" + filepath.Join(work, "cassandra"),
		"-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=100", "-Dcassandra-foreground=yes",
	}
	for _, p := range strings.Fields(opened) {
		args = append(args, "--add-opens", p+"=ALL-UNNAMED", "--add-exports", p+"=ALL-UNNAMED")
	}
	args = append(args, "-cp", filepath.Join(lib, "*"), "org.apache.cassandra.service.CassandraDaemon")
	return start(ctx, fmt.Sprintf("127.0.0.1:%d", native), filepath.Join(work, "cassandra.log"), 2*time.Minute, "java", args...)
}
