//go:build !linux

package exchange

import (
	"errors"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ApplicationOf asks the kernel which process is at the other end of a Unix socket; here it does not say.
func ApplicationOf(syscall.Conn) (flow.Application, error) {
	return flow.Application{}, errors.New("this system does not say which process is at the other end of a Unix socket")
}
