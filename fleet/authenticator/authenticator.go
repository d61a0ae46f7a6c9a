// Package authenticator lets people in: it looks at passwords, second factors
// and id tokens, and issues tokens that are valid for a short time and bound to
// the key of the one who has asked (S6). What it decides is stored in the audit
// before a token leaves it (S1); everything is denied that is not allowed, errors
// included (S2).
//
// It needs no other overlay, so that each can have its own. Only an id token asks
// for its provider, and for nobody else's login.
package authenticator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"
	"golang.org/x/time/rate"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

// Program is the name of the role and of the service that it serves.
const (
	Program = "authenticator"
	Service = "login"
)

// Code is a decision in one word, as the one who has asked is told.
type Code string

// The codes. Denied does not tell what was wrong: an unknown name, a password, a
// second factor or rights.
const (
	Allowed      Code = "allowed"
	Denied       Code = "denied"
	Malformed    Code = "malformed"
	WrongTime    Code = "wrong_time"    // the clocks differ by more than a minute
	BadSignature Code = "bad_signature" // not signed by the key of the request
	Replayed     Code = "replayed"      // the same request was seen before
	Locked       Code = "locked"        // too many attempts; later ones may succeed
	Busy         Code = "busy"          // no room for another one at the moment
	Unavailable  Code = "unavailable"   // it could not be decided or recorded
)

// Bounds of an authenticator.
const (
	// Skew is how far the clock of whoever asks may be off.
	Skew = time.Minute
	// MaxValidity is the longest validity of a token.
	MaxValidity = 24 * time.Hour

	queued      = 32              // passwords that wait, for each that is compared
	idTokens    = 16              // id tokens in work
	patience    = 5 * time.Second // of a login that waits
	recordTime  = 5 * time.Second // for the audit to store a record
	earlyRate   = 20              // records of early refusals, a second
	earlyBurst  = 200
	totpPeriod  = 30 // seconds
	eventIDSize = 16
)

// Options say how people are let in.
type Options struct {
	Overlay  string
	Validity time.Duration // of tokens
	Limits   Limits
	OIDC     *OIDC        // nil for none
	Client   *http.Client // to ask the provider with; nil is the default one
	// Hashes is how many passwords are compared in parallel; 0 is one for each core.
	Hashes int
	// Record stores a decision in the audit, and returns when it is stored.
	Record func(context.Context, schemas.AuditDecision) error
	Now    func() time.Time
	Random io.Reader // nil is that of the system
	Log    *slog.Logger
	// Count is called once for each login, with its code.
	Count func(what string)
}

// Authenticator decides about logins. It is safe for concurrent use.
type Authenticator struct {
	o        Options
	provider *provider
	users    atomic.Pointer[Users]
	issuing  atomic.Pointer[issuing]
	secret   []byte // that chooses hashes for unknown names

	people, sources *attempts
	requests, ids   once
	slots           chan struct{} // of passwords
	idSlots         chan struct{} // of id tokens
	waiting         atomic.Int64
	early           *rate.Limiter
	untold          atomic.Uint64

	mu   sync.Mutex
	totp map[string]uint64 // the last counter that each user has used
}

// issuing is who issues tokens, and who believes them.
type issuing struct {
	is     trust.Issuers
	issuer trust.Issuer
}

// New makes an authenticator, which lets nobody in before it has users and an issuer.
func New(o Options) (*Authenticator, error) {
	if o.Validity < time.Minute || o.Validity > MaxValidity {
		return nil, fmt.Errorf("authenticator: validity of %v, want 1m to %v", o.Validity, MaxValidity)
	}
	if err := o.Limits.Check(); err != nil {
		return nil, fmt.Errorf("authenticator: %w", err)
	}
	if o.Overlay == "" || o.Record == nil || o.Now == nil || o.Log == nil || o.Count == nil || o.Hashes < 0 {
		return nil, errors.New("authenticator: overlay, audit, clock, log or counts are missing")
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Hashes == 0 {
		o.Hashes = runtime.GOMAXPROCS(0)
	}
	a := &Authenticator{
		o: o, secret: make([]byte, sha256.Size), slots: make(chan struct{}, o.Hashes), idSlots: make(chan struct{}, idTokens), totp: map[string]uint64{},
		people:  newAttempts(o.Limits.UserFailures, o.Limits.FirstWait, o.Limits.LastWait),
		sources: newAttempts(o.Limits.SourceFailures, o.Limits.FirstWait, o.Limits.LastWait),
		early:   rate.NewLimiter(earlyRate, earlyBurst),
	}
	if _, err := io.ReadFull(rand.Reader, a.secret); err != nil {
		return nil, fmt.Errorf("authenticator: random bytes: %w", err)
	}
	if o.OIDC != nil {
		var err error
		if a.provider, err = newProvider(*o.OIDC, o.Client, o.Now); err != nil {
			return nil, fmt.Errorf("authenticator: %w", err)
		}
	}
	return a, nil
}

// SetUsers replaces the users.
func (a *Authenticator) SetUsers(u *Users) { a.users.Store(u) }

// SetIssuer sets who issues tokens, as [IssuerOf] returns it. It is set again when
// revocations change: nobody who is revoked gets a token.
func (a *Authenticator) SetIssuer(is trust.Issuers, i trust.Issuer) { a.issuing.Store(&issuing{is, i}) }

// Answer is what somebody who logs in is told: a token, or why there is none.
type Answer struct {
	Token  string `json:"token,omitempty"`
	Error  string `json:"error,omitempty"`  // "Login failed"
	Detail string `json:"detail,omitempty"` // the [Code]
}

// Settings are what a client has to know before it logs in.
type Settings struct {
	Overlay string          `json:"overlay"`
	OIDC    *ClientSettings `json:"oidc,omitempty"` // if there is an OpenID provider
}

// ClientSettings are those of an OpenID provider.
type ClientSettings struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"client_id"`
	Scopes   []string `json:"scopes"`
}

// Settings are those of this authenticator. Anybody may know them.
func (a *Authenticator) Settings() Settings {
	s := Settings{Overlay: a.o.Overlay}
	if p := a.provider; p != nil {
		s.OIDC = &ClientSettings{p.Issuer, p.ClientID, p.Scopes}
	}
	return s
}

// refusal is an error with its code.
type refusal struct {
	code   Code
	reason string // for operators; no secret in it
}

func (r refusal) Error() string { return r.reason }

func refuse(c Code, format string, args ...any) error {
	return refusal{c, fmt.Sprintf(format, args...)}
}

// login is one of them while it is decided about.
type login struct {
	now      time.Time
	asked    asked
	source   string // key of the address; "" if there is none
	party    string // that the audit may name; "" while nobody is known by that name
	verified bool
	org      string
	method   string
	grant    Grant
	token    trust.Token
	tokenID  string
	looked   bool // a password or an id token was looked at
}

// Login decides about a request. address is where it comes from, with or without
// a port; "" if that is not known. It returns when the decision is stored.
func (a *Authenticator) Login(ctx context.Context, request []byte, address string) Answer {
	l := login{now: a.o.Now(), source: sourceOf(address)}
	err := a.decide(ctx, request, &l)
	code, reason := Allowed, "a token was issued"
	if err != nil {
		code, reason = Unavailable, err.Error()
		if r, ok := errors.AsType[refusal](err); ok {
			code = r.code
		}
	}
	if err := a.record(ctx, &l, code, reason); err != nil {
		a.o.Log.Error("a login is not in the audit, so it has failed", "code", code, "error", err)
		a.o.Count("audit_failed")
		code = Unavailable
	}
	a.o.Count(string(code))
	if code != Allowed {
		return Answer{Error: "Login failed", Detail: string(code)}
	}
	return Answer{Token: l.token.Text()}
}

// record stores the decision (S1). Of refusals that cost next to nothing, only so
// many are stored that nobody can fill the audit with them; the rest is counted.
func (a *Authenticator) record(ctx context.Context, l *login, code Code, reason string) error {
	if !l.looked && code != Allowed {
		if !a.early.AllowN(l.now, 1) {
			a.untold.Add(1)
			a.o.Count("unrecorded")
			return nil
		}
		if n := a.untold.Swap(0); n > 0 {
			reason = fmt.Sprintf("%s; %d others were refused before it without a record each", reason, n)
		}
	}
	id := make([]byte, eventIDSize)
	if _, err := io.ReadFull(a.o.Random, id); err != nil {
		return fmt.Errorf("random bytes: %w", err)
	}
	// Whoever hangs up does not keep a decision out of the audit.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	d := schemas.AuditDecision{
		ID: hex.EncodeToString(id), What: schemas.AuditLogin, Allow: code == Allowed, Code: string(code), Overlay: a.o.Overlay, Program: Program,
		Time: l.now.UTC(), Reason: reason, Party: l.party, Verified: l.verified, Organization: l.org, Method: l.method,
		Address: l.source, TokenID: l.tokenID, Key: hex.EncodeToString(l.asked.key),
	}
	return a.o.Record(ctx, d)
}

// decide issues a token, or says why not.
func (a *Authenticator) decide(ctx context.Context, request []byte, l *login) error {
	if l.source != "" && !a.sources.allow(l.now, l.source, a.o.Limits.PerMinute, a.o.Limits.Burst) {
		return refuse(Locked, "too many logins a minute from there")
	}
	var err error
	if l.asked, err = parseRequest(request); err != nil {
		return refuse(Malformed, "%v", err)
	}
	if d := l.now.Sub(l.asked.time); d > Skew || d < -Skew {
		return refuse(WrongTime, "made at %s, which is more than %v from now", l.asked.time.UTC().Format(time.RFC3339), Skew)
	}
	if !ed25519.Verify(l.asked.key, l.asked.signed(), l.asked.sig) {
		return refuse(BadSignature, "not signed by the key that it names")
	}
	users, issuing := a.users.Load(), a.issuing.Load()
	if users == nil || issuing == nil {
		return refuse(Unavailable, "there are no users or no issuer yet")
	}
	l.org = issuing.issuer.Organization()
	if err := a.begin(l); err != nil {
		return err
	}
	fresh, room := a.requests.take(l.now, sha256.Sum256(l.asked.sig), l.asked.time.Add(Skew))
	switch {
	case !fresh:
		a.undo(l)
		return refuse(Replayed, "the same request was seen before")
	case !room:
		a.undo(l)
		return refuse(Busy, "too many requests to remember")
	}
	leave, err := a.enter(ctx, l)
	if err != nil {
		a.undo(l)
		return err
	}
	defer leave()
	l.looked = true
	if l.asked.IDToken != "" {
		err = a.byIDToken(ctx, l, users)
	} else {
		err = a.byPassword(l, users)
	}
	if err != nil {
		if r, ok := errors.AsType[refusal](err); ok && r.code != Denied {
			a.undo(l)
		}
		return err
	}
	if l.asked.IDToken == "" {
		a.people.succeeded(l.asked.Username)
	}
	if l.source != "" {
		a.sources.undo(l.source)
	}
	return a.issue(l, issuing)
}

// begin counts an attempt, if one may be made.
func (a *Authenticator) begin(l *login) error {
	if l.source != "" && !a.sources.begin(l.now, l.source) {
		return refuse(Locked, "too many failures from there")
	}
	if l.asked.IDToken == "" && !a.people.begin(l.now, l.asked.Username) {
		if l.source != "" {
			a.sources.undo(l.source)
		}
		return refuse(Locked, "too many failures of that name")
	}
	return nil
}

// undo takes the attempt back: nothing was found out by it.
func (a *Authenticator) undo(l *login) {
	if l.source != "" {
		a.sources.undo(l.source)
	}
	if l.asked.IDToken == "" {
		a.people.undo(l.asked.Username)
	}
}

// enter waits for one of the slots of passwords, and fails at once when too many
// do. Id tokens have slots of their own: a provider that does not answer keeps
// nobody else waiting.
func (a *Authenticator) enter(ctx context.Context, l *login) (leave func(), err error) {
	if l.asked.IDToken != "" {
		select {
		case a.idSlots <- struct{}{}:
			return func() { <-a.idSlots }, nil
		default:
			return nil, refuse(Busy, "too many id tokens at the same time")
		}
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > int64(queued*cap(a.slots)) {
		return nil, refuse(Busy, "too many logins at the same time")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, nil
	case <-ctx.Done():
		return nil, refuse(Busy, "it has waited for too long")
	}
}

// byPassword looks at name, password and second factor. What it answers, and how
// long that takes, does not tell which of them was wrong.
func (a *Authenticator) byPassword(l *login, users *Users) error {
	l.method = "password"
	one, known := users.of[l.asked.Username]
	right := users.hashFor(l.asked.Username, a.secret).matches(l.asked.Password)
	if known {
		// A name that nobody has may be a password in the wrong place, so the
		// audit has none but those of users.
		l.party = "up=" + l.asked.Username
		if one.totp != "" {
			l.method = "password+totp"
		}
	}
	switch {
	case !known:
		return refuse(Denied, "there is no user of that name")
	case !right:
		return refuse(Denied, "the password is wrong")
	case one.totp != "" && !a.second(l.now, l.asked.Username, one.totp, l.asked.OTP):
		return refuse(Denied, "the code of the second factor is missing, wrong or was used before")
	case one.totp == "" && l.asked.OTP != "":
		return refuse(Denied, "a code of a second factor was given, and the user has none")
	case one.organization != l.org:
		return refuse(Denied, "the user is of organization %.80q and the issuer of %.80q", one.organization, l.org)
	}
	l.verified, l.grant = true, one.grant
	return nil
}

// second says whether a code is right, for the first time, now or one period
// earlier or later.
func (a *Authenticator) second(now time.Time, name, secret, code string) bool {
	at := uint64(now.Unix()) / totpPeriod
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, counter := range []uint64{at - 1, at, at + 1} {
		ok, err := hotp.ValidateCustom(code, counter, secret, hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err == nil && ok && counter > a.totp[name] {
			a.totp[name] = counter
			return true
		}
	}
	return false
}

// byIDToken looks at an id token.
func (a *Authenticator) byIDToken(ctx context.Context, l *login, users *Users) error {
	l.method = "oidc"
	p := a.provider
	if p == nil {
		return refuse(Denied, "an id token, and no OpenID provider is configured")
	}
	ctx, cancel := context.WithTimeout(ctx, providerTime)
	defer cancel()
	c, err := p.verify(ctx, l.now, l.asked.IDToken, Nonce(l.asked.key, l.asked.Salt))
	if errors.Is(err, errProvider) {
		return refuse(Unavailable, "%v", err)
	}
	if err != nil {
		return refuse(Denied, "%v", err)
	}
	name, err := p.name(c)
	if err != nil {
		return refuse(Denied, "%v", err)
	}
	l.party, l.verified = "oidc="+name, true
	if p.Organization != "" && p.Organization != l.org {
		return refuse(Denied, "the provider is of organization %.80q and the issuer of %.80q", p.Organization, l.org)
	}
	ends, err := c.GetExpirationTime()
	if err != nil || ends == nil {
		return refuse(Denied, "the id token does not end")
	}
	fresh, room := a.ids.take(l.now, sha256.Sum256([]byte(l.asked.IDToken)), ends.Add(oidcLeeway))
	if !fresh {
		return refuse(Replayed, "the id token was used before")
	}
	if !room {
		return refuse(Busy, "too many id tokens to remember")
	}
	groups, err := p.groups(c)
	if err != nil {
		return refuse(Denied, "%v", err)
	}
	if l.grant, err = users.grant(Rights{}, groups); err != nil {
		return refuse(Denied, "groups %s: %v", strings.Join(groups, ", "), err)
	}
	return nil
}

// issue makes the token (S6, S7).
func (a *Authenticator) issue(l *login, by *issuing) error {
	t, err := by.issuer.Client(l.now, a.o.Random, trust.ClientToken{
		CallerID: l.party, Key: l.asked.key, Permissions: l.grant.Permissions, Agents: l.grant.Agents, OPAPolicy: l.grant.Policy,
		Properties: l.grant.Properties, Validity: a.o.Validity,
	})
	if err != nil {
		return refuse(Denied, "no token can be issued: %v", err)
	}
	c, err := by.is.Verify(l.now, t)
	if err != nil {
		return refuse(Denied, "the token would not be believed: %v", err)
	}
	l.token, l.tokenID = t, c.ID()
	return nil
}

// IssuerOf makes the issuer of an authenticator from its token and key, and the
// issuers that it verifies with. The token has to be that of a chain issuer whose
// scope holds clients and no nodes. One without a scope, which Choria's tools have
// made, is held to clients here, which nobody else knows of: limited is then true.
func IssuerOf(now time.Time, is trust.Issuers, t trust.Token, key ed25519.PrivateKey) (all trust.Issuers, i trust.Issuer, limited bool, err error) {
	c, err := is.Verify(now, t)
	if err != nil {
		return all, i, false, fmt.Errorf("authenticator: %w", err)
	}
	s, scoped := c.Scope()
	if scoped && (slices.Contains(s.Purposes, trust.Server) || !slices.Contains(s.Purposes, trust.Client)) {
		return all, i, false, errors.New("authenticator: the scope of its token has to hold clients and no nodes; issue one with the purpose choria_client_id alone")
	}
	if !scoped && c.IsIssuer() {
		limited = true
		is, err = is.WithLimit(c.Key(), trust.Scope{Purposes: []trust.Purpose{trust.Client}, Permissions: loginPermissions()}, time.Time{})
		if err != nil {
			return all, i, false, fmt.Errorf("authenticator: %w", err)
		}
	}
	i, err = is.ChainIssuer(now, t, key)
	if err != nil {
		return all, i, false, fmt.Errorf("authenticator: %w", err)
	}
	return is, i, limited, nil
}

// loginPermissions are those that an issuer without a scope may give.
func loginPermissions() []string {
	return []string{"streams_user", "events_viewer", "election_user", "governor", "fleet_management", "signed_fleet_management"}
}
