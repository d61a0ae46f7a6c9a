package provisioner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// HelperOptions say how a helper is run.
type HelperOptions struct {
	Command []string // program and arguments; no shell is involved
	// Lines has the program stay and answer one line with one line. Otherwise it is
	// started for each node, reads the question to its end, and ends.
	Lines bool
	// Timeout is how long a node's question may take, with the start of the program;
	// by default 10s. Then all that the program has started is killed.
	Timeout time.Duration
	// Concurrency is how many of them run at a time; by default 8.
	Concurrency int
}

const (
	defaultTimeout     = 10 * time.Second
	defaultConcurrency = 8
	maxStderr          = 4 << 10
)

// NewHelper makes a helper of a program.
func NewHelper(o HelperOptions) (Helper, error) {
	if len(o.Command) == 0 || o.Command[0] == "" {
		return nil, errors.New("helper: no command")
	}
	if _, err := exec.LookPath(o.Command[0]); err != nil {
		return nil, fmt.Errorf("helper: %w", err)
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Concurrency <= 0 {
		o.Concurrency = defaultConcurrency
	}
	h := &helper{o: o, free: make(chan *process, o.Concurrency)}
	for range o.Concurrency {
		h.free <- nil // a place for one that is not started yet
	}
	return h, nil
}

type helper struct {
	o    HelperOptions
	free chan *process // those that nobody uses
}

func (h *helper) Name() string { return "helper" }

func (h *helper) Decide(ctx context.Context, q Question) (Verdict, error) {
	question, err := json.Marshal(q) //nolint:gosec // claims without what is secret in them
	if err != nil {
		return Verdict{}, fmt.Errorf("helper: %w", err)
	}
	var p *process
	select {
	case p = <-h.free:
	case <-ctx.Done():
		return Verdict{}, fmt.Errorf("helper: all are busy: %w", ctx.Err())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.o.Timeout, fmt.Errorf("it takes longer than %v", h.o.Timeout))
	defer cancel()
	var answer []byte
	if h.o.Lines {
		answer, p, err = h.line(ctx, p, question)
	} else {
		answer, err = h.once(ctx, question)
	}
	h.free <- p
	if err != nil {
		return Verdict{}, fmt.Errorf("helper: %w", err)
	}
	return DecodeVerdict(answer)
}

// once starts the program for one question.
func (h *helper) once(ctx context.Context, question []byte) ([]byte, error) {
	p, err := h.start()
	if err != nil {
		return nil, err
	}
	defer p.kill()
	type outcome struct {
		answer []byte
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		go func() {
			_, _ = p.in.Write(question) // a program that does not read it may still answer
			_ = p.in.Close()
		}()
		answer, err := io.ReadAll(io.LimitReader(p.out, maxVerdict+1))
		done <- outcome{answer, errors.Join(err, p.cmd.Wait())}
	}()
	select {
	case <-ctx.Done():
		p.kill()
		<-done
		return nil, p.told(context.Cause(ctx))
	case o := <-done:
		if o.err == nil && len(bytes.TrimSpace(o.answer)) == 0 {
			o.err = errors.New("it has answered nothing")
		}
		if o.err != nil {
			return nil, p.told(o.err)
		}
		return o.answer, nil
	}
}

// line asks a program that stays, which is started if there is none, and returns it
// if it can be asked again.
func (h *helper) line(ctx context.Context, p *process, question []byte) ([]byte, *process, error) {
	if p == nil {
		var err error
		if p, err = h.start(); err != nil {
			return nil, nil, err
		}
		p.lines = bufio.NewReaderSize(p.out, 64<<10)
	}
	type outcome struct {
		answer []byte
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		_, err := p.in.Write(append(question, '\n'))
		var answer []byte
		if err == nil {
			answer, err = readLine(p.lines)
		}
		done <- outcome{answer, err}
	}()
	var o outcome
	select {
	case <-ctx.Done():
		p.kill()
		<-done
		o.err = context.Cause(ctx)
	case o = <-done:
	}
	if o.err != nil {
		p.kill()
		_ = p.cmd.Wait() // it was killed
		return nil, nil, p.told(o.err)
	}
	return o.answer, p, nil
}

// readLine reads one line of a bounded length.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxVerdict {
			return nil, fmt.Errorf("a line of more than %d bytes", maxVerdict)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = errors.New("it has ended")
			}
			return line, err
		}
	}
}

func (h *helper) Close() {
	for range h.o.Concurrency {
		if p := <-h.free; p != nil {
			p.kill()
			_ = p.cmd.Wait() // it was killed
		}
	}
}

// process is a running program.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	lines  *bufio.Reader
	stderr tail
	once   sync.Once
}

// afterKill is how long the pipes of a program that was killed are waited for, which
// something that has left its group may hold.
const afterKill = time.Second

func (h *helper) start() (*process, error) {
	p := &process{cmd: exec.Command(h.o.Command[0], h.o.Command[1:]...)} //nolint:gosec,noctx // the operator says what to run; kill ends it with its group
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = afterKill
	group(p.cmd)
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the program and all that it has started.
func (p *process) kill() {
	p.once.Do(func() {
		killGroup(p.cmd)
		_ = p.in.Close()
		_ = p.out.Close()
	})
}

// told adds what the program has said on its standard error.
func (p *process) told(err error) error {
	if text := p.stderr.text(); text != "" {
		return fmt.Errorf("%w; it says: %s", err, text)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.b = append(t.b, b...); len(t.b) > maxStderr {
		t.b = append([]byte(nil), t.b[len(t.b)-maxStderr:]...)
	}
	return len(b), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(t.b)), "?")
}
