package part

import (
	"time"

	"github.com/tulle-mesh/tulle/dashboard/source"
)

// Shell is what surrounds every page.
type Shell struct {
	Title   string
	Active  string // path of the navigation entry that is marked
	Notices []source.Notice
	Now     time.Time
	Live    string // topics the page listens to, space separated; "reload" swaps the page's live regions every few seconds; "" is static
	Assets  Assets
	Alerts  int  // firing, shown beside the navigation entry
	Charts  bool // the page has charts: their script is loaded, which no other page needs
}

// Assets are the addresses of the hashed bundle.
type Assets struct{ Script, Style, Boot, Icon, Charts string }

// Link is one entry of the navigation.
type Link struct{ Path, Title string }

// Navigation is the order of the entries in the header.
var Navigation = []Link{
	{"/", "Topology"}, {"/traces", "Traces"}, {"/requests", "Requests"}, {"/events", "Events"}, {"/alerts", "Alerts"}, {"/proxies", "Proxies"}, {"/tulle", "Tulle"},
}

// Stat is one figure of the summary strip; Key makes it live.
type Stat struct {
	Key, Label, Value, Hint, Href string
	Level                         Level
}

func current(active, path string) string {
	if active == path {
		return "page"
	}
	return "false"
}

func noticeRole(severity string) string {
	if severity == "error" {
		return "alert"
	}
	return "status"
}

// severityLevel maps info, warning and error to a level.
func severityLevel(severity string) Level {
	switch severity {
	case "error":
		return Bad
	case "warning":
		return Warn
	}
	return OK
}

// SeverityLevel is the level of an event, notice or alert by its severity word.
func SeverityLevel(severity string) Level {
	switch severity {
	case "error", "critical", "page":
		return Bad
	case "warning", "ticket":
		return Warn
	}
	return OK
}
