package process

import "syscall"

// dieWithParent makes the kernel kill a child when the test's process ends, however it does.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
