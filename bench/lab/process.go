package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// process is a weir that the lab has started, in a process group of its own.
type process struct {
	name  string
	cmd   *exec.Cmd
	out   bytes.Buffer // of standard output; complete once done
	log   *log
	began time.Time
	done  chan struct{}
}

// start starts a program and remembers what it logs.
func start(name, program string, args ...string) (*process, error) {
	p := &process{name: name, log: newLog(), began: time.Now(), done: make(chan struct{})}
	p.cmd = exec.Command(program, args...) //nolint:gosec,noctx // programs of ours, ended by kill in every case
	p.cmd.Stdout, p.cmd.Stderr = &p.out, p.log
	ownGroup(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells how it ended
		close(p.done)
	}()
	return p, nil
}

// kill is kill -9 of the group. It does nothing to a process that has ended,
// whose number may be somebody else's by now.
func (p *process) kill() {
	if p.ended() {
		return
	}
	_ = killGroup(p.cmd) // fails only when it has just ended
	<-p.done
}

// interrupt sends SIGINT and waits for the end, which has to be a clean one.
func (p *process) interrupt(ctx context.Context, patience time.Duration) error {
	if p.ended() {
		return p.failure()
	}
	if err := interruptGroup(p.cmd); err != nil && !p.ended() {
		p.kill()
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return p.wait(ctx, patience)
}

// wait waits for a clean end, and kills what does not end.
func (p *process) wait(ctx context.Context, patience time.Duration) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return context.Cause(ctx)
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s has not ended within %v\n%s", p.name, patience, p.log.tail())
	}
	if p.cmd.ProcessState.ExitCode() != 0 {
		return p.failure()
	}
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failure says how the process ended.
func (p *process) failure() error {
	return fmt.Errorf("%s has ended: %s\n%s", p.name, p.cmd.ProcessState, p.log.tail())
}

// Lines that a log keeps, and how long they may be.
const (
	tailLines = 60
	lineBytes = 4 << 10
)

// log takes in what a weir logs and notices what the lab has to know.
type log struct {
	mu       sync.Mutex
	rest     []byte // of a line that is not complete
	last     []string
	active   map[string]chan struct{} // by cell, closed when its stage has become active
	warnings map[string]int           // by message
	errors   []string                 // lines that no fault of the lab explains
}

func newLog() *log {
	l := &log{active: map[string]chan struct{}{}, warnings: map[string]int{}}
	for _, c := range cells {
		l.active[c] = make(chan struct{})
	}
	return l
}

var (
	reActive  = regexp.MustCompile(`msg="stage is active here" overlay=(\S+) stage=` + stage + ` `)
	reWarning = regexp.MustCompile(`level=WARN msg=("(?:[^"\\]|\\.)*"|\S+)`)
	reNode    = regexp.MustCompile(`msg="Registration failed"`) // of which there are thousands while a machine is busy
	reNumber  = regexp.MustCompile(`[0-9]+`)                    // in which messages of one kind differ
	reError   = regexp.MustCompile(`level=ERROR|^panic: |^fatal error: |DATA RACE|needs an operator`)
)

// Write implements io.Writer.
func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.line(string(line[:min(len(line), lineBytes)]))
		l.rest = append([]byte(nil), rest...)
	}
}

func (l *log) line(text string) {
	if !reNode.MatchString(text) {
		if l.last = append(l.last, text); len(l.last) > tailLines {
			l.last = l.last[1:]
		}
	}
	if m := reActive.FindStringSubmatch(text); m != nil {
		if c, ok := l.active[m[1]]; ok && !closed(c) {
			close(c)
		}
	}
	if m := reWarning.FindStringSubmatch(text); m != nil {
		l.warnings[reNumber.ReplaceAllString(strings.TrimSuffix(strings.TrimPrefix(m[1], `"`), `"`), "N")]++
	}
	if reError.MatchString(text) {
		l.errors = append(l.errors, text)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// tail is the end of the log.
func (l *log) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b bytes.Buffer
	for _, line := range l.last {
		fmt.Fprintf(&b, "    %s\n", line)
	}
	return b.String()
}

// await waits until all channels are closed. It fails when the process ends.
func (p *process) await(ctx context.Context, patience time.Duration, what string, all ...<-chan struct{}) error {
	late := time.After(patience)
	for _, c := range all {
		select {
		case <-c:
		case <-p.done:
			return p.failure()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late:
			return fmt.Errorf("%s: %s: %w\n%s", p.name, what, errLate, p.log.tail())
		}
	}
	return nil
}

var errLate = errors.New("has not happened in time")

// ports are those on which the broker of an overlay listens.
type ports struct {
	Client int `json:"client"`
	Leaf   int `json:"leaf"`
}

// portsOf reads them from a store. They are not there before the broker is.
func portsOf(store, overlay string) (ports, error) {
	var p ports
	b, err := os.ReadFile(filepath.Join(store, overlay, "ports.json"))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(b, &p)
}

// answers says whether the broker of an overlay takes connections.
func answers(ctx context.Context, store, overlay string) bool {
	p, err := portsOf(store, overlay)
	if err != nil {
		return false
	}
	dialer := net.Dialer{Timeout: time.Second}
	c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Client)))
	if err != nil {
		return false
	}
	_ = c.Close() // nothing was written
	return true
}
