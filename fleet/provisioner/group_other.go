//go:build !unix

package provisioner

import "os/exec"

// group does nothing where there are no process groups.
func group(*exec.Cmd) {}

// killGroup kills a program.
func killGroup(c *exec.Cmd) {
	_ = c.Process.Kill() // it may have ended
}
