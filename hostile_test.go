package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/deploy"
	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/processors/adapter"
	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/topology"
	"github.com/weirhq/weir/topology/broker"
)

// laptop is the hub and one cell of the laptop, without any nodes.
type laptop struct {
	*testing.T
	node *nats.Conn // as the nodes of the cell
	js   map[string]jetstream.JetStream
	sign func(r *trust.Registration) // what a good node adds
	good int                         // good nodes so far
	dead uint64                      // dead letters so far
}

// newLaptop starts the brokers and stages, with one change of the topology.
func newLaptop(t *testing.T, old, text string) *laptop {
	t.Helper()
	store := t.TempDir()
	file := filepath.Join(store, "laptop.yaml")
	changed := bytes.Replace(deploy.Laptop, []byte(old), []byte(text), 1)
	if err := os.WriteFile(file, changed, 0o600); err != nil || old != text && bytes.Equal(changed, deploy.Laptop) {
		t.Fatalf("the topology lacks %q, or: %v", old, err)
	}
	l := &laptop{T: t, js: map[string]jetstream.JetStream{}, sign: func(*trust.Registration) {}}
	for _, overlay := range []string{"hub", "mt-1"} {
		p := start(t, "weir", "run", file, "--overlay", overlay, "--store", store)
		eventually(t, overlay+" is ready", func() bool { return strings.Contains(p.out.String(), "overlay is ready") })
		admin := l.connect(filepath.Join(store, overlay), overlay, topology.RoleAdmin)
		js, err := jetstream.New(admin)
		if err != nil {
			t.Fatal(err)
		}
		l.js[overlay] = js
	}
	l.node = l.connect(filepath.Join(store, "mt-1"), "mt-1", topology.RoleServer)
	return l
}

func (l *laptop) connect(store, overlay, role string) *nats.Conn {
	l.Helper()
	at, err := broker.Find(store, "", "")
	if err != nil {
		l.Fatal(err)
	}
	key, err := nats.NkeyOptionFromSeed(broker.KeyFile(store, role))
	if err != nil {
		l.Fatal(err)
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(at.Client, key, nats.CustomInboxPrefix(topology.Inbox(overlay, role)), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		nc.Close()
		<-closed
	})
	return nc
}

const discovery = "mcollective.ingest.discovery.x"

func (l *laptop) publish(subject string, data []byte) {
	l.Helper()
	if err := errors.Join(l.node.Publish(subject, data), l.node.Flush()); err != nil {
		l.Fatal(err)
	}
}

// seal is a registration with these facts.
func (l *laptop) seal(now time.Time, identity string, facts map[string]any) []byte {
	l.Helper()
	data, err := schemas.InventoryData{Facts: facts}.Encode()
	if err != nil {
		l.Fatal(err)
	}
	body, err := schemas.InventoryContent{MTime: now.Unix(), File: "f", Data: data}.Encode()
	if err != nil {
		l.Fatal(err)
	}
	return l.sealed(now, identity, body)
}

func (l *laptop) sealed(now time.Time, identity string, body []byte) []byte {
	l.Helper()
	r := trust.Registration{Identity: identity, Collective: "mcollective", Body: body}
	l.sign(&r)
	b, err := trust.Seal(now, r)
	if err != nil {
		l.Fatal(err)
	}
	return b
}

// arrived waits for the newest message on a subject of an overlay.
func (l *laptop) arrived(overlay, stream, subject string) *jetstream.RawStreamMsg {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 40*time.Second)
	defer cancel()
	s, err := l.js[overlay].Stream(ctx, stream)
	if err != nil {
		l.Fatal(err)
	}
	for {
		m, err := s.GetLastMsgForSubject(ctx, subject)
		if err == nil {
			return m
		}
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			l.Fatalf("%s has no %s: %v", overlay, subject, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// next publishes the registration of a good node, which has to reach the hub.
func (l *laptop) next() *jetstream.RawStreamMsg {
	l.Helper()
	l.good++
	identity := fmt.Sprintf("good-%d.example.net", l.good)
	l.publish(discovery, l.seal(time.Now(), identity, map[string]any{"n": l.good}))
	return l.arrived("hub", "REGISTRATION", "registration.mt-1."+identity)
}

// refused publishes what has to become one dead letter, for a reason that begins
// so, and a good one behind it.
func (l *laptop) refused(name, subject string, data []byte, reason string) *jetstream.RawStreamMsg {
	l.Helper()
	l.publish(subject, data)
	letter := l.letters(name)
	if got := letter.Header.Get(streams.HeaderReason); !strings.HasPrefix(got, reason) {
		l.Errorf("%s: refused because %q, want %q", name, got, reason)
	}
	if got := letter.Header.Get(streams.HeaderSubject); got != subject {
		l.Errorf("%s: the dead letter says that it came on %q, want %q", name, got, subject)
	}
	l.next()
	if n := l.count(l.stream("DEAD")); n != l.dead {
		l.Errorf("%s: %d dead letters, want %d", name, n, l.dead)
	}
	return letter
}

// letters waits for one more dead letter.
func (l *laptop) letters(name string) *jetstream.RawStreamMsg {
	l.Helper()
	s := l.stream("DEAD")
	l.dead++
	eventually(l.T, name+" is a dead letter", func() bool { return l.count(s) >= l.dead })
	m, err := s.GetMsg(l.Context(), l.dead)
	if err != nil {
		l.Fatal(err)
	}
	return m
}

func (l *laptop) stream(name string) jetstream.Stream {
	l.Helper()
	s, err := l.js["mt-1"].Stream(l.Context(), name)
	if err != nil {
		l.Fatal(err)
	}
	return s
}

func (l *laptop) count(s jetstream.Stream, filter ...string) uint64 {
	l.Helper()
	var opts []jetstream.StreamInfoOpt
	for _, f := range filter {
		opts = append(opts, jetstream.WithSubjectFilter(f))
	}
	i, err := s.Info(l.Context(), opts...)
	if err != nil {
		l.Fatal(err)
	}
	if len(filter) == 0 {
		return i.State.LastSeq
	}
	var n uint64
	for _, of := range i.State.Subjects {
		n += of
	}
	return n
}

// facts reads those of a registration as a stream holds it.
func (l *laptop) facts(m *jetstream.RawStreamMsg) map[string]any {
	l.Helper()
	out, err := schemas.DecodeAdapterOutput(m.Data)
	if err != nil {
		l.Fatal(err)
	}
	content, err := schemas.DecodeInventoryContent([]byte(out.Data))
	if err != nil {
		l.Fatal(err)
	}
	data, err := schemas.DecodeInventoryData(content.Data)
	if err != nil {
		l.Fatal(err)
	}
	return data.Facts
}

// inventory is the body of a registration whose inventory is these bytes.
func inventory(field string, value []byte) []byte {
	if field == "zcontent" {
		value = fmt.Appendf(nil, "%q", base64.StdEncoding.EncodeToString(value))
	}
	return fmt.Appendf(nil, `{"protocol":%q,"mtime":1,"file":"f",%q:%s}`, schemas.InventoryContentName, field, value)
}

// TestHostileNodes: whatever a node says, it becomes a dead letter with its
// reason or an event, and the next one flows.
func TestHostileNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("brokers of its own, for seconds")
	}
	l := newLaptop(t, "", "")
	now := time.Now()
	nested := func(depth int) []byte {
		return []byte(`{"facts":` + strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth) + `}`)
	}
	zeros, err := schemas.InventoryContent{MTime: 1, File: "f", Data: []byte(`{"facts":{"a":"` + strings.Repeat("0", schemas.MaxInventory-100) + `"}}`)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (schemas.InventoryContent{MTime: 1, File: "f", Data: bytes.Repeat([]byte(" "), schemas.MaxInventory+1)}).Encode(); err == nil {
		t.Fatal("an inventory that is too large was packed")
	}

	t.Run("refused", func(t *testing.T) {
		l.T = t
		life := "choria.lifecycle.event.startup.server"
		for _, c := range []struct {
			name, subject string
			data          []byte
			reason        string
		}{
			{"nothing", discovery, nil, "transport: not a JSON object"},
			{"not JSON", discovery, []byte("\x00\xff{"), "transport: not a JSON object"},
			{"brackets", discovery, bytes.Repeat([]byte("["), 500_000), "transport: not a JSON object"},
			{"nested envelope", discovery, []byte(`{"protocol":` + string(nested(5000)) + `}`), "transport: not a JSON object"},
			{"nested inventory", discovery, l.sealed(now, "n1", inventory("content", nested(80))), "payload: "},
			{"nested and packed", discovery, l.sealed(now, "n1", inventory("zcontent", []byte("\x78\x9c\x00"))), "payload: inventory content: zcontent"},
			{"no inventory", discovery, l.sealed(now, "n1", []byte(`{"protocol":"`+schemas.InventoryContentName+`"}`)), "payload: inventory content: neither"},
			{"an event", discovery, []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"n1"}`), "transport: "},
			{"no event", life, []byte(`{"specversion":"1.0"}`), "event: id, source or type is missing"},
			{"event of a space", life, []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"a b"}`), `sender: identity "a b"`},
			{"event of all", life, []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":">"}`), `sender: identity ">"`},
			{"event of our own", life, []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"_weir.gap"}`), `sender: identity "_weir.gap"`},
			{"event of the year 99999", life, []byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"n1","time":"99999-01-01T00:00:00Z"}`), "event: parsing time"},
		} {
			l.refused(c.name, c.subject, c.data, c.reason)
		}
		for _, identity := range []string{" ", "a b", "*", ">", "n1.*", "n1.>", "n1.", ".n1", "a..b", "a\nb", "a\r\n+OK", "a\x00b", "_weir.gap", "é", "n\u202e1", strings.Repeat("a.", 200) + "a", strings.Repeat("a", 64)} {
			letter := l.refused(fmt.Sprintf("identity %.20q", identity), discovery, l.seal(now, identity, map[string]any{"a": 1}), "sender: ")
			if !strings.HasPrefix(letter.Subject, "dead.mt-1.adapt.") {
				t.Errorf("identity %.20q: the dead letter is on %s", identity, letter.Subject)
			}
		}
	})

	t.Run("as large as it may be", func(t *testing.T) {
		l.T = t
		most := int(l.node.MaxPayload())
		letter := l.refused("rubbish", discovery, bytes.Repeat([]byte("x"), most), "transport: ")
		if letter.Subject != "dead.mt-1.adapt._oversized" || len(letter.Data) > 0 || !strings.Contains(letter.Header.Get(streams.HeaderReason), "left out, too large") {
			t.Errorf("the letter is on %s with %d bytes and %v", letter.Subject, len(letter.Data), letter.Header)
		}
		if err := l.node.Publish(discovery, make([]byte, most+1)); !errors.Is(err, nats.ErrMaxPayload) {
			t.Errorf("more than the broker takes: %v", err)
		}
		noise := make([]byte, 200<<10)
		_, _ = rand.Read(noise) // never fails
		want := map[string]any{"noise": hex.EncodeToString(noise)}
		l.publish(discovery, l.seal(now, "large", want))
		if d := cmp.Diff(want, l.facts(l.arrived("hub", "REGISTRATION", "registration.mt-1.large"))); d != "" {
			t.Error(d)
		}
		l.publish(discovery, l.sealed(now, "packed", zeros))
		l.arrived("hub", "REGISTRATION", "registration.mt-1.packed")
		l.next()
	})

	// The clocks of nodes are theirs: what is told of them is by that of the broker.
	t.Run("clocks", func(t *testing.T) {
		l.T = t
		for identity, at := range map[string]time.Time{
			"from-2038": time.Date(2038, 1, 19, 3, 14, 8, 0, time.UTC), "from-1970": time.Unix(1, 0), "of-now": time.Now(),
		} {
			l.publish(discovery, l.seal(at, identity, map[string]any{"a": 1}))
			l.arrived("hub", "REGISTRATION", "registration.mt-1."+identity)
			stored := l.arrived("mt-1", "REGISTRATION", "registration.mt-1."+identity)
			if skew := stored.Header.Get(adapter.HeaderSkew); (skew != "") != (identity != "of-now") || strings.HasPrefix(skew, "-") != (identity == "from-1970") {
				t.Errorf("%s: its clock is said to be ahead by %q", identity, skew)
			}
			told, err := schemas.DecodeAgeAdvisory(l.arrived("hub", "ADVISORIES", "advisories.mt-1.new."+identity).Data)
			if err != nil || told.Timestamp != stored.Time.Unix() || told.Seen != stored.Time.Unix() {
				t.Errorf("%s: told of %+v, %v; it was stored at %d", identity, told, err, stored.Time.Unix())
			}
		}
		l.next()
	})

	t.Run("one identity", func(t *testing.T) {
		l.T = t
		reg := l.stream("REGISTRATION")
		for i := range 6 { // two nodes take turns
			l.publish(discovery, l.seal(now.Add(time.Duration(i)), "twin", map[string]any{"node": i % 2}))
		}
		l.arrived("hub", "REGISTRATION", "registration.mt-1.twin")
		l.next()
		if n := l.count(reg, "registration.mt-1.twin"); n != 6 {
			t.Errorf("%d registrations of two nodes with one identity, want 6", n)
		}
		l.arrived("mt-1", "ADVISORIES", fmt.Sprintf("advisories.mt-1.new.good-%d.example.net", l.good)) // all before are told of
		if n := l.count(l.stream("ADVISORIES"), "advisories.mt-1.*.twin"); n != 1 {
			t.Errorf("%d advisories of them, want 1", n)
		}
	})

	t.Run("alphabets", func(t *testing.T) {
		l.T = t
		for identity, some := range map[string]string{
			"greek": "Ωκεανός", "cyrillic": "Москва", "han": "數據中心", "arabic": "مركز البيانات", "hebrew": "מרכז", "devanagari": "डेटा",
			"emoji": "🐟👩‍🚒", "control": "a\x00b\u2028\ufeff", "markup": `<&>"'\`, "replacement": "\ufffd",
		} {
			want := map[string]any{some: map[string]any{"text": strings.Repeat(some, 60<<10/len(some))}}
			l.publish(discovery, l.seal(now, identity, want))
			if d := cmp.Diff(want, l.facts(l.arrived("hub", "REGISTRATION", "registration.mt-1."+identity))); d != "" {
				t.Errorf("%s: %.500s", identity, d)
			}
		}
		l.next()
	})
	l.T = t
	if n := l.count(l.stream("DEAD")); n != l.dead {
		t.Errorf("%d dead letters, want %d", n, l.dead)
	}
}

// TestUnverifiableNodes: where issuers are named, what nobody vouches for is a
// dead letter, and the next one that somebody does flows.
func TestUnverifiableNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("brokers of its own, for seconds")
	}
	newKey := func() ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	public := func(key ed25519.PrivateKey) string { return hex.EncodeToString(key.Public().(ed25519.PublicKey)) }
	org, node, stranger := newKey(), newKey(), newKey()
	now := time.Now()
	token := func(signer ed25519.PrivateKey, identity string, until time.Time) trust.Token {
		text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"purpose": "choria_server", "identity": identity, "collectives": []string{"mcollective"}, "ou": "acme", "public_key": public(node),
			"jti": "id", "iss": "I-" + public(org), "iat": now.Add(-2 * time.Hour).Unix(), "nbf": now.Add(-2 * time.Hour).Unix(), "exp": until.Unix(),
		}).SignedString(signer)
		if err != nil {
			t.Fatal(err)
		}
		return trust.NewToken(text)
	}
	l := newLaptop(t, "with: { protocol: request }", "with: { protocol: request, issuers: { acme: ["+public(org)+"] } }")
	by := func(signer ed25519.PrivateKey, until time.Time) func(r *trust.Registration) {
		return func(r *trust.Registration) { r.Token, r.Key = token(signer, r.Identity, until), node }
	}
	vouched := by(org, now.Add(time.Hour))
	seal := func(sign func(r *trust.Registration)) []byte {
		l.sign = sign
		defer func() { l.sign = vouched }()
		return l.seal(now, "n1", map[string]any{"a": 1})
	}
	tampered := func() []byte {
		var envelope struct {
			Protocol string          `json:"protocol"`
			Data     []byte          `json:"data"`
			Headers  json.RawMessage `json:"headers"`
		}
		var secure map[string]any
		if err := json.Unmarshal(seal(vouched), &envelope); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(envelope.Data, &secure); err != nil {
			t.Fatal(err)
		}
		request, err := base64.StdEncoding.DecodeString(secure["request"].(string))
		if err != nil {
			t.Fatal(err)
		}
		secure["request"] = bytes.Replace(request, []byte(`"mcollective"`), []byte(`"mcollectivE"`), 1)
		if envelope.Data, err = json.Marshal(secure); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(envelope)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name   string
		data   []byte
		reason string
	}{
		{"not signed", seal(func(*trust.Registration) {}), "request: token of the caller: malformed"},
		{"signed by a stranger", seal(by(stranger, now.Add(time.Hour))), "request: token of the caller: not trusted"},
		{"signed by itself", seal(by(node, now.Add(time.Hour))), "request: token of the caller: not trusted"},
		{"expired", seal(by(org, now.Add(-time.Hour))), "request: token of the caller: not valid at this time"},
		{"tampered", tampered(), "request: signature does not match"},
	} {
		l.refused(c.name, discovery, c.data, c.reason)
	}
	if got := l.next().Header.Get(adapter.HeaderVerified); got != "acme" {
		t.Errorf("a node of acme is verified as one of %q", got)
	}
	if m, err := l.stream("REGISTRATION").GetLastMsgForSubject(t.Context(), "registration.mt-1.n1"); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("what nobody vouches for is stored: %+v, %v", m, err)
	}
}
