package main

import (
	"bufio"
	"context"
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

// process is one that the benchmark has started, and the only kind that it ends.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	log  string
	done chan struct{}
	err  error // valid once done
}

// start runs a program whose output goes to a file in dir. It is told to stop
// when ctx ends, and killed when it does not.
func start(ctx context.Context, dir, name, program string, args ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.CommandContext(ctx, program, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 15 * time.Second
	if p.in, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended
	select {
	case <-p.done:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill() // as above
		<-p.done
	}
}

// ended is an error once the process is gone. That is too early for all but a
// copier that has finished.
func (p *process) ended() error {
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s has ended: %w", p.name, p.err)
		}
		return fmt.Errorf("%s has ended", p.name)
	default:
		return nil
	}
}

// tail is the end of what the process has written.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// said waits for a line of the output.
func (p *process) said(ctx context.Context, line string) error {
	for {
		f, err := os.Open(p.log)
		if err != nil {
			return err
		}
		found := false
		for sc := bufio.NewScanner(f); sc.Scan(); {
			found = found || sc.Text() == line
		}
		f.Close()
		if found {
			return nil
		}
		if err := p.ended(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has not said %q: %w", p.name, line, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ticks is the unit of the times in /proc: USER_HZ, which is 100 on every
// architecture that Go runs on.
const ticks = 100

// cpu is the CPU time of the process so far, user and system, in seconds. Its
// threads count, children do not.
func (p *process) cpu() (float64, error) {
	used, err := cpuOf(p.cmd.Process.Pid)
	if err == nil {
		return used, nil
	}
	select { // it may have ended by itself
	case <-p.done:
		st := p.cmd.ProcessState
		return (st.UserTime() + st.SystemTime()).Seconds(), nil
	case <-time.After(time.Second):
		return 0, fmt.Errorf("CPU of %s: %w", p.name, err)
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
