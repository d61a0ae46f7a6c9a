package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog is the server's logger. What the server calls a notice is of
// interest to whoever debugs it, so a process that logs at the usual level
// shows its warnings and errors only.
type serverLog struct {
	log *slog.Logger

	mu  sync.Mutex
	err error
}

// fatal returns the first thing that the server could not go on after. It
// stops by itself then, but does not say so in any other way.
func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Noticef implements server.Logger, like the other methods.
func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *serverLog) Warnf(format string, v ...any) { l.log.Warn(fmt.Sprintf(format, v...)) }

func (l *serverLog) Errorf(format string, v ...any) { l.log.Error(fmt.Sprintf(format, v...)) }

func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if l.err == nil {
		l.err = errors.New(text)
	}
	l.mu.Unlock()
	l.log.Error(text)
}

func (l *serverLog) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *serverLog) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
