package rig

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one that a benchmark has started, and the only kind that it ends.
type Process struct {
	Name string
	In   io.WriteCloser  // its standard input
	Done <-chan struct{} // closed when it has ended
	Err  error           // how it ended; valid once Done

	cmd *exec.Cmd
	log string
}

// Start runs a program whose output goes to a file in dir. It is told to stop
// when ctx ends, and killed when it does not.
func Start(ctx context.Context, dir, name, program string, args ...string) (*Process, error) {
	done := make(chan struct{})
	p := &Process{Name: name, log: filepath.Join(dir, name+".log"), Done: done}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.CommandContext(ctx, program, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 15 * time.Second
	if p.In, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		p.Err = p.cmd.Wait()
		close(done)
	}()
	return p, nil
}

// Stop ends the process and waits for it.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended
	select {
	case <-p.Done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill() // as above
		<-p.Done
	}
}

// Ended is an error once the process is gone. That is too early for all but a
// copier that has finished.
func (p *Process) Ended() error {
	select {
	case <-p.Done:
		if p.Err != nil {
			return fmt.Errorf("%s has ended: %w", p.Name, p.Err)
		}
		return fmt.Errorf("%s has ended", p.Name)
	default:
		return nil
	}
}

// Tail is the end of what the process has written.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// Said waits until the process has written a line with that text.
func (p *Process) Said(ctx context.Context, text string) error {
	for {
		f, err := os.Open(p.log)
		if err != nil {
			return err
		}
		found := false
		for sc := bufio.NewScanner(f); !found && sc.Scan(); {
			found = strings.Contains(sc.Text(), text)
		}
		f.Close()
		if found {
			return nil
		}
		if err := p.Ended(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has not said %q: %w", p.Name, text, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Document is the last line of what the process has written, if that is JSON,
// which is where weir puts its report.
func (p *Process) Document(v any) error {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err
	}
	b = bytes.TrimSpace(b)
	if err := json.Unmarshal(b[bytes.LastIndexByte(b, '\n')+1:], v); err != nil {
		return fmt.Errorf("the last line of %s: %w", p.Name, err)
	}
	return nil
}

// ticks is the unit of the times in /proc: USER_HZ, which is 100 on every
// architecture that Go runs on.
const ticks = 100

// CPU is the CPU time of the process so far, user and system, in seconds. Its
// threads count, children do not.
func (p *Process) CPU() (float64, error) {
	used, err := cpuOf(p.cmd.Process.Pid)
	if err == nil {
		return used, nil
	}
	select { // it may have ended by itself
	case <-p.Done:
		st := p.cmd.ProcessState
		return (st.UserTime() + st.SystemTime()).Seconds(), nil
	case <-time.After(time.Second):
		return 0, fmt.Errorf("CPU of %s: %w", p.Name, err)
	}
}

func cpuOf(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(b))
}

// parseStat reads utime and stime of a line of /proc/<pid>/stat, in which the
// second field, the name, may hold anything.
func parseStat(line string) (float64, error) {
	f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("stat has %d fields after the name", len(f))
	}
	user, err1 := strconv.ParseUint(f[11], 10, 64)
	system, err2 := strconv.ParseUint(f[12], 10, 64)
	return float64(user+system) / ticks, errors.Join(err1, err2)
}

// machineCPU is the CPU time that all processes of the machine have used, in
// seconds, without what waits for a disk.
func machineCPU() (float64, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, errors.New("/proc/stat does not begin with cpu")
	}
	var sum uint64
	for i, v := range f[1:9] {
		if i == 3 || i == 4 || i == 7 { // idle, waiting, stolen
			continue
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return float64(sum) / ticks, nil
}
