package process

import "syscall"

// attributes: own process group, and SIGTERM when the parent dies, even by SIGKILL.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
