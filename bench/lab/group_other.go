//go:build !unix

package main

import (
	"errors"
	"os/exec"
)

// ownGroup does nothing where there are no process groups.
func ownGroup(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) error { return cmd.Process.Kill() }

func interruptGroup(*exec.Cmd) error { return errors.New("there is no SIGINT on this system") }
