package audit_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/fleet/audit"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// key is for tests only.
func key(signer string) ed25519.PrivateKey {
	seed := bytes.Repeat([]byte{1}, ed25519.SeedSize)
	copy(seed, signer)
	return ed25519.NewKeyFromSeed(seed)
}

func trusted(signers ...string) func(schemas.AuditCheckpoint) error {
	keys := map[string][]ed25519.PublicKey{}
	for _, s := range signers {
		keys[s] = []ed25519.PublicKey{key(s).Public().(ed25519.PublicKey)}
	}
	return audit.TrustKeys(keys)
}

func chain(t interface{ Fatal(...any) }, signer string, every int) *audit.Chain {
	c, err := audit.New(audit.Config{Signer: signer, Key: key(signer), Every: every, Token: "a.b.c"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// record is the n-th record of a program, of either format.
func record(n int) schemas.AuditRecord {
	if n%3 == 2 {
		return schemas.AuditDecision{
			ID: fmt.Sprint("e", n), What: schemas.AuditLogin, Code: "login_failed", Overlay: "mt-1", Program: "p", Time: start, Party: "up=bob",
		}
	}
	return schemas.SignatureAudit{
		Caller: "up=bob", Action: schemas.AuditAllow, Site: "s", Time: start.Unix(), Request: []byte(`{"id":"` + fmt.Sprint(n) + `"}`), Verified: true,
	}
}

// log is a stream of records.
type log struct{ msgs []streams.Msg }

func (l *log) store(records ...[]byte) {
	for _, b := range records {
		l.msgs = append(l.msgs, streams.Msg{Subject: "audit.mt-1.allow", Data: b, Stream: "AUDIT", Seq: uint64(len(l.msgs) + 1)})
	}
}

func verify(t interface{ Fatal(...any) }, o audit.Options, msgs []streams.Msg) audit.Report {
	v, err := audit.NewVerifier(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs {
		v.Add(m)
	}
	return v.Report()
}

// filled is a stream with n records of one signer and its checkpoints, the last
// of them at the end.
func filled(t interface{ Fatal(...any) }, signer string, n, every int) (*log, *audit.Chain) {
	l, c := &log{}, chain(t, signer, every)
	for i := range n {
		out, err := c.Append(start.Add(time.Duration(i)*time.Millisecond), record(i))
		if err != nil {
			t.Fatal(err)
		}
		l.store(out...)
	}
	end, err := c.Checkpoint(start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	l.store(end)
	return l, c
}

func TestChain(t *testing.T) {
	l, c := filled(t, "mt-1/a", 7, 3)
	// checkpoint, 3 records, checkpoint, 3 records, checkpoint, 1 record, checkpoint
	for i, m := range l.msgs {
		r, err := schemas.DecodeAuditRecord(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		_, isCheckpoint := r.(schemas.AuditCheckpoint)
		if got := r.Chain(); got.Sequence != uint64(i+1) || got.Signer != "mt-1/a" || isCheckpoint != (i%4 == 0 || i == 10) {
			t.Errorf("record %d: %+v, checkpoint: %v", i+1, got, isCheckpoint)
		}
	}
	// Replication changes subjects, headers, streams and numbers, and no record.
	for i := range l.msgs {
		l.msgs[i].Subject, l.msgs[i].Stream, l.msgs[i].Seq = "up.mt-1.record.x", "HUB", 900+uint64(i)
		l.msgs[i].Header = streams.Header{"Weir-Hops": {"mt-1/record"}}
	}
	r := verify(t, audit.Options{Trusted: trusted("mt-1/a"), Expect: map[string]audit.Head{"mt-1/a": c.Head()}}, l.msgs)
	if !r.OK() || r.Records != 11 || len(r.Chains) != 1 {
		t.Fatalf("%+v", r)
	}
	if got := r.Chains[0]; got.First != 1 || got.Last != 11 || got.Sealed != 11 || got.Head != c.Head() {
		t.Errorf("%+v", got)
	}
}

func TestCheckpointsAreDue(t *testing.T) {
	c, err := audit.New(audit.Config{Signer: "a", Key: key("a"), Every: 100, Interval: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, due := c.Due(); due {
		t.Error("a checkpoint is due before there is a record")
	}
	out, err := c.Append(start, record(0))
	if err != nil || len(out) != 2 {
		t.Fatalf("%d records, %v, want a checkpoint and the record", len(out), err)
	}
	if at, due := c.Due(); !due || !at.Equal(start.Add(time.Minute)) {
		t.Errorf("due at %v, %v", at, due)
	}
	if out, err = c.Append(start.Add(59*time.Second), record(1)); err != nil || len(out) != 1 {
		t.Errorf("%d records, %v", len(out), err)
	}
	if out, err = c.Append(start.Add(time.Minute), record(2)); err != nil || len(out) != 2 {
		t.Errorf("%d records after a minute, %v", len(out), err)
	}
	if _, due := c.Due(); due {
		t.Error("a checkpoint is due after one")
	}
}

func TestResume(t *testing.T) {
	l, c := filled(t, "mt-1/a", 5, 3)
	next := chain(t, "mt-1/a", 3)
	if err := next.Resume(l.msgs[len(l.msgs)-1].Data); err != nil {
		t.Fatal(err)
	}
	if next.Head() != c.Head() {
		t.Errorf("head is %v, want %v", next.Head(), c.Head())
	}
	if at, due := next.Due(); !due || !at.IsZero() {
		t.Errorf("due at %v, %v", at, due)
	}
	out, err := next.Append(start, record(5))
	if err != nil || len(out) != 2 {
		t.Fatalf("%d records, %v, want the record and a checkpoint", len(out), err)
	}
	l.store(out...)
	if r := verify(t, audit.Options{Trusted: trusted("mt-1/a")}, l.msgs); !r.OK() {
		t.Errorf("%+v", r)
	}
	other := chain(t, "mt-1/b", 3)
	for name, b := range map[string][]byte{"another's": l.msgs[0].Data, "unchained": []byte(`{}`)} {
		if err := other.Resume(b); err == nil || other.Head().Sequence != 0 {
			t.Errorf("resumed from an %s record", name)
		}
	}
	// A program that begins anew under its old name looks like a forger.
	again, _ := filled(t, "mt-1/a", 2, 3)
	r := verify(t, audit.Options{Trusted: trusted("mt-1/a")}, append(l.msgs, again.msgs...))
	if r.OK() || r.Findings[0].Kind != audit.Repeated || r.Findings[0].First != 1 {
		t.Errorf("%+v", r)
	}
}

// A record that cannot be written changes nothing.
func TestAppendFails(t *testing.T) {
	l, c := filled(t, "a", 4, 2)
	head := c.Head()
	for _, r := range []schemas.AuditRecord{schemas.SignatureAudit{Action: "maybe"}, schemas.AuditDecision{}, schemas.AuditCheckpoint{}} {
		if out, err := c.Append(start, r); err == nil || out != nil || c.Head() != head {
			t.Errorf("%T: %d records, %v", r, len(out), err)
		}
	}
	fresh := chain(t, "b", 2)
	if _, err := fresh.Append(start, schemas.SignatureAudit{}); err == nil || fresh.Head().Sequence != 0 {
		t.Errorf("head %v after %v", fresh.Head(), err)
	}
	out, err := c.Append(start, record(4))
	if err != nil {
		t.Fatal(err)
	}
	l.store(out...)
	if r := verify(t, audit.Options{Trusted: trusted("a")}, l.msgs); !r.OK() {
		t.Errorf("%+v", r)
	}
	for _, bad := range []audit.Config{{Key: key("a")}, {Signer: "a"}, {Signer: "a", Key: key("a"), Every: -1}} {
		if _, err := audit.New(bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if _, err := audit.NewVerifier(audit.Options{}); err == nil {
		t.Error("a verifier trusts nobody in particular")
	}
}

// Each kind of meddling is called by its name and place. There are 14 records:
// checkpoints are 1, 5, 9, 13 and 14.
func TestFindings(t *testing.T) {
	const signer = "mt-1/a"
	other, _ := filled(t, "mt-1/b", 1, 3)
	edit := func(n int, old, with string) func([]streams.Msg) []streams.Msg {
		return func(m []streams.Msg) []streams.Msg {
			b := bytes.Replace(m[n-1].Data, []byte(old), []byte(with), 1)
			if bytes.Equal(b, m[n-1].Data) {
				t.Fatalf("nothing was changed in %s", m[n-1].Data)
			}
			m[n-1].Data = b
			return m
		}
	}
	for name, c := range map[string]struct {
		change      func([]streams.Msg) []streams.Msg
		trimmed     bool
		kind        audit.Kind
		first, last uint64
		seq         uint64
	}{
		"deny made allow":    {edit(3, `"allow"`, `"deny"`), false, audit.Changed, 3, 4, 4},
		"link changed":       {edit(3, `"previous":"`, `"previous":"0`), false, audit.Malformed, 0, 0, 3},
		"signer changed":     {edit(6, `"signer":"mt-1/a"`, `"signer":"mt-1/c"`), false, audit.Gap, 1, 5, 6},
		"out of the chain":   {edit(3, `"chain"`, `"chaim"`), false, audit.Unchained, 0, 0, 3},
		"another protocol":   {edit(3, `"protocol"`, `"protocoll"`), false, audit.Malformed, 0, 0, 3},
		"checkpoint changed": {edit(13, `"datacontenttype"`, `"datacontenttypo"`), false, audit.Checkpoint, 13, 13, 13},
		"signature changed":  {edit(13, `"signature":"`, `"signature":"00`), false, audit.Malformed, 0, 0, 13},
		"left out": {func(m []streams.Msg) []streams.Msg {
			return append(m[:6:6], m[8:]...)
		}, false, audit.Gap, 7, 8, 9},
		"first left out":         {func(m []streams.Msg) []streams.Msg { return m[1:] }, false, audit.Gap, 1, 1, 2},
		"first ones out of date": {func(m []streams.Msg) []streams.Msg { return m[2:] }, true, "", 0, 0, 0},
		"swapped": {func(m []streams.Msg) []streams.Msg {
			m[5], m[6] = m[6], m[5]
			return m
		}, false, audit.Reordered, 6, 6, 7},
		"first ones swapped": {func(m []streams.Msg) []streams.Msg {
			m[0], m[1] = m[1], m[0]
			return m
		}, false, audit.Reordered, 1, 1, 2},
		"first ones swapped and trimmed": {func(m []streams.Msg) []streams.Msg {
			m[0], m[1] = m[1], m[0]
			return m
		}, true, audit.Reordered, 1, 1, 1},
		"twice": {func(m []streams.Msg) []streams.Msg { return append(m[:5:5], m[4:]...) }, false, audit.Repeated, 5, 5, 5},
		"tail":  {func(m []streams.Msg) []streams.Msg { return m[:10] }, false, audit.Tail, 11, 14, 0},
		"all":   {func([]streams.Msg) []streams.Msg { return nil }, false, audit.Tail, 1, 14, 0},
		"checkpoint of another key": {func(m []streams.Msg) []streams.Msg {
			forged, err := audit.New(audit.Config{Signer: signer, Key: key("x")})
			if err != nil {
				t.Fatal(err)
			}
			if err := forged.Resume(m[11].Data); err != nil {
				t.Fatal(err)
			}
			m[12].Data, err = forged.Checkpoint(start)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}, false, audit.Checkpoint, 13, 13, 13},
		"a chain of nobody": {func(m []streams.Msg) []streams.Msg { return append(m, other.msgs...) }, false, audit.Checkpoint, 1, 1, 1},
		"records of a chain of nobody": {func(m []streams.Msg) []streams.Msg {
			return append(m, other.msgs[1])
		}, true, audit.Unvouched, 2, 2, 0},
	} {
		l, ch := filled(t, signer, 9, 3)
		o := audit.Options{Trusted: trusted(signer), Expect: map[string]audit.Head{signer: ch.Head()}, Trimmed: c.trimmed}
		r := verify(t, o, c.change(l.msgs))
		if c.kind == "" {
			if !r.OK() {
				t.Errorf("%s: %+v", name, r.Findings)
			}
			continue
		}
		if r.OK() {
			t.Errorf("%s was not found", name)
			continue
		}
		if f := r.Findings[0]; f.Kind != c.kind || f.First != c.first || f.Last != c.last || c.seq != f.Seq || f.Text == "" {
			t.Errorf("%s: %+v, want %s %d to %d at %d", name, f, c.kind, c.first, c.last, c.seq)
		}
	}
}

// A checkpoint by somebody else is found without anything remembered.
func TestUntrustedCheckpoint(t *testing.T) {
	l, _ := filled(t, "a", 3, 3)
	r := verify(t, audit.Options{Trusted: trusted("b")}, l.msgs)
	if r.OK() || r.Findings[0].Kind != audit.Checkpoint || !strings.Contains(r.Findings[0].Text, "none of those") {
		t.Errorf("%+v", r.Findings)
	}
	r = verify(t, audit.Options{Trusted: func(schemas.AuditCheckpoint) error { return errors.New("expired") }}, l.msgs)
	if r.OK() || !strings.Contains(r.Findings[0].Text, "expired") {
		t.Errorf("%+v", r.Findings)
	}
	// One that is signed by the right key, for another place.
	p, err := schemas.DecodeAuditCheckpoint(l.msgs[4].Data)
	if err != nil {
		t.Fatal(err)
	}
	p.Time = p.Time.Add(time.Second)
	if l.msgs[4].Data, err = p.Encode(); err != nil {
		t.Fatal(err)
	}
	r = verify(t, audit.Options{Trusted: trusted("a")}, l.msgs[:5])
	if r.OK() || !strings.Contains(r.Findings[0].Text, "signature is not right") {
		t.Errorf("%+v", r.Findings)
	}
}

// What no checkpoint vouches for is told as that.
func TestUnsealed(t *testing.T) {
	l, c := filled(t, "a", 3, 10)
	out, err := c.Append(start, record(3))
	if err != nil {
		t.Fatal(err)
	}
	l.store(out...)
	r := verify(t, audit.Options{Trusted: trusted("a")}, l.msgs)
	if !r.OK() || r.Chains[0].Sealed != 5 || r.Chains[0].Last != 6 {
		t.Errorf("%+v", r)
	}
}

// Records of existing signers are in no chain.
func TestUnchained(t *testing.T) {
	l, _ := filled(t, "a", 1, 1)
	b, err := record(0).Linked(schemas.AuditLink{})
	if err != nil {
		t.Fatal(err)
	}
	l.store(b)
	if r := verify(t, audit.Options{Trusted: trusted("a"), AllowUnchained: true}, l.msgs); !r.OK() || r.Unchained != 1 {
		t.Errorf("%+v", r)
	}
	for range 2000 {
		l.store(b)
	}
	if r := verify(t, audit.Options{Trusted: trusted("a")}, l.msgs); len(r.Findings) != 1000 || r.Untold != 1001 || r.Unchained != 2001 {
		t.Errorf("%d findings, %d untold, %d unchained", len(r.Findings), r.Untold, r.Unchained)
	}
}

func TestHead(t *testing.T) {
	_, c := filled(t, "a", 1, 1)
	b, err := json.Marshal(map[string]audit.Head{"a": c.Head()})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]audit.Head
	if err := json.Unmarshal(b, &got); err != nil || got["a"] != c.Head() {
		t.Errorf("%s became %v, %v", b, got, err)
	}
	h := audit.Head{Sequence: 7}
	for _, s := range []string{"", "1", "1:", "1:00", ":" + strings.Repeat("0", 64), "01:" + strings.Repeat("0", 64), "1:" + strings.Repeat("A", 64), "1:" + strings.Repeat("0", 66)} {
		if err := h.UnmarshalText([]byte(s)); err == nil || h.Sequence != 7 {
			t.Errorf("%q was taken for %v", s, h)
		}
	}
}

// Any single change, deletion, swap and insertion is found, in a stream that the
// records of several signers share.
func TestMeddlingIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		signers := []string{"mt-1/a", "mt-1/b", "mt-2/a"}[:rapid.IntRange(1, 3).Draw(t, "signers")]
		var l log
		chains := map[string]*audit.Chain{}
		for _, s := range signers {
			chains[s] = chain(t, s, rapid.IntRange(1, 4).Draw(t, "every"))
		}
		for i := range rapid.IntRange(1, 15).Draw(t, "records") {
			out, err := chains[rapid.SampledFrom(signers).Draw(t, "signer")].Append(start, record(i))
			if err != nil {
				t.Fatal(err)
			}
			l.store(out...)
		}
		expect := map[string]audit.Head{}
		for _, s := range signers {
			end, err := chains[s].Checkpoint(start)
			if err != nil {
				t.Fatal(err)
			}
			l.store(end)
			expect[s] = chains[s].Head()
		}
		o := audit.Options{Trusted: trusted(signers...), Expect: expect}
		if r := verify(t, o, l.msgs); !r.OK() {
			t.Fatalf("nothing was changed: %+v", r.Findings)
		}
		what, needsHeads := meddle(t, &l)
		if !needsHeads {
			o.Expect = nil
		}
		if r := verify(t, o, l.msgs); r.OK() || r.Findings[0].Text == "" {
			t.Fatalf("%s was not found", what)
		}
	})
}

// meddle does one thing to the records, and says whether it can only be found by
// those who remember the head of the chain.
func meddle(t *rapid.T, l *log) (what string, needsHeads bool) {
	i := rapid.IntRange(0, len(l.msgs)-1).Draw(t, "at")
	link := func(m streams.Msg) schemas.AuditLink {
		r, err := schemas.DecodeAuditRecord(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		return r.Chain()
	}
	signer := link(l.msgs[i]).Signer
	var same []int // the records of the same chain
	for j, m := range l.msgs {
		if link(m).Signer == signer {
			same = append(same, j)
		}
	}
	insert := func(at int, b []byte) {
		l.msgs = append(l.msgs[:at:at], append([]streams.Msg{{Data: b}}, l.msgs[at:]...)...)
	}
	deeds := []string{"change", "delete", "copy", "forge", "swap"}
	if len(same) == 1 { // nothing to swap it with
		deeds = deeds[:4]
	}
	switch what = rapid.SampledFrom(deeds).Draw(t, "what"); what {
	case "change":
		b := bytes.Clone(l.msgs[i].Data)
		at := rapid.IntRange(0, len(b)-1).Draw(t, "byte")
		b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		l.msgs[i].Data = b
	case "delete":
		needsHeads = i == same[len(same)-1]
		l.msgs = append(l.msgs[:i:i], l.msgs[i+1:]...)
	case "swap":
		j := rapid.SampledFrom(same).Draw(t, "with")
		if i == j { // with the one before or after it
			j = same[0]
			if i == j {
				j = same[1]
			}
		}
		l.msgs[i].Data, l.msgs[j].Data = l.msgs[j].Data, l.msgs[i].Data
	case "copy":
		insert(rapid.IntRange(0, len(l.msgs)).Draw(t, "to"), l.msgs[i].Data)
	case "forge": // with a place that fits where it is put
		forged, err := schemas.SignatureAudit{Action: schemas.AuditAllow, Caller: "up=eve", Link: link(l.msgs[i])}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		insert(i, forged)
	}
	return what, needsHeads
}

func FuzzVerify(f *testing.F) {
	l, _ := filled(f, "a", 3, 2)
	for i := range l.msgs {
		f.Add(l.msgs[i].Data, l.msgs[(i+1)%len(l.msgs)].Data)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		o := audit.Options{Trusted: trusted("a"), Trimmed: true, AllowUnchained: true}
		r := verify(t, o, []streams.Msg{{Data: first}, {Data: second}})
		if r.Records != 2 {
			t.Fatalf("%+v", r)
		}
		for _, c := range r.Chains {
			if c.Sealed > c.Last || c.First > c.Last || c.Sealed > 0 && c.Signer != "a" {
				t.Fatalf("%+v", c)
			}
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	c := chain(b, "a", 100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Append(start, record(0)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	l, _ := filled(b, "a", 1000, 100)
	b.ReportAllocs()
	for b.Loop() {
		if r := verify(b, audit.Options{Trusted: trusted("a")}, l.msgs); !r.OK() {
			b.Fatal(r.Findings)
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(l.msgs))/b.Elapsed().Seconds(), "records/s")
}
