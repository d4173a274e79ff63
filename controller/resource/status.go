package resource

import (
	"cmp"
	"slices"
	"strings"
)

// ControllerName is that of the GatewayClasses that are Tulle's, and of what is said in the status of routes.
const ControllerName = "tulle.dev/gateway-controller"

// Condition is one of the Gateway API's (https://gateway-api.sigs.k8s.io/geps/gep-1364/), without what a pure function cannot know.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"` // True | False
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"` // for people: what is wrong and what to do
}

// ParentStatus is what one parent of a route, or ancestor of a policy, says of it.
type ParentStatus struct {
	Parent     string      `json:"parent"` // "Service shop/catalog", "Gateway shop/web/https"
	Conditions []Condition `json:"conditions"`
}

// ListenerStatus is one listener of a Gateway.
type ListenerStatus struct {
	Name           string      `json:"name"`
	SupportedKinds []string    `json:"supportedKinds"`
	AttachedRoutes int         `json:"attachedRoutes"`
	Conditions     []Condition `json:"conditions"`
}

// Status is what is said of one object of the Gateway API. A route has Parents, a Gateway Conditions, Listeners and Addresses, a GatewayClass Conditions.
type Status struct {
	Key        Key              `json:"-"`
	Position   Position         `json:"-"`
	Conditions []Condition      `json:"conditions,omitempty"`
	Parents    []ParentStatus   `json:"parents,omitempty"`
	Listeners  []ListenerStatus `json:"listeners,omitempty"`
	Addresses  []string         `json:"addresses,omitempty"`
}

// conditions is a list being made: each type once, the first False counts.
type conditions []Condition

func (c *conditions) set(kind string, ok bool, reason, message string) {
	status := "True"
	if !ok {
		status = "False"
	}
	i := slices.IndexFunc(*c, func(x Condition) bool { return x.Type == kind })
	switch {
	case i < 0:
		*c = append(*c, Condition{kind, status, reason, message})
	case (*c)[i].Status == "True" && !ok:
		(*c)[i] = Condition{kind, status, reason, message}
	case !ok && !strings.Contains((*c)[i].Message, message):
		(*c)[i].Message = strings.TrimPrefix((*c)[i].Message+"; "+message, "; ")
	case ok && (*c)[i].Status == "True" && message != "":
		(*c)[i].Message = strings.TrimPrefix((*c)[i].Message+"; "+message, "; ")
	}
}

// good are the types whose False is bad news; of the others True is.
var good = map[string]bool{"Accepted": true, "ResolvedRefs": true, "Programmed": true}

// news are the conditions that a person should hear of, and what a True says besides.
func news(list []Condition) (out []Condition) {
	for _, c := range list {
		if (c.Status == "False") == good[c.Type] || c.Message != "" {
			out = append(out, c)
		}
	}
	return out
}

// problems are warnings of what statuses say, each once for an object.
func statusProblems(statuses []Status) []Problem {
	var out []Problem
	for _, s := range statuses {
		said := map[string]bool{}
		say := func(where string, list []Condition) {
			for _, c := range news(list) {
				if said[c.Message] || c.Message == "" {
					continue
				}
				said[c.Message] = true
				message := c.Message
				if where != "" && (c.Status == "False") == good[c.Type] {
					message = where + ": " + message
				}
				if (c.Status == "False") == good[c.Type] {
					message += " (" + c.Type + " " + c.Status + ", " + c.Reason + ")"
				}
				out = append(out, Problem{Position: s.Position, Key: s.Key, Severity: Warning, Message: message, Reason: c.Reason})
			}
		}
		say("", s.Conditions)
		for _, p := range s.Parents {
			say("parent "+p.Parent, p.Conditions)
		}
		for _, l := range s.Listeners {
			say("listener "+l.Name, l.Conditions)
		}
	}
	return out
}

// sortStatuses orders objects by key, and conditions by type.
func sortStatuses(list []Status) {
	order := func(c []Condition) {
		slices.SortFunc(c, func(a, b Condition) int { return strings.Compare(a.Type, b.Type) })
	}
	for _, s := range list {
		order(s.Conditions)
		for _, p := range s.Parents {
			order(p.Conditions)
		}
		for _, l := range s.Listeners {
			order(l.Conditions)
		}
	}
	slices.SortFunc(list, func(a, b Status) int {
		return cmp.Or(a.Key.Compare(b.Key), strings.Compare(a.Position.File, b.Position.File))
	})
}
