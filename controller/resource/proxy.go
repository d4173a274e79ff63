package resource

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Proxy is where the application finds a forward proxy, which it is told of by HTTP_PROXY and HTTPS_PROXY.
type Proxy struct {
	Listen  string `yaml:"listen,omitempty"`  // ip:port; default: there is none
	Unknown string `yaml:"unknown,omitempty"` // what becomes of requests for what is no service: pass (default) | refuse
}

// Policy is p as sidecars are told. p is checked.
func (p Proxy) Policy() *policy.Proxy {
	unknown, _ := policy.ParseUnknown(p.Unknown, flow.SideClient)
	return &policy.Proxy{Unknown: unknown}
}

func (p *Proxy) check(field string) error {
	if p.Listen == "" {
		if p.Unknown != "" {
			return fmt.Errorf("%s.listen: is required beside other fields; give the address of the proxy, such as 127.0.0.1:15002", field)
		}
		return nil
	}
	if err := checkAddr(field+".listen", &p.Listen); err != nil {
		return err
	}
	if _, err := policy.ParseUnknown(p.Unknown, flow.SideClient); err != nil {
		return fmt.Errorf("%s.unknown: %w", field, err)
	}
	return nil
}
