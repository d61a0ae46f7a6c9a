package topology

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Backstage is how a Runner comes to the connections and directories of the
// programs that it plays.
type Backstage struct {
	Connect func(user string) (*nats.Conn, error) // as a user of the overlay's broker
	KeyFile func(name string) string              // where the seed of one of the broker's keys is
	Dir     string                                // for what programs keep, a directory for each
}

// playing is a program of a Runner.
type playing struct {
	*Program
	counters Counters
	running  atomic.Bool
	ready    chan struct{} // closed by once
	once     sync.Once
	starts   atomic.Uint64
	errors   atomic.Uint64
	failure  atomic.Pointer[string]
}

// Plays is closed once the program of a role has said that it does its work in this
// copy; nil if the overlay has none that this build can play.
func (r *Runner) Plays(role string) <-chan struct{} {
	for _, p := range r.programs {
		if p.Role == role {
			return p.ready
		}
	}
	return nil
}

// superviseProgram keeps a program running.
func (r *Runner) superviseProgram(ctx context.Context, p *playing) {
	log := r.log.With("program", p.Role)
	for wait := firstRestart; ctx.Err() == nil; wait = min(2*wait, lastRestart) {
		began := time.Now()
		err := r.play(ctx, p, log)
		if ctx.Err() != nil {
			if err != nil {
				log.Warn("program did not end cleanly", "error", err)
			}
			return
		}
		if err == nil {
			err = fmt.Errorf("program %s ended by itself", p.Role)
		}
		text := err.Error()
		p.failure.Store(&text)
		p.errors.Add(1)
		log.Error("program stopped, starting it again", "error", err)
		if time.Since(began) > time.Minute {
			wait = firstRestart
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// play connects a program and plays it once.
func (r *Runner) play(ctx context.Context, p *playing, log *slog.Logger) error {
	play, err := r.parts.Roles[p.Role].Prepare(p.With)
	if err != nil {
		return err
	}
	nc, err := r.backstage.Connect(p.Role)
	if err != nil {
		return err
	}
	defer nc.Close()
	dir := filepath.Join(r.backstage.Dir, p.Role)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of program %s: %w", p.Role, err)
	}
	p.starts.Add(1)
	p.running.Store(true)
	defer p.running.Store(false)
	return play(ctx, Post{
		File: r.file, Overlay: r.overlay, Role: p.Role, Copy: r.holder, Conn: nc, Dir: dir, Log: log, Counters: &p.counters,
		Ready: func() { p.once.Do(func() { close(p.ready) }) }, Relative: r.file.Relative, KeyFile: r.backstage.KeyFile, connect: r.backstage.Connect,
	})
}

// Relative resolves a path that the file mentions, which is relative to it.
func (f *File) Relative(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.Path), path)
}

// ProgramReport describes one program in one copy. Counts begin with the process.
type ProgramReport struct {
	Role      string            `json:"role"`
	Running   bool              `json:"running"`
	Starts    uint64            `json:"starts"`
	Errors    uint64            `json:"errors"`
	LastError string            `json:"last_error,omitempty"`
	Counts    map[string]uint64 `json:"counts"`
}

func (p *playing) report() ProgramReport {
	rep := ProgramReport{Role: p.Role, Running: p.running.Load(), Starts: p.starts.Load(), Errors: p.errors.Load(), Counts: p.counters.Values()}
	if f := p.failure.Load(); f != nil {
		rep.LastError = *f
	}
	return rep
}
