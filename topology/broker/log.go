package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

// serverLog is the server's logger. What the server calls a notice is of
// interest to whoever debugs it, so a process that logs at the usual level
// shows its warnings and errors only, and each of them once in a while. Keys of
// users are replaced by their names.
type serverLog struct {
	log   *slog.Logger
	names *strings.Replacer

	mu      sync.Mutex
	started bool
	err     error
	said    map[string]time.Time // warnings and errors, without what differs each time
}

const (
	// sayAgain is how long a warning is not repeated.
	sayAgain = 10 * time.Minute
	// maxSaid bounds how many different warnings are remembered.
	maxSaid = 1000
)

// newServerLog returns the logger of a broker whose users have these names, by
// their public keys.
func newServerLog(log *slog.Logger, names map[string]string) *serverLog {
	var pairs []string
	for key, name := range names {
		// The server writes Nkey "U..." for a client, and the key alone elsewhere.
		pairs = append(pairs, `Nkey "`+key+`"`, name, key, name)
	}
	return &serverLog{log: log, names: strings.NewReplacer(pairs...), said: map[string]time.Time{}}
}

// start returns the first thing that the server could not go on after. It stops
// by itself then, but does not say so in any other way. What comes later is
// logged.
func (l *serverLog) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.started = true
	return l.err
}

// varies matches what differs in each repetition of a warning: addresses,
// numbers of connections and subscriptions, and durations.
var varies = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+|\[[0-9a-fA-F:]+\]):\d+|\b[a-z]id:\d+|\bSID \d+|\b[0-9.]+(µs|ms|s)\b`)

// fresh says whether a text was not said a moment ago.
func (l *serverLog) fresh(text string) bool {
	key := varies.ReplaceAllString(text, "_")
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.said[key]; ok && time.Since(at) < sayAgain {
		return false
	}
	if len(l.said) >= maxSaid {
		clear(l.said)
	}
	l.said[key] = time.Now()
	return true
}

func (l *serverLog) text(format string, v []any) string {
	return "broker: " + l.names.Replace(fmt.Sprintf(format, v...))
}

func (l *serverLog) say(log func(string, ...any), format string, v []any) {
	text := l.text(format, v)
	if !l.fresh(text) {
		log = l.log.Debug
	}
	log(text)
}

// Noticef implements server.Logger, like the other methods.
func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(l.text(format, v)) }

func (l *serverLog) Warnf(format string, v ...any) { l.say(l.log.Warn, format, v) }

// replaced is what a server says to a link, and of it, when the same overlay has
// linked again. After a break that only one side has noticed that is how things
// go on.
const replaced = "Duplicate Remote LeafNode Connection"

// Errorf makes warnings of links that come again, and of clients that do not get
// through the handshake of TLS: it is they who have to do something, and anybody
// can be one. Who only looks whether somebody listens is not worth a word.
func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if strings.Contains(text, replaced) {
		l.say(l.log.Warn, format, v)
		return
	}
	switch _, why, ok := strings.Cut(text, "- TLS handshake error: "); {
	case !ok:
		l.say(l.log.Error, format, v)
	case strings.HasPrefix(why, "EOF"), strings.Contains(why, "connection reset"), strings.Contains(why, "broken pipe"):
		l.Debugf(format, v...)
	case strings.HasPrefix(why, "remote error: "):
		l.say(l.log.Warn, format+" (the client does not believe the certificate of this broker)", v)
	default:
		l.say(l.log.Warn, format, v)
	}
}

// Fatalf is not logged while the server starts: it is the error of the start.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	started := l.started
	if l.err == nil {
		l.err = errors.New(l.names.Replace(fmt.Sprintf(format, v...)))
	}
	l.mu.Unlock()
	if started {
		l.say(l.log.Error, format, v)
	}
}

func (l *serverLog) Debugf(format string, v ...any) { l.log.Debug(l.text(format, v)) }

func (l *serverLog) Tracef(format string, v ...any) { l.log.Debug(l.text(format, v)) }
