package authenticator

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func TestFailuresWaitLongerAndLonger(t *testing.T) {
	a := newAttempts(3, time.Second, 5*time.Second)
	now := start
	for i := range 3 {
		if !a.begin(now, "bob") {
			t.Fatalf("attempt %d is refused", i+1)
		}
	}
	for i, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		if a.begin(now.Add(wait-1), "bob") {
			t.Errorf("round %d: not refused before %v are over", i, wait)
		}
		if now = now.Add(wait); !a.begin(now, "bob") {
			t.Errorf("round %d: refused after %v", i, wait)
		}
	}
	if !a.begin(now, "ann") {
		t.Error("ann waits for bob")
	}
	now = now.Add(forgetAfter + time.Second)
	for i := range 4 {
		if ok := a.begin(now, "bob"); ok != (i < 3) {
			t.Errorf("attempt %d after an hour: %v", i+1, ok)
		}
	}
	a.succeeded("bob")
	if !a.begin(now, "bob") {
		t.Error("refused after a success")
	}
	a.undo("bob")
	if f := a.of["bob"].failures; f != 0 {
		t.Errorf("%d failures, and nothing was found out", f)
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	a := newAttempts(1, time.Second, time.Hour)
	now := start
	for i := range mostKept + 10 {
		now = now.Add(time.Microsecond)
		a.begin(now, fmt.Sprint(i))
	}
	if len(a.of) > mostKept {
		t.Errorf("%d are kept", len(a.of))
	}
	if last := fmt.Sprint(mostKept + 9); a.begin(now, last) {
		t.Error("the newest was forgotten")
	}
}

func TestRateOfASource(t *testing.T) {
	a := newAttempts(1, time.Second, time.Hour)
	n := 0
	for range 10 {
		if a.allow(start, "192.0.2.1", 60, 4) {
			n++
		}
	}
	if n != 4 || !a.allow(start.Add(time.Second), "192.0.2.1", 60, 4) || a.allow(start.Add(time.Second), "192.0.2.1", 60, 4) {
		t.Errorf("%d at once, and then not one a second", n)
	}
}

func TestSourceOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:443": "192.0.2.1", "192.0.2.1": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1",
		"[2001:db8:1:2:3::4]:443": "2001:db8:1:2::/64", "2001:db8:1:2:ffff::": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64",
		"": "", "host:1": "", "@": "",
	} {
		if got := sourceOf(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

func TestOnce(t *testing.T) {
	var o once
	id := [32]byte{1}
	if fresh, room := o.take(start, id, start.Add(time.Minute)); !fresh || !room {
		t.Error("not fresh")
	}
	if fresh, _ := o.take(start.Add(time.Minute), id, start.Add(time.Minute)); fresh {
		t.Error("fresh twice")
	}
	for i := range mostKept {
		o.used[[32]byte{2, byte(i), byte(i >> 8), byte(i >> 16)}] = start.Add(time.Minute)
	}
	if _, room := o.take(start, [32]byte{3}, start); room {
		t.Error("there is room for more than can be")
	}
	if fresh, room := o.take(start.Add(2*time.Minute), [32]byte{3}, start.Add(3*time.Minute)); !fresh || !room || len(o.used) != 1 {
		t.Errorf("what has ended is kept: %d", len(o.used))
	}
}

func TestLimitsCheck(t *testing.T) {
	if err := DefaultLimits().Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Limits){
		"rate":     func(l *Limits) { l.PerMinute = 0 },
		"failures": func(l *Limits) { l.UserFailures = 0 },
		"order":    func(l *Limits) { l.LastWait = l.FirstWait - 1 },
		"long":     func(l *Limits) { l.LastWait = 25 * time.Hour },
	} {
		l := DefaultLimits()
		change(&l)
		if l.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestUnknownNamesCostTheSame: an unknown name has the hash of some user, always
// the same one, so the work for it is that for a name which is known.
func TestUnknownNamesCostTheSame(t *testing.T) {
	u := &Users{of: map[string]user{}}
	for i := range 4 {
		h := hash{memory: uint32(8 + i), passes: 1, threads: 1}
		u.of[fmt.Sprint("u", i)] = user{hash: h}
		u.hashes = append(u.hashes, h)
	}
	if h := u.hashFor("u2", nil); h.memory != 10 {
		t.Errorf("a user has the hash of another one: %d", h.memory)
	}
	seen := map[uint32]int{}
	for i := range 400 {
		name := fmt.Sprint("unknown", i)
		h := u.hashFor(name, []byte("secret"))
		if again := u.hashFor(name, []byte("secret")); again.memory != h.memory {
			t.Fatalf("%s has two costs", name)
		}
		seen[h.memory]++
	}
	for m := uint32(8); m < 12; m++ {
		if seen[m] < 50 {
			t.Errorf("the cost %d is rare among unknown names: %v", m, seen)
		}
	}
	if h := (&Users{}).hashFor("x", nil); h.memory != newMemory {
		t.Error("no cost where there are no users")
	}
}

func TestHashes(t *testing.T) {
	const password = "correct horse"
	s, err := HashPassword(strings.NewReader(strings.Repeat("s", newSalt)), password)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{s, "$2a$05$vNNqzH0ax53tmIjzUGtDsuW7qTMjWRIhJ2b3xAACTYLoq1L83Zaru"} {
		h, err := parseHash(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		right := password
		if h.bcrypt != nil {
			right = "alice-s3cret"
		}
		if !h.matches(right) || h.matches(right+"x") || h.matches("") {
			t.Errorf("%s matches the wrong things", text)
		}
	}
	if nobody().matches("") {
		t.Error("nobody has a password")
	}
	for _, bad := range []string{
		"", "secret", "$2a$", "$2a$31$vNNqzH0ax53tmIjzUGtDsuW7qTMjWRIhJ2b3xAACTYLoq1L83Zaru", "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
		"$argon2id$v=16$m=64,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", "$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
		"$argon2id$v=19$m=64,t=0,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", "$argon2id$v=19$m=64,t=1,p=0$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
		"$argon2id$v=19$m=64,t=1,p=1,x$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA", "$argon2id$v=19$m=64,t=1,p=1$$", "$argon2id$v=19$m=4,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
	} {
		if _, err := parseHash(bad); err == nil {
			t.Errorf("%q is a hash", bad)
		} else if len(bad) > 20 && strings.Contains(err.Error(), bad[len(bad)-12:]) {
			t.Errorf("the error tells the hash: %v", err)
		}
	}
	for _, p := range []string{"", strings.Repeat("x", MaxPassword+1)} {
		if _, err := HashPassword(strings.NewReader(strings.Repeat("s", newSalt)), p); err == nil {
			t.Errorf("a password of %d bytes", len(p))
		}
	}
}
