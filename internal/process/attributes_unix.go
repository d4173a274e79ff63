//go:build unix && !linux

package process

import "syscall"

// attributes: own process group. The lifeline alone tells the child that its parent is gone.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
