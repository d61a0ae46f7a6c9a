package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Names of the formats of the audit.
const (
	// SignatureAuditName is the record of one decision of a signer.
	SignatureAuditName = "io.choria.signer.v1.signature_audit"
	// AuditDecisionName is the event about any other decision about who may do what.
	AuditDecisionName = "io.weir.audit.v1.decision"
	// AuditCheckpointName is the event by which a program vouches for its records.
	AuditCheckpointName = "io.weir.audit.v1.checkpoint"
)

// auditDepth is how deeply a record may be nested, in which a request is one part.
const auditDepth = 64

// AuditRecord is a [SignatureAudit], an [AuditDecision] or an [AuditCheckpoint].
type AuditRecord interface {
	// Chain is the place of the record, zero if it is in no chain.
	Chain() AuditLink
	// Linked writes the record with another place.
	Linked(AuditLink) ([]byte, error)
}

// AuditLink is the place of a record in the chain of the records that one program
// writes. Each names the one before it by a hash of all its bytes, so none can be
// changed, left out or put in unseen. It stands in the record itself, in the field
// chain, because headers change on the way.
type AuditLink struct {
	Signer   string            // name of the chain, which is that of the program, as overlay/name
	Sequence uint64            // 1 for the first record of the chain, and one more for each
	Previous [sha256.Size]byte // SHA-256 of the record before it; zero in the first
}

// maxSequence is the largest number that every reader of JSON takes exactly.
const maxSequence = 1<<53 - 1

// IsZero says that a record is in no chain.
func (l AuditLink) IsZero() bool { return l == AuditLink{} }

func (l AuditLink) validate() error {
	switch {
	case l.Signer == "" || !utf8.ValidString(l.Signer):
		return errors.New("chain: signer is empty or not UTF-8")
	case l.Sequence < 1 || l.Sequence > maxSequence:
		return fmt.Errorf("chain: sequence %d is out of range", l.Sequence)
	case l.Sequence == 1 && l.Previous != [sha256.Size]byte{}:
		return errors.New("chain: the first record names one before it")
	}
	return nil
}

// chainData is an AuditLink on the wire.
type chainData struct {
	Signer   string `json:"signer"`
	Sequence uint64 `json:"sequence"`
	Previous string `json:"previous"`
}

// encodeChain returns nil for no link.
func encodeChain(l AuditLink) (*chainData, error) {
	if l.IsZero() {
		return nil, nil //nolint:nilnil // a field that is left out
	}
	if err := l.validate(); err != nil {
		return nil, err
	}
	return &chainData{l.Signer, l.Sequence, hex.EncodeToString(l.Previous[:])}, nil
}

// chain reads the field chain, which may be missing.
func (o object) chain() (AuditLink, error) {
	var l AuditLink
	if _, ok := o["chain"]; !ok {
		return l, nil
	}
	c, err := o.inner("chain")
	if err != nil {
		return l, err
	}
	if l.Signer, err = c.text("signer"); err != nil {
		return l, fmt.Errorf("chain: %w", err)
	}
	n, err := c.positive("sequence")
	if err != nil {
		return l, fmt.Errorf("chain: %w", err)
	}
	l.Sequence = uint64(n)
	if err := c.hex("previous", l.Previous[:]); err != nil {
		return l, fmt.Errorf("chain: %w", err)
	}
	return l, l.validate()
}

// hex fills b from a field in lower-case hexadecimal digits, exactly that many.
func (o object) hex(name string, b []byte) error {
	s, err := o.text(name)
	if err != nil {
		return err
	}
	got, err := hex.DecodeString(s)
	if err != nil || len(got) != len(b) || s != strings.ToLower(s) {
		return fmt.Errorf("%s is not %d hexadecimal digits in lower case", name, hex.EncodedLen(len(b)))
	}
	copy(b, got)
	return nil
}

// Actions of a [SignatureAudit].
const (
	AuditUnknown = "unknown"
	AuditAllow   = "allow"
	AuditDeny    = "deny"
)

var auditCode = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

// SignatureAudit tells who has asked a signer to sign what, and what it said,
// format io.choria.signer.v1.signature_audit. The fields below Request are not in
// the published format, which allows others beside its own. All may be empty.
type SignatureAudit struct {
	// Caller is the name in the token, or, while that is not Verified, whatever
	// the request says.
	Caller  string
	Action  string // one of AuditAllow, AuditDeny and AuditUnknown
	Site    string // where it was decided
	Time    int64  // when, in seconds since 1970
	Request []byte // the request as it came, whatever it is

	Verified    bool   // Caller is proven
	Code        string // the decision in one word, lower-case letters, digits and underscores
	Reason      string // the decision in a sentence, for operators
	RequestID   string
	Agent       string // that was asked
	AgentAction string // what it was asked to do
	TokenID     string // of the caller's token
	SignerID    string // of the signer's token
	Link        AuditLink
}

// signatureAudit is a SignatureAudit on the wire.
type signatureAudit struct {
	Protocol    string     `json:"protocol"`
	Caller      string     `json:"callerid"`
	Action      string     `json:"action"`
	Site        string     `json:"site"`
	Time        int64      `json:"time"`
	Request     string     `json:"request"`
	Base64      []byte     `json:"request_base64,omitempty"`
	Verified    bool       `json:"caller_verified"`
	Code        string     `json:"code,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	RequestID   string     `json:"request_id,omitempty"`
	Agent       string     `json:"agent,omitempty"`
	AgentAction string     `json:"agent_action,omitempty"`
	TokenID     string     `json:"token_id,omitempty"`
	SignerID    string     `json:"signer_id,omitempty"`
	Chain       *chainData `json:"chain,omitempty"`
}

// Chain is the place of the record.
func (a SignatureAudit) Chain() AuditLink { return a.Link }

// Linked writes the record with another place.
func (a SignatureAudit) Linked(l AuditLink) ([]byte, error) {
	a.Link = l
	return a.Encode()
}

// Encode writes the record. It fails when the action is not known, the code is
// none, the place is half given, or a text other than Request is not UTF-8. Of a
// Request that is not UTF-8, which JSON cannot carry, the field request has what
// can be shown, and request_base64 the bytes.
func (a SignatureAudit) Encode() ([]byte, error) {
	w := signatureAudit{
		Protocol: SignatureAuditName, Caller: a.Caller, Action: a.Action, Site: a.Site, Time: a.Time, Request: string(a.Request),
		Verified: a.Verified, Code: a.Code, Reason: a.Reason, RequestID: a.RequestID,
		Agent: a.Agent, AgentAction: a.AgentAction, TokenID: a.TokenID, SignerID: a.SignerID,
	}
	err := a.validate()
	if err == nil {
		w.Chain, err = encodeChain(a.Link)
	}
	if err != nil {
		return nil, fmt.Errorf("signature audit: %w", err)
	}
	if !utf8.Valid(a.Request) {
		w.Request, w.Base64 = strings.ToValidUTF8(w.Request, "\uFFFD"), a.Request
	}
	return encode(w)
}

func (a SignatureAudit) validate() error {
	if !slices.Contains([]string{AuditAllow, AuditDeny, AuditUnknown}, a.Action) {
		return fmt.Errorf("action %.80q is not known", a.Action)
	}
	if a.Code != "" && !auditCode.MatchString(a.Code) {
		return fmt.Errorf("code %.80q is not one", a.Code)
	}
	return validText("callerid", a.Caller, "site", a.Site, "reason", a.Reason, "request_id", a.RequestID,
		"agent", a.Agent, "agent_action", a.AgentAction, "token_id", a.TokenID, "signer_id", a.SignerID)
}

// DecodeSignatureAudit reads a record. Beyond the schema it accepts a request
// that is an object and not its text, as the existing signer writes it.
func DecodeSignatureAudit(b []byte) (SignatureAudit, error) {
	a, err := decodeSignatureAudit(b)
	if err != nil {
		return SignatureAudit{}, fmt.Errorf("signature audit: %w", err)
	}
	return a, nil
}

func decodeSignatureAudit(b []byte) (SignatureAudit, error) {
	var a SignatureAudit
	o, err := scanObject(b, auditDepth)
	if err != nil {
		return a, err
	}
	protocol, err := o.text("protocol")
	if err != nil {
		return a, err
	}
	if protocol != SignatureAuditName {
		return a, fmt.Errorf("protocol is %.80q, want %s", protocol, SignatureAuditName)
	}
	if !o.has("time") {
		return a, errors.New("no time")
	}
	if a.Time, err = decodeInteger(o["time"]); err != nil {
		return a, fmt.Errorf("time: %w", err)
	}
	for name, to := range map[string]*string{"callerid": &a.Caller, "action": &a.Action, "site": &a.Site} {
		if err := o.get(name, to); err != nil {
			return a, err
		}
	}
	if a.Request, err = o.request(); err != nil {
		return a, err
	}
	for name, to := range map[string]any{
		"caller_verified": &a.Verified, "code": &a.Code, "reason": &a.Reason, "request_id": &a.RequestID,
		"agent": &a.Agent, "agent_action": &a.AgentAction, "token_id": &a.TokenID, "signer_id": &a.SignerID,
	} {
		if err := o.maybe(name, to); err != nil {
			return a, err
		}
	}
	if a.Link, err = o.chain(); err != nil {
		return a, err
	}
	return a, a.validate()
}

// maybe reads a field that may be missing, but not be null.
func (o object) maybe(name string, to any) error {
	if _, ok := o[name]; !ok {
		return nil
	}
	return o.get(name, to)
}

// request reads what was to be signed: the bytes, the text, or an object.
func (o object) request() ([]byte, error) {
	if !o.has("request") {
		return nil, errors.New("no request")
	}
	raw := o["request"]
	if raw[0] == '{' {
		return raw, nil
	}
	var text string
	if err := o.get("request", &text); err != nil {
		return nil, err
	}
	if _, ok := o["request_base64"]; !ok {
		return []byte(text), nil
	}
	b, err := o.bytes("request_base64")
	if err != nil {
		return nil, err
	}
	if utf8.Valid(b) || strings.ToValidUTF8(string(b), "\uFFFD") != text {
		return nil, errors.New("request_base64 is another request than request")
	}
	return b, nil
}

// What an [AuditDecision] is about. Programs may add others: lower-case letters,
// digits and underscores.
const (
	AuditLogin      = "login"      // a person asked for a token
	AuditLogout     = "logout"     // a person gave a token back
	AuditConnection = "connection" // somebody wanted to connect to a broker
	AuditEnrolment  = "enrolment"  // a node asked for its identity
	AuditRevocation = "revocation" // a token, key or identity was declared invalid
)

var auditWhat = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// AuditDecision tells of a decision about who may do what, other than that of a
// signer, format io.weir.audit.v1.decision.
type AuditDecision struct {
	ID      string // of this event and of no other
	What    string // one of AuditLogin, ...
	Allow   bool
	Code    string // the decision in one word, as the other side was told: lower-case letters, digits and underscores
	Overlay string // in which it was decided
	Program string // that has decided
	Time    time.Time

	// Fields that may be empty.

	Reason       string // the decision in a sentence, for operators
	Party        string // whom it is about: "kind=name", or the identity of a node
	Verified     bool   // Party is proven, and not only claimed
	Organization string // of the party
	Method       string // how the party has proven itself, such as "password"
	Address      string // that the party comes from
	RequestID    string
	TokenID      string // of the token that was shown, made or revoked
	Key          string // public key that was shown, made or revoked, in hexadecimal digits
	By           string // who wanted it, where that is not the party: who has revoked a token
	Link         AuditLink
}

// auditEvent is an event of the audit on the wire.
type auditEvent struct {
	SpecVersion     string `json:"specversion"`
	ID              string `json:"id"`
	Source          string `json:"source"`
	Type            string `json:"type"`
	Subject         string `json:"subject,omitempty"`
	Time            string `json:"time"`
	DataContentType string `json:"datacontenttype"`
	Data            any    `json:"data"`
}

type decisionData struct {
	What         string     `json:"what"`
	Decision     string     `json:"decision"`
	Code         string     `json:"code"`
	Overlay      string     `json:"overlay"`
	Program      string     `json:"program"`
	Reason       string     `json:"reason,omitempty"`
	Party        string     `json:"party,omitempty"`
	Verified     bool       `json:"verified"`
	Organization string     `json:"organization,omitempty"`
	Method       string     `json:"method,omitempty"`
	Address      string     `json:"address,omitempty"`
	RequestID    string     `json:"request_id,omitempty"`
	TokenID      string     `json:"token_id,omitempty"`
	Key          string     `json:"key,omitempty"`
	By           string     `json:"by,omitempty"`
	Chain        *chainData `json:"chain,omitempty"`
}

func (d AuditDecision) source() string {
	return "/overlays/" + url.PathEscape(d.Overlay) + "/programs/" + url.PathEscape(d.Program)
}

// Chain is the place of the event.
func (d AuditDecision) Chain() AuditLink { return d.Link }

// Linked writes the event with another place.
func (d AuditDecision) Linked(l AuditLink) ([]byte, error) {
	d.Link = l
	return d.Encode()
}

// Encode writes the event as a CloudEvent 1.0 in structured JSON. Equal events
// give equal bytes. It fails when a field is missing or not UTF-8, or when its
// party is said to be proven and not named.
func (d AuditDecision) Encode() ([]byte, error) {
	chain, err := encodeChain(d.Link)
	if err = errors.Join(d.validate(), err); err != nil {
		return nil, fmt.Errorf("audit decision: %w", err)
	}
	decision := AuditDeny
	if d.Allow {
		decision = AuditAllow
	}
	return encode(auditEvent{
		SpecVersion: "1.0", ID: d.ID, Source: d.source(), Type: AuditDecisionName, Subject: d.Party, Time: formatTime(d.Time),
		DataContentType: "application/json", Data: decisionData{
			d.What, decision, d.Code, d.Overlay, d.Program, d.Reason, d.Party, d.Verified, d.Organization,
			d.Method, d.Address, d.RequestID, d.TokenID, d.Key, d.By, chain,
		},
	})
}

func (d AuditDecision) validate() error {
	switch {
	case d.ID == "" || d.Overlay == "" || d.Program == "":
		return errors.New("id, overlay or program is empty")
	case !auditWhat.MatchString(d.What):
		return fmt.Errorf("what %.80q is not the name of a decision", d.What)
	case !auditCode.MatchString(d.Code):
		return fmt.Errorf("code %.80q is not one", d.Code)
	case d.Verified && d.Party == "":
		return errors.New("a party without a name is said to be proven")
	}
	if err := writableTime(d.Time); err != nil {
		return err
	}
	return validText("id", d.ID, "overlay", d.Overlay, "program", d.Program, "reason", d.Reason, "party", d.Party,
		"organization", d.Organization, "method", d.Method, "address", d.Address, "request_id", d.RequestID,
		"token_id", d.TokenID, "key", d.Key, "by", d.By)
}

func writableTime(t time.Time) error {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return fmt.Errorf("year %d in UTC cannot be written in RFC 3339", y)
	}
	return nil
}

// DecodeAuditDecision reads the event that Encode wrote. It refuses an event
// whose attributes do not agree with its data.
func DecodeAuditDecision(b []byte) (AuditDecision, error) {
	d, err := decodeAuditDecision(b)
	if err != nil {
		return AuditDecision{}, fmt.Errorf("audit decision: %w", err)
	}
	return d, nil
}

func decodeAuditDecision(b []byte) (AuditDecision, error) {
	var d AuditDecision
	event, data, err := auditParts(b, AuditDecisionName)
	if err != nil {
		return d, err
	}
	var decision string
	for name, to := range map[string]*string{
		"what": &d.What, "decision": &decision, "code": &d.Code, "overlay": &d.Overlay, "program": &d.Program,
	} {
		if *to, err = data.text(name); err != nil {
			return d, err
		}
	}
	if d.Allow = decision == AuditAllow; !d.Allow && decision != AuditDeny {
		return d, fmt.Errorf("decision %.80q is not known", decision)
	}
	for name, to := range map[string]any{
		"reason": &d.Reason, "party": &d.Party, "verified": &d.Verified, "organization": &d.Organization, "method": &d.Method,
		"address": &d.Address, "request_id": &d.RequestID, "token_id": &d.TokenID, "key": &d.Key, "by": &d.By,
	} {
		if err := data.maybe(name, to); err != nil {
			return d, err
		}
	}
	if d.Link, err = data.chain(); err != nil {
		return d, err
	}
	if d.ID, err = event.text("id"); err != nil {
		return d, err
	}
	if err := event.get("time", &d.Time); err != nil {
		return d, err
	}
	var subject string
	if err := errors.Join(d.validate(), event.maybe("subject", &subject)); err != nil {
		return d, err
	}
	if subject != d.Party {
		return d, fmt.Errorf("subject is %.80q and the party is %.80q", subject, d.Party)
	}
	return d, event.attribute("source", d.source())
}

// auditParts splits an event of a type into its attributes and its data.
func auditParts(b []byte, name string) (event, data object, err error) {
	if event, err = scanObject(b, auditDepth); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(event.attribute("specversion", "1.0"), event.attribute("type", name)); err != nil {
		return nil, nil, err
	}
	data, err = event.inner("data")
	return event, data, err
}

// attribute checks that an attribute has a value.
func (o object) attribute(name, want string) error {
	got, err := o.text(name)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %.80q, want %q", name, got, want)
	}
	return err
}

// AuditCheckpoint is where a program vouches with its key for all records of its
// chain up to this one, format io.weir.audit.v1.checkpoint. It is a record of the
// chain itself.
type AuditCheckpoint struct {
	Link      AuditLink
	Time      time.Time
	Key       [32]byte // ed25519 public key of the program
	Token     string   // of the program, by which others learn whose key it is; may be ""
	Signature [64]byte // of Signed by Key
}

type checkpointData struct {
	PublicKey string     `json:"public_key"`
	Token     string     `json:"token,omitempty"`
	Signature string     `json:"signature"`
	Chain     *chainData `json:"chain"`
}

// Signed is what Signature is made of: name of the format, signer in quotes,
// sequence, previous, time, key and token in a line each.
func (c AuditCheckpoint) Signed() []byte {
	return fmt.Appendf(nil, "%s\n%q\n%d\n%x\n%s\n%x\n%s\n", AuditCheckpointName,
		c.Link.Signer, c.Link.Sequence, c.Link.Previous, formatTime(c.Time), c.Key, c.Token)
}

// ID identifies the event: 32 hexadecimal digits that follow from what is signed.
func (c AuditCheckpoint) ID() string {
	sum := sha256.Sum256(c.Signed())
	return hex.EncodeToString(sum[:16])
}

func (c AuditCheckpoint) source() string { return "/signers/" + url.PathEscape(c.Link.Signer) }

// Chain is the place of the event.
func (c AuditCheckpoint) Chain() AuditLink { return c.Link }

// Linked writes the event with another place, for which it has to be signed anew.
func (c AuditCheckpoint) Linked(l AuditLink) ([]byte, error) {
	c.Link = l
	return c.Encode()
}

// Encode writes the event as a CloudEvent 1.0 in structured JSON. Equal events
// give equal bytes. Whether the signature is right is not checked.
func (c AuditCheckpoint) Encode() ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("audit checkpoint: %w", err)
	}
	chain, err := encodeChain(c.Link)
	if err != nil {
		return nil, fmt.Errorf("audit checkpoint: %w", err)
	}
	return encode(auditEvent{
		SpecVersion: "1.0", ID: c.ID(), Source: c.source(), Type: AuditCheckpointName, Subject: c.Link.Signer, Time: formatTime(c.Time),
		DataContentType: "application/json", Data: checkpointData{
			hex.EncodeToString(c.Key[:]), c.Token, hex.EncodeToString(c.Signature[:]), chain,
		},
	})
}

func (c AuditCheckpoint) validate() error {
	for _, r := range c.Token { // a token is three parts in base64 with full stops between them
		if r <= ' ' || r > '~' {
			return errors.New("token has characters that none has")
		}
	}
	return errors.Join(c.Link.validate(), writableTime(c.Time))
}

// DecodeAuditCheckpoint reads the event that Encode wrote, and does not check its
// signature. It refuses an event whose attributes do not agree with its data.
func DecodeAuditCheckpoint(b []byte) (AuditCheckpoint, error) {
	c, err := decodeAuditCheckpoint(b)
	if err != nil {
		return AuditCheckpoint{}, fmt.Errorf("audit checkpoint: %w", err)
	}
	return c, nil
}

func decodeAuditCheckpoint(b []byte) (AuditCheckpoint, error) {
	var c AuditCheckpoint
	event, data, err := auditParts(b, AuditCheckpointName)
	if err != nil {
		return c, err
	}
	if c.Link, err = data.chain(); err != nil {
		return c, err
	}
	if err := errors.Join(
		data.hex("public_key", c.Key[:]), data.hex("signature", c.Signature[:]),
		data.maybe("token", &c.Token), event.get("time", &c.Time),
	); err != nil {
		return c, err
	}
	if err := c.validate(); err != nil {
		return c, err
	}
	return c, errors.Join(
		event.attribute("id", c.ID()), event.attribute("source", c.source()), event.attribute("subject", c.Link.Signer))
}

// DecodeAuditRecord reads a record of the audit, of any of its formats.
func DecodeAuditRecord(b []byte) (AuditRecord, error) {
	var head struct {
		Protocol string `json:"protocol"`
		Type     string `json:"type"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("audit record: not a JSON object: %w", err)
	}
	switch {
	case head.Protocol == SignatureAuditName:
		return DecodeSignatureAudit(b)
	case head.Type == AuditDecisionName:
		return DecodeAuditDecision(b)
	case head.Type == AuditCheckpointName:
		return DecodeAuditCheckpoint(b)
	}
	return nil, fmt.Errorf("audit record: neither protocol %.80q nor type %.80q is one of the audit", head.Protocol, head.Type)
}
