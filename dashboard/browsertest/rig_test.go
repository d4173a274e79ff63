// Package browsertest looks at the dashboard as a person does: in Chromium, over a made-up shop that the preview serves. `make test-browser` runs it,
// and installs what it needs.
package browsertest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Files that make test-browser puts there.
const (
	previewFile = "../../bin/preview"
	axeFile     = "../../.tools/axe-core/node_modules/axe-core/axe.min.js"
)

// pageTime bounds one page with all that a test does on it.
const pageTime = 60 * time.Second

var browser struct {
	ctx  context.Context
	url  string // of the preview
	axe  string
	stop []func()
}

func TestMain(m *testing.M) {
	err := start()
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, stop := range slices.Backward(browser.stop) {
		stop()
	}
	os.Exit(code)
}

// start runs a preview and a Chromium.
func start() error {
	axe, err := os.ReadFile(axeFile)
	if err != nil {
		return fmt.Errorf("axe-core is missing (%w): run make test-browser, which gets it from npm", err)
	}
	browser.axe = string(axe)
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		return fmt.Errorf("no Chromium: %w. Debian/Ubuntu: apt-get install chromium; make test-browser does it", err)
	}
	if browser.url, err = preview(); err != nil {
		return err
	}
	profile, err := os.MkdirTemp("", "tulle-browser-")
	if err != nil {
		return err
	}
	browser.stop = append(browser.stop, func() { _ = os.RemoveAll(profile) })
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium), chromedp.UserDataDir(profile), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(time.Minute))...)
	browser.stop = append(browser.stop, cancel)
	ctx, end := chromedp.NewContext(alloc)
	browser.stop = append(browser.stop, end)
	browser.ctx = ctx
	if err := chromedp.Run(ctx); err != nil {
		return fmt.Errorf("start Chromium: %w", err)
	}
	return nil
}

// preview starts the program that serves the made-up shop, and returns its address. It ends with the tests.
func preview(args ...string) (string, error) {
	path, err := filepath.Abs(previewFile)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run make test-browser, which builds it", err)
	}
	c := exec.Command(path, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := c.Start(); err != nil {
		return "", err
	}
	browser.stop = append(browser.stop, func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the preview said nothing: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// look is how a page is looked at.
type look struct {
	width, height int64
	dark          bool
	still         bool // prefers-reduced-motion
}

// tab is one open page, and what the browser complained of.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	troubles []string
	shut     func()
}

// open loads a page in a new tab. What its scripts throw, what the browser refuses and what the console calls an error fails the test at its end.
func open(t testing.TB, path string, l look) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(browser.ctx)
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	p := &tab{t: t, ctx: ctx, shut: sync.OnceFunc(func() { cancel(); end() })}
	chromedp.ListenTarget(ctx, p.hear)
	t.Cleanup(func() {
		p.shut()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, s := range p.troubles {
			t.Errorf("%s: %s", path, s)
		}
	})
	scheme, motion := "light", "no-preference"
	if l.dark {
		scheme = "dark"
	}
	if l.still {
		motion = "reduce"
	}
	p.do(
		cdplog.Enable(),
		emulation.SetDeviceMetricsOverride(l.width, l.height, 1, l.width < 600),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion}}),
		chromedp.Navigate(addressOf(path)),
		chromedp.WaitReady("main"),
	)
	return p
}

// addressOf is the address of a path of the preview; what is one already stays.
func addressOf(path string) string {
	if strings.HasPrefix(path, "http://") {
		return path
	}
	return browser.url + path
}

// close closes the tab before the test's end.
func (p *tab) close() { p.shut() }

func (p *tab) hear(e any) {
	say := ""
	switch e := e.(type) {
	case *runtime.EventExceptionThrown:
		say = "a script failed: " + e.ExceptionDetails.Error()
	case *cdplog.EventEntryAdded:
		// That a page answered 404 is the business of the test that asked for it.
		if e.Entry.Level == cdplog.LevelError && e.Entry.Source != cdplog.SourceNetwork {
			say = "the browser says: " + e.Entry.Text
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError {
			say = fmt.Sprintf("the console has an error: %v", e.Args)
		}
	}
	if say != "" {
		p.mu.Lock()
		p.troubles = append(p.troubles, say)
		p.mu.Unlock()
	}
}

func (p *tab) do(actions ...chromedp.Action) {
	p.t.Helper()
	if err := chromedp.Run(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// eval runs an expression in the page; a promise is awaited.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	var v T
	p.do(chromedp.Evaluate(expression, &v, func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
	return v
}

// until waits for an expression to be true, over loads of other pages too.
func (p *tab) until(what, expression string) {
	p.t.Helper()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	deadline := time.Now().Add(20 * time.Second)
	var ok bool
	var err error
	for time.Now().Before(deadline) {
		err = chromedp.Run(p.ctx, chromedp.Evaluate("!!("+expression+")", &ok))
		if ok && err == nil {
			return
		}
		if p.ctx.Err() != nil {
			break
		}
		<-every.C // while a page is being loaded there is nothing to ask
	}
	p.t.Fatalf("%s: not within 20 s: %s (%v)", what, expression, err)
}

// click clicks what a selector finds. What is drawn anew just then is found anew.
func (p *tab) click(selector string) {
	p.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if err = chromedp.Run(p.ctx, chromedp.Click(selector, chromedp.NodeVisible)); err == nil || !strings.Contains(err.Error(), "node") {
			break
		}
	}
	if err != nil {
		p.t.Fatalf("click %s: %v", selector, err)
	}
}

// press types keys into this tab, which is the one that is seen then: a hidden page is not live.
func (p *tab) press(keys string) {
	p.t.Helper()
	p.do(page.BringToFront(), chromedp.KeyEvent(keys))
}
