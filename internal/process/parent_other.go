//go:build !linux

package process

import "syscall"

// dieWithParent can do nothing here: cleanup alone kills children.
func dieWithParent() *syscall.SysProcAttr { return nil }
