//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const openSearchVersion = "2.19.1"

// launcher starts a node of its own with the one plugin it needs: the distribution, which has a start script, is not on Maven Central.
const launcher = `import java.nio.file.Path;
import java.util.*;
import org.opensearch.common.settings.Settings;
import org.opensearch.node.*;
import org.opensearch.transport.Netty4Plugin;

public class Launcher extends Node {
  Launcher(Settings s, String home) {
    super(InternalSettingsPreparer.prepareEnvironment(s, Collections.emptyMap(), Path.of(home, "config"), () -> "tulle"), List.of(Netty4Plugin.class), false);
  }

  public static void main(String[] a) throws Exception {
    Settings s = Settings.builder().put("path.home", a[0]).put("cluster.name", "tulle").put("discovery.type", "single-node").put("network.host", "127.0.0.1")
        .put("http.port", a[1]).put("transport.port", a[2]).put("http.type", "netty4").put("transport.type", "netty4")
        .put("cluster.routing.allocation.disk.threshold_enabled", false).build();
    Node n = new Launcher(s, a[0]).start();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> { try { n.close(); } catch (Exception e) { } }));
    Thread.currentThread().join();
  }
}
`

func startOpenSearch(ctx context.Context, dir, work string) (*process, error) {
	lib, err := jars(ctx, dir, "org.opensearch:opensearch:"+openSearchVersion, "org.opensearch.plugin:transport-netty4-client:"+openSearchVersion, "org.apache.logging.log4j:log4j-core:2.21.0")
	if err != nil {
		return nil, err
	}
	home := filepath.Join(work, "opensearch")
	for _, d := range []string{"config", "modules", "plugins"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o700); err != nil {
			return nil, err
		}
	}
	source := filepath.Join(work, "Launcher.java")
	if err := os.WriteFile(source, []byte(launcher), 0o600); err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	transport, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	return start(ctx, fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(work, "opensearch.log"), 3*time.Minute,
		"java", "-Xms256m", "-Xmx1g", "-cp", filepath.Join(lib, "*"), source, home, strconv.Itoa(port), strconv.Itoa(transport))
}
