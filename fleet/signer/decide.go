// Package signer is the program that signs requests for those who may not sign for
// themselves. Whoever asks proves that it holds the key of its token, the policy in
// that token says whether the request may be made, and the decision is stored in the
// audit before the signature leaves (S1). Any number of signers share the work.
//
// What is decided is decided by [Rules.Decide], which is pure but for its memory of
// requests. [Signer] is around it, and what takes requests from NATS and HTTP is
// around that.
package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/fleet/trust/policy"
	"github.com/weirhq/weir/schemas"
)

// Code is the stable name of a decision. Callers are told it: it says nothing of the
// policy and of whom is trusted. The reason beside it is for operators.
type Code string

// The codes. Those of package policy are codes as well, such as "denied".
const (
	Allowed      Code = "allowed"
	Malformed    Code = "malformed"         // it is no request for a signature
	TooLarge     Code = "too_large"         // the request has more bytes than are signed
	BadToken     Code = "token_invalid"     // nobody who is trusted stands behind it, or it was revoked
	OldToken     Code = "token_expired"     // it is not valid now
	LongToken    Code = "token_too_long"    // it is valid for longer than tokens may be here
	BadSignature Code = "signature_invalid" // the key of the token has not signed the request
	NotPermitted Code = "not_permitted"     // the token is for no such requests, whatever its policy
	OldRequest   Code = "request_expired"   // it was made too long ago, or in the future
	LongRequest  Code = "ttl_too_long"      // it would be valid for too long
	Replayed     Code = "replayed"          // a request of that id was signed already, or is about to be

	NoSigning Code = "unavailable" // this signer cannot sign for the caller
	// Busy says that too much is under way; trying again later is right. What was not
	// even looked at is not in the audit.
	Busy Code = "busy"
	// NoAudit says that the decision could not be stored, so there is no signature.
	NoAudit Code = "no_audit"
)

// Codes are all codes that there are.
func Codes() []Code {
	return []Code{
		Allowed, Malformed, TooLarge, BadToken, OldToken, LongToken, BadSignature, NotPermitted, OldRequest, LongRequest, Replayed,
		Busy, NoAudit, NoSigning, Code(policy.Denied), Code(policy.Missing), Code(policy.Invalid), Code(policy.Timeout), Code(policy.BadCall),
	}
}

// Rules say what is signed.
type Rules struct {
	// Site is where it is decided: in the audit, and what policies see.
	Site string
	// MaxValidity is how far ahead the end of a caller's token may be, unless it has
	// the permission service.
	MaxValidity time.Duration
	MaxTTL      time.Duration // of a request
	// Skew is how far ahead of the signer's the clock of a caller may be.
	Skew       time.Duration
	MaxRequest int // bytes of a request
}

// DefaultRules are those of a signer that is not told others.
func DefaultRules() Rules {
	return Rules{MaxValidity: 24 * time.Hour, MaxTTL: 10 * time.Minute, Skew: time.Minute, MaxRequest: 100 << 10}
}

// largest is the largest request that there can be a record of: one that is no text
// is up to eight times as large in it, and a broker takes a megabyte if nothing else
// was set.
const largest = 128 << 10

// Check finds what is wrong with the rules.
func (r Rules) Check() error {
	var errs []error
	if r.MaxValidity <= 0 || r.MaxTTL < time.Second {
		errs = append(errs, fmt.Errorf("max_validity %v and max_ttl %v: want more than none, and a second", r.MaxValidity, r.MaxTTL))
	}
	if r.Skew < 0 {
		errs = append(errs, fmt.Errorf("skew %v is negative", r.Skew))
	}
	if r.MaxRequest < 1 || r.MaxRequest > largest {
		errs = append(errs, fmt.Errorf("max_request %d: want 1 to %d bytes", r.MaxRequest, largest))
	}
	return errors.Join(errs...)
}

// mayLast is the permission of tokens that are valid for as long as they like.
const mayLast = "service"

// Verdict is a decision about one request, and what the audit says about it.
type Verdict struct {
	Code   Code
	Reason string // one line, for operators
	Caller string // who asks; what it says itself while that is not Verified
	// Verified says that Caller is proven by the signature.
	Verified                        bool
	RequestID, Agent, Action, Token string

	asked trust.Asked
	kept  seen // what is remembered of the request
}

func (v *Verdict) becausef(c Code, format string, args ...any) {
	v.Code, v.Reason = c, fmt.Sprintf(format, args...)
}

// Decide says whether a request is signed. Everything that is not allowed is refused,
// whatever goes wrong included (S2). What is allowed is remembered as signed: see
// [Memory.Forget].
func (r Rules) Decide(ctx context.Context, now time.Time, is trust.Issuers, e *policy.Engine, m *Memory, a Ask) Verdict {
	v := r.decide(ctx, now, is, e, m, a)
	if v.Code != Allowed {
		m.Forget(v)
	}
	return v
}

func (r Rules) decide(ctx context.Context, now time.Time, is trust.Issuers, e *policy.Engine, m *Memory, a Ask) Verdict {
	v := Verdict{}
	if a.Err != nil {
		v.becausef(Malformed, "%v", a.Err)
		return v
	}
	if len(a.Request) > r.MaxRequest {
		v.becausef(TooLarge, "the request has %d bytes and may have %d", len(a.Request), r.MaxRequest)
		return v
	}
	v.claim(a.Request)
	if _, err := is.Verify(now, a.Token); err != nil {
		v.becausef(tokenCode(err), "%v", err)
		return v
	}
	asked, err := trust.SignedRequest{Request: a.Request, Signature: a.Signature, Caller: a.Token}.VerifyAsked(now, is)
	if err != nil {
		v.becausef(requestCode(err), "%v", err)
		return v
	}
	by := asked.By
	v.asked, v.Caller, v.Verified, v.Token = asked, asked.Caller, true, by.ID()
	v.RequestID, v.Agent = asked.ID, asked.Agent
	if ends := by.Expires(); ends.Sub(now) > r.MaxValidity && !by.May(mayLast) {
		v.becausef(LongToken, "the token ends at %s, which is more than %v ahead, and lacks the permission %s", ends.UTC().Format(time.RFC3339), r.MaxValidity, mayLast)
		return v
	}
	switch {
	case asked.TTL > r.MaxTTL:
		v.becausef(LongRequest, "the request is valid for %v, and may be for %v", asked.TTL, r.MaxTTL)
		return v
	case asked.Time.After(now.Add(r.Skew)) || !now.Before(asked.Time.Add(asked.TTL)):
		v.becausef(OldRequest, "the request was made at %s for %v, and it is %s", asked.Time.Format(time.RFC3339), asked.TTL, now.UTC().Format(time.RFC3339))
		return v
	}
	req, err := policy.NewRequest(asked.Verified)
	if err != nil {
		d := policy.Refused(err)
		v.becausef(Code(d.Code), "%s", d.Reason)
		return v
	}
	v.Action = req.Action
	if v.kept, err = m.keep(now, asked); err != nil {
		v.becausef(memoryCode(err), "%v", err)
		return v
	}
	d := e.Decide(ctx, now, req, policy.Rules{Agents: by.Agents(), Rego: by.OPAPolicy(), Claims: by.JSON()})
	v.becausef(Code(d.Code), "%s", d.Reason)
	return v
}

// claim takes what the request says of itself, for the audit.
func (v *Verdict) claim(request []byte) {
	var c struct {
		Caller string `json:"caller"`
		ID     string `json:"id"`
		Agent  string `json:"agent"`
	}
	if json.Unmarshal(request, &c) == nil {
		v.Caller, v.RequestID, v.Agent = c.Caller, c.ID, c.Agent
	}
}

// tokenCode names why a token is not believed. Whether it was revoked, or who is
// trusted, is not the caller's to know.
func tokenCode(err error) Code {
	if errors.Is(err, trust.ErrExpired) && !errors.Is(err, trust.ErrRevoked) {
		return OldToken
	}
	return BadToken
}

// requestCode names why a request is none that its token permits.
func requestCode(err error) Code {
	switch {
	case errors.Is(err, trust.ErrSignature):
		return BadSignature
	case errors.Is(err, trust.ErrMalformed):
		return Malformed
	default: // ErrIdentity, ErrDenied
		return NotPermitted
	}
}

// record is what the audit says about a verdict. A request that is too large for it
// is left out.
func (r Rules) record(now time.Time, v Verdict, a Ask, signer string) schemas.SignatureAudit {
	rec := schemas.SignatureAudit{
		Caller: text(v.Caller), Action: schemas.AuditDeny, Site: r.Site, Time: now.Unix(), Request: a.Request,
		Verified: v.Verified, Code: string(v.Code), Reason: text(v.Reason), RequestID: text(v.RequestID),
		Agent: text(v.Agent), AgentAction: text(v.Action), TokenID: text(v.Token), SignerID: text(signer),
	}
	if v.Code == Allowed {
		rec.Action = schemas.AuditAllow
	}
	if len(a.Request) > r.MaxRequest {
		rec.Request = nil
	}
	return rec
}
