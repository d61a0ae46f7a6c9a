package provisioner_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weirhq/weir/fleet/provisioner"
)

var question = provisioner.Question{
	Identity: "n1.example.net", Key: &provisioner.KeyInfo{Key: "10ad", Directory: "/etc/weir", Signature: "3e30"},
	Facts: `{"facts":{"dc":"mt","disks":2},"classes":["web"],"version":"1.2"}`, Token: json.RawMessage(`{"extensions":{"cell":"c1"}}`), Attempt: 1,
}

func newHelper(t *testing.T, script string, change func(*provisioner.HelperOptions)) provisioner.Helper {
	t.Helper()
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("no shell")
	}
	o := provisioner.HelperOptions{Command: []string{"/bin/sh", "-c", script}, Timeout: 20 * time.Second}
	if change != nil {
		change(&o)
	}
	h, err := provisioner.NewHelper(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func TestHelper(t *testing.T) {
	t.Parallel()
	h := newHelper(t, `read q; case "$q" in *n1.example.net*) echo '{"configuration":{"a":"b"},"overlay":"mt-1"}';; esac`, nil)
	v, err := h.Decide(t.Context(), question)
	if err != nil || v.Configuration["a"] != "b" || v.Overlay != "mt-1" {
		t.Errorf("%+v, %v", v, err)
	}
	for name, c := range map[string]struct{ script, want string }{
		"ends with an error":  {`echo it broke >&2; exit 3`, "it broke"},
		"says nothing":        {`cat >/dev/null`, "answered nothing"},
		"says rubbish":        {`cat >/dev/null; echo rubbish`, "not JSON"},
		"gives a private key": {`cat >/dev/null; echo '{"configuration":{"a":"b"},"key":"PEM"}'`, "private key"},
		"says two things":     {`cat >/dev/null; echo '{"defer":true,"shutdown":true}'`, "more than one"},
		"gives nothing":       {`cat >/dev/null; echo '{}'`, "no configuration"},
		"does not read":       {`echo '{"refuse":'`, "not JSON"},
	} {
		if v, err := newHelper(t, c.script, nil).Decide(t.Context(), question); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	if _, err := provisioner.NewHelper(provisioner.HelperOptions{Command: []string{"/no/such/helper"}}); err == nil {
		t.Error("a program that does not exist")
	}
}

// TestHelperIsKilledWithAllThatItHasStarted: what takes too long ends, and so do its
// children.
func TestHelperIsKilledWithAllThatItHasStarted(t *testing.T) {
	t.Parallel()
	for _, lines := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "pid")
		h := newHelper(t, `echo to be slow >&2; sleep 600 & echo $! >`+file+`; wait`, func(o *provisioner.HelperOptions) {
			o.Timeout, o.Lines = 500*time.Millisecond, lines
		})
		if v, err := h.Decide(t.Context(), question); err == nil || !strings.Contains(err.Error(), "longer than 500ms") || !strings.Contains(err.Error(), "to be slow") {
			t.Errorf("%+v, %v", v, err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		gone := false
		for end := time.Now().Add(20 * time.Second); !gone && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			child, err := os.FindProcess(pid)
			if err != nil {
				t.Fatal(err)
			}
			stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
			gone = errors.Is(child.Signal(syscall.Signal(0)), os.ErrProcessDone) || err == nil && bytes.Contains(stat, []byte(") Z "))
		}
		if !gone {
			t.Errorf("its child %d goes on (lines: %v)", pid, lines)
		}
	}
}

// TestHelperThatStays: one program answers many questions, several are asked at a
// time, and one that ends is started again.
func TestHelperThatStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := newHelper(t, `echo x >>`+dir+`/starts; n=0; while read q; do n=$((n+1)); echo "{\"configuration\":{\"n\":\"$n\"}}"; [ $n -eq 50 ] && exit; done`,
		func(o *provisioner.HelperOptions) { o.Lines, o.Concurrency = true, 2 })
	var wg sync.WaitGroup
	errs := make(chan error, 60)
	for range cap(errs) {
		wg.Go(func() {
			v, err := h.Decide(t.Context(), question)
			if err == nil && v.Configuration["n"] == "" {
				err = errors.New("no answer")
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	failed := 0
	for err := range errs {
		if err != nil {
			failed++ // of a program that has just ended
		}
	}
	b, err := os.ReadFile(dir + "/starts")
	if err != nil {
		t.Fatal(err)
	}
	if starts := strings.Count(string(b), "x"); starts > 4 || failed > 2 {
		t.Errorf("started %d times, and %d questions were not answered", starts, failed)
	}
}

func TestRules(t *testing.T) {
	r, err := provisioner.DecodeRules([]byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.Decide(t.Context(), question)
	if err != nil || v.Overlay != "mt-1" || v.Configuration["note"] != "n1.example.net in /etc/weir" || !v.Claims.Permissions["submission"] {
		t.Errorf("%+v, %v", v, err)
	}
	for text, want := range map[string]string{
		"":                                           "0 of them",
		"rules: []":                                  "0 of them",
		"rules: [{ when: '1 +' }]":                   "number 1",
		"rules: [{ when: identity }]":                "number 1",
		"rules: [{ when: nobody == 1 }]":             "number 1",
		"rules: [{ defr: true }]":                    "defr",
		"rules: [{ defer: true, refuse: true }]":     "more than one",
		"rules: [{ claims: { validity: 1m } }]":      "shorter",
		"rules: [{ configuration: { a: { b: c } } }": "rules",
	} {
		if _, err := provisioner.DecodeRules([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	// A condition that cannot be evaluated decides nothing (S2).
	r, err = provisioner.DecodeRules([]byte("rules: [{ when: 'facts.nope > 5', refuse: true }, { overlay: mt-1 }]"))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Decide(t.Context(), question); err == nil {
		t.Errorf("%+v", v)
	}
	r, err = provisioner.DecodeRules([]byte("rules: [{ when: 'facts.disks == 3', overlay: mt-1 }]"))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := r.Decide(t.Context(), question); err != nil || !v.Defer {
		t.Errorf("no rule holds: %+v, %v", v, err)
	}
}

func FuzzDecodeRules(f *testing.F) {
	f.Add([]byte(rules))
	f.Add([]byte("rules: [{ when: 'all(classes, # != \"a\")', refuse: true }]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := provisioner.DecodeRules(b)
		if err != nil {
			return
		}
		if v, err := r.Decide(t.Context(), question); err == nil && v.Configuration == nil && !v.Defer {
			t.Errorf("%+v", v)
		}
	})
}

func FuzzDecodeVerdict(f *testing.F) {
	f.Add([]byte(`{"defer":true,"msg":"x"}`))
	f.Add([]byte(`{"configuration":{"a":"b"},"server_claims":{"exp":1797068164,"permissions":{"streams":true}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := provisioner.DecodeVerdict(b)
		if err == nil && !v.Defer && !v.Shutdown && !v.Refuse && (len(v.Configuration) == 0 || v.Key != "") {
			t.Errorf("%+v", v)
		}
	})
}
