//go:build unix

package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/loadtest/shop"
	"github.com/tulle-mesh/tulle/store/event"
)

// teller prints the story, one line per thing that happened, with the time since the load began. Safe for concurrent use.
type teller struct {
	mu    sync.Mutex
	out   io.Writer
	color bool
	zero  time.Time
	http  string
	hook  string
}

func newTeller(out io.Writer, color bool) *teller {
	return &teller{out: out, color: color, zero: time.Now()}
}

const (
	plain  = ""
	dim    = "2"
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (t *teller) paint(style, text string) string {
	if !t.color || style == plain {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (t *teller) say(style, word, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := time.Since(t.zero).Round(time.Second)
	_, _ = fmt.Fprintf(t.out, "  %s  %s %s\n", t.paint(dim, fmt.Sprintf("%02d:%02d", int(at.Minutes()), int(at.Seconds())%60)),
		t.paint(style, fmt.Sprintf("%-10s", word)), text)
}

func (t *teller) line(word, text string) { t.say(plain, word, text) }
func (t *teller) warn(text string)       { t.say(red, "trouble", text) }

// begin prints what is started and where its data goes.
func (t *teller) begin(d *demo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.http, t.hook = "http://"+d.HTTP, "http://"+d.Webhook+"/"
	apps, sidecars := 0, 0
	for _, w := range d.workloads {
		if !w.Client {
			apps++
		}
		if !w.External {
			sidecars++
		}
	}
	_, _ = fmt.Fprintf(t.out, "%s\n  data  %s   ('tulle demo --clean' removes it)\n  logs  %s\n  starting controller, observer, %d services and %d sidecars\n",
		t.paint(bold, "tulle demo"), d.dir.path, d.dir.join("logs"), apps, sidecars)
}

// up prints where to look; the story's clock starts here.
func (t *teller) up(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.zero = time.Now()
	_, _ = fmt.Fprintf(t.out, `  everything serves after %.1f s

  open   %s
         the live graph: every edge with its rate, errors and latency, from both sides;
         click an edge for its traces, a trace for its waterfall
  alerts %s   what this demo's webhook receiver got
  try    tulle top · tulle traces · tulle trace ID · tulle events
         curl -s http://127.0.0.1:15000/metrics      a sidecar's
         curl -s %s/metrics      the control plane's
  stop   Ctrl-C

`, took.Seconds(), t.paint(bold, t.http), t.hook, t.http)
}

// fault announces a scripted step and what to expect of the mesh.
func (t *teller) fault(s shop.Step, p shop.Script, err error) {
	if err != nil {
		t.warn(fmt.Sprintf("the script could not reach %s: %v", s.Instance, err))
		return
	}
	if s.Fault.Kind == shop.FaultNone {
		t.say(green, "healed", s.Say()+"; expect it to be readmitted within 120 s, and the alert to resolve")
		return
	}
	t.say(red, "fault", fmt.Sprintf("%s for %s; expect its ejection within 5 s, and an alert within 60 s", s.Say(), p.Last))
}

// told are the events worth a line here; all are on the dashboard.
var told = map[event.Kind]struct{ style, word string }{
	event.KindEjected:      {yellow, "ejected"},
	event.KindReadmitted:   {green, "readmitted"},
	event.KindReflex:       {yellow, "reflex"},
	event.KindWeight:       {yellow, "weight"},
	event.KindAlertFiring:  {red, "alert"},
	event.KindAlertOK:      {green, "resolved"},
	event.KindSaturated:    {red, "saturated"},
	event.KindReporterLost: {red, "missing"},
	event.KindReporterBack: {green, "back"},
	event.KindTraceBreak:   {yellow, "traces"},
	event.KindConfigBad:    {red, "config"},
	event.KindNack:         {red, "refused"},
	event.KindClock:        {yellow, "clock"},
	event.KindStore:        {red, "store"},
	event.KindDisk:         {red, "disk"},
}

func (t *teller) event(e event.Event) {
	how, ok := told[e.Kind]
	if !ok {
		return
	}
	text := show.Printable(e.Message)
	if len(e.Traces) > 0 {
		text += "  " + t.paint(cyan, "tulle trace "+e.Traces[0])
	}
	t.say(how.style, how.word, text)
}

// notification prints what arrived at the webhook.
func (t *teller) notification(n Notification) {
	status, line := alertLine(n)
	style := red
	if status == "resolved" {
		style = green
	}
	t.say(style, "webhook", show.Printable(strings.TrimSpace(line))+"  whole: "+t.hook)
}
