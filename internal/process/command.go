package process

import "os/exec"

// Command returns a command of any program that is killed when this process ends, however it
// does.
func Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = dieWithParent()
	return cmd
}
