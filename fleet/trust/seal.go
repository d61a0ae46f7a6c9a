package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/ksuid"
)

// Registration is what a node tells about itself, and what it signs that with.
type Registration struct {
	Identity   string
	Collective string
	Body       []byte             // an inventory in its published format
	Token      Token              // of the node; none leaves the registration unsigned
	Key        ed25519.PrivateKey // that the token is bound to; nil leaves the registration unsigned
}

// unsigned stands where a signature is asked for and there is none.
const unsigned = "insecure"

// registrationTTL is what nodes give their registrations, in seconds.
const registrationTTL = 60

// Seal packs a registration in its envelopes (request, secure request,
// transport), made now and with a fresh id, ready to be published. With token
// and key it is signed, and [VerifyRequest] accepts it where the token's issuer
// is trusted. It fails when something is missing, when only one of token and key
// is there, or when they do not belong to each other and to the identity.
func Seal(now time.Time, r Registration) ([]byte, error) {
	b, err := r.seal(now)
	if err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	return b, nil
}

func (r Registration) seal(now time.Time) ([]byte, error) {
	if r.Identity == "" || r.Collective == "" || len(r.Body) == 0 {
		return nil, errors.New("identity, collective or body is empty")
	}
	if now.UnixNano() < 1 {
		return nil, fmt.Errorf("time %s cannot be written", stamp(now))
	}
	if err := r.belongs(); err != nil {
		return nil, err
	}
	doc, err := json.Marshal(request{
		Protocol: protocolRequest, Message: r.Body, ID: newID(now), Sender: r.Identity, Caller: r.Identity,
		Collective: r.Collective, Agent: agentRegistration, TTL: registrationTTL, Time: now.UnixNano(),
		Filter: json.RawMessage(`{"fact":[],"cf_class":[],"agent":[],"identity":[],"compound":[]}`),
	})
	if err != nil {
		return nil, err
	}
	s := secureRequest{Protocol: protocolSecureRequest, Request: doc, Signature: []byte(unsigned), Caller: r.Identity}
	if r.Key != nil {
		s.Signature, s.Caller = ed25519.Sign(r.Key, doc), r.Token.text
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return json.Marshal(transport{protocolTransport, data, struct {
		Reply  string `json:"reply"`
		Sender string `json:"sender"`
	}{"dev.null", r.Identity}})
}

// belongs checks that token, key and identity are of one node, so that a
// mistake shows where it was made and not where messages are refused.
func (r Registration) belongs() error {
	if r.Key == nil && r.Token.IsZero() {
		return nil
	}
	if r.Key == nil || r.Token.IsZero() {
		return errors.New("want both token and key, or none")
	}
	if len(r.Key) != ed25519.PrivateKeySize {
		return fmt.Errorf("key of %d bytes, want %d", len(r.Key), ed25519.PrivateKeySize)
	}
	var c claims
	if err := unverified(r.Token, &c); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if c.Identity != r.Identity {
		return fmt.Errorf("the token is that of %.80q and not of %.80q", c.name(), r.Identity)
	}
	if !c.key.Equal(r.Key.Public()) {
		return fmt.Errorf("the token of %.80q is bound to another key", r.Identity)
	}
	return nil
}

// newID returns a KSUID: 27 letters and digits that sort by time, made of the time
// in seconds and 16 random bytes.
func newID(now time.Time) string {
	b := make([]byte, ksuidPayload)
	_, _ = rand.Read(b) // crypto/rand never fails
	return idOf(now, b)
}

// idOf makes the KSUID of a time and 16 bytes.
func idOf(now time.Time, payload []byte) string {
	id, err := ksuid.FromParts(now, payload)
	if err != nil {
		panic("trust: the payload of an id has another size: " + err.Error())
	}
	return id.String()
}
