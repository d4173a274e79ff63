package page

import (
	"net/http"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// MessageView is a page that only says something.
type MessageView struct {
	Shell       part.Shell
	Title, Text string
}

// NotFound says that there is no such page.
func NotFound(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		message(d, w, r, http.StatusNotFound, "There is no such page", "The address may be from an older version. Everything starts at the topology.")
	}
}

func message(d *Deps, w http.ResponseWriter, r *http.Request, status int, title, text string) {
	render(w, r, status, MessagePage(MessageView{Shell: d.shell(r.Context(), title, "", ""), Title: title, Text: text}))
}
