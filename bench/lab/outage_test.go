package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/fleet/server"
	"github.com/weirhq/weir/streams"
)

// TestLink: bytes that a link holds back arrive late, and connections that it
// breaks end at once.
func TestLink(t *testing.T) {
	defer goleak.VerifyNone(t)
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	info := `INFO {"leafnode_urls":["` + far.Addr().String() + `"]}` + "\n"
	go func() { // it says where it is, as a server does, and then it is an echo
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.WriteString(c, info)
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	k, err := newLink(far.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	dial := func() (net.Conn, *bufio.Reader) {
		t.Helper()
		c, err := net.Dial("tcp", k.address())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	greets := func(r *bufio.Reader) {
		t.Helper()
		if got, err := r.ReadString('\n'); err != nil || got != strings.Replace(info, far.Addr().String(), k.address(), 1) {
			t.Fatalf("%q, %v: a way past the link", got, err)
		}
	}
	says := func(c net.Conn, r *bufio.Reader, text string) {
		t.Helper()
		if _, err := io.WriteString(c, text+"\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadString('\n'); err != nil || got != text+"\n" {
			t.Fatalf("%q, %v; want %q", got, err, text)
		}
	}
	c, r := dial()
	defer c.Close()
	greets(r)
	says(c, r, "one")

	k.mutes()
	later, lr := dial()
	defer later.Close()
	for _, c := range []net.Conn{c, later} {
		if _, err := io.WriteString(c, "held\n"); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a byte passes, or the connection has ended: %v", err)
	}
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	k.heals()
	greets(lr)
	for _, r := range []*bufio.Reader{r, lr} {
		if got, err := r.ReadString('\n'); err != nil || got != "held\n" {
			t.Fatalf("after it was healed: %q, %v", got, err)
		}
	}

	k.breaks()
	if _, err := r.ReadByte(); err == nil {
		t.Fatal("a connection lives on")
	}
	refused, rr := dial()
	defer refused.Close()
	if _, err := rr.ReadByte(); err == nil {
		t.Fatal("a new connection passes")
	}
	k.heals()
	again, ar := dial()
	defer again.Close()
	greets(ar)
	says(again, ar, "two")
}

// TestSentRecord: what the judge is told of a registration is what was sent.
func TestSentRecord(t *testing.T) {
	payload, _, err := server.Request("mcollective", server.Unsigned)("n1", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sent.jsonl")
	rec, err := newSentRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	m := streams.Msg{Subject: "mcollective.ingest.discovery.n1", Data: payload}
	rec.add("mt-1", m)
	if err := rec.close(); err != nil || rec.sent("mt-1") != 1 || rec.sent("mt-2") != 0 {
		t.Fatalf("%d and %d, %v", rec.sent("mt-1"), rec.sent("mt-2"), err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var line struct {
		Overlay, Identity, RequestID string
		Size                         int
	}
	if err := json.Unmarshal(b, &line); err != nil || line.Overlay != "mt-1" || line.Identity != "n1" || line.RequestID == "" || line.Size != m.Size() {
		t.Errorf("%s: %v", b, err)
	}
	if rec, err = newSentRecord(file); err != nil {
		t.Fatal(err)
	}
	rec.add("mt-1", streams.Msg{Data: []byte("{}")})
	if err := rec.close(); err == nil {
		t.Error("what is no registration was recorded")
	}
}

// TestOutageCompare: what does not agree is a problem.
func TestOutageCompare(t *testing.T) {
	const (
		verdict = `{"ok":true,"events":{"new":["a","b"],"timeout":["b"],"expire":["b"]},
			"sent":{"mt-1":{"sent":9,"stored":9,"waited":5,"waited_bytes":500},"mt-2":{"sent":500,"stored":480,"waited":262,"waited_bytes":262000}}}`
		first  = `{"stages":[{"uid":"adapt","lost":0,"dead":0},{"uid":"hear"}],"errors":[]}`
		second = `{"stages":[{"uid":"adapt","lost":20,"dead":0}],"errors":[]}`
	)
	judged := func(from, to string) []string {
		t.Helper()
		change := func(s string) []byte { return []byte(strings.Replace(s, from, to, 1)) }
		var v outageVerdict
		said := map[string]runDocument{}
		if err := json.Unmarshal(change(verdict), &v); err != nil {
			t.Fatal(err)
		}
		for cell, text := range map[string]string{"mt-1": first, "mt-2": second} {
			var doc runDocument
			if err := json.Unmarshal(change(text), &doc); err != nil {
				t.Fatal(err)
			}
			said[cell] = doc
		}
		a := &arena{out: t.Output(), lived: []string{"b", "a"}, killed: []string{"b"}, res: &OutageResult{
			Inlets: map[string]Inlet{"mt-1": {During: 9}, "mt-2": {During: 400}}, Events: map[string]int{},
		}}
		a.compare(v, said)
		return a.res.Problems
	}
	if p := judged("", ""); len(p) > 0 {
		t.Fatalf("problems where there are none: %q", p)
	}
	for from, to := range map[string]string{
		`"ok":true`:                          `"ok":false`,
		`"new":["a","b"]`:                    `"new":["a"]`,
		`"timeout":["b"]`:                    `"timeout":["a","b"]`,
		`"expire":["b"]`:                     `"expire":[]`,
		`"expire":`:                          `"recover":["a"],"expire":`,
		`"sent":9,"stored":9`:                `"sent":9,"stored":8`,
		`"lost":20`:                          `"lost":19`,
		`"lost":0,"dead":0`:                  `"lost":1,"dead":0`,
		`{"uid":"hear"}`:                     `{"uid":"hear","lost":1}`,
		`"lost":20,"dead":0`:                 `"lost":20,"dead":1`,
		`"errors":[]`:                        `"errors":["x"]`,
		`"waited_bytes":262000`:              `"waited_bytes":200000`,
		`"waited":262,"waited_bytes":262000`: `"waited":3000,"waited_bytes":3000000`,
		`"stored":480`:                       `"stored":500`,
	} {
		if p := judged(from, to); len(p) == 0 {
			t.Errorf("%s instead of %s is no problem", to, from)
		}
	}
}
