//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// loadTime bounds one page, browser start included.
const loadTime = 40 * time.Second

// browser is a Chromium that runs without a screen.
type browser string

func findBrowser(name string) (browser, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no Chromium: %w. Debian/Ubuntu: apt-get install chromium; macOS: brew install chromium; or name it with -chromium", err)
	}
	return browser(path), nil
}

// photograph writes a picture of a page. Every picture has a browser profile of its own, so that no choice of an earlier one is remembered.
func (b browser) photograph(ctx context.Context, url, file string, s shot) error {
	profile, err := os.MkdirTemp("", "tulle-chromium-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(profile) }()
	file, err = filepath.Abs(file)
	if err != nil {
		return err
	}
	scheme := "1" // light
	if s.dark {
		scheme = "0"
	}
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	c := exec.CommandContext(ctx, string(b),
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--user-data-dir="+profile,
		"--blink-settings=preferredColorScheme="+scheme, fmt.Sprintf("--window-size=%d,%d", s.width, s.height),
		"--timeout=20000", "--screenshot="+file, url)
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	c.WaitDelay = 5 * time.Second
	err = c.Run()
	if err == nil && !strings.Contains(said.String(), "bytes written") {
		err = errors.New("it wrote nothing")
	}
	if err != nil {
		return fmt.Errorf("chromium on %s: %w\n%s", url, err, said.String())
	}
	return nil
}
