package authenticator

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// MaxRequest is the largest request, in bytes.
const MaxRequest = 32 << 10

// Request is what somebody who logs in sends: the request of Choria, with fields
// of our own below Signature. It holds secrets.
type Request struct {
	Username  string `json:"username,omitempty"`
	Password  string `json:"password,omitempty"`
	Timestamp string `json:"timestamp"`  // seconds since 1970
	PublicKey string `json:"public_key"` // hexadecimal digits; the token is bound to it
	Signature string `json:"signature"`  // hexadecimal digits

	OTP     string `json:"otp,omitempty"`      // code of the second factor
	IDToken string `json:"id_token,omitempty"` // of an OpenID provider, in place of name and password
	Salt    string `json:"salt,omitempty"`     // with which the nonce in IDToken was made, see [Nonce]
}

// Sign completes a request: it is made now, by the holder of key.
func (r Request) Sign(now time.Time, key ed25519.PrivateKey) Request {
	r.Timestamp = strconv.FormatInt(now.Unix(), 10)
	r.PublicKey = hex.EncodeToString(key.Public().(ed25519.PublicKey))
	r.Signature = hex.EncodeToString(ed25519.Sign(key, r.signed()))
	return r
}

// String does not tell what is in it.
func (r Request) String() string { return "[login]" }

// GoString is as String.
func (r Request) GoString() string { return r.String() }

// signed is what the signature is of. Without fields of our own it is that of Choria.
func (r Request) signed() []byte {
	if r.OTP == "" && r.IDToken == "" && r.Salt == "" {
		return []byte(r.Timestamp + ":" + r.Username + ":" + r.Password)
	}
	b, err := json.Marshal([]string{"weir.login.v1", r.Timestamp, r.Username, r.Password, r.OTP, r.IDToken, r.Salt})
	if err != nil {
		panic("authenticator: texts can be written as JSON: " + err.Error())
	}
	return b
}

// Nonce is what a client asks an OpenID provider to put into an id token, so that
// the token serves the holder of a key and nobody else. The salt is random text.
func Nonce(key ed25519.PublicKey, salt string) string {
	sum := sha256.Sum256([]byte("weir.login.v1\n" + hex.EncodeToString(key) + "\n" + salt))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// asked is a request that was read.
type asked struct {
	Request
	key  ed25519.PublicKey
	sig  []byte
	time time.Time
}

// parseRequest reads a request. Its errors repeat nothing of it.
func parseRequest(b []byte) (asked, error) {
	var a asked
	if len(b) > MaxRequest {
		return a, fmt.Errorf("%d bytes are more than %d", len(b), MaxRequest)
	}
	if err := json.Unmarshal(b, &a.Request); err != nil {
		return asked{}, errors.New("it is not the JSON of a login")
	}
	key, err := hex.DecodeString(a.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return asked{}, fmt.Errorf("public_key is not %d hexadecimal digits", hex.EncodedLen(ed25519.PublicKeySize))
	}
	sig, err := hex.DecodeString(a.Signature)
	if err != nil || len(sig) != ed25519.SignatureSize {
		return asked{}, fmt.Errorf("signature is not %d hexadecimal digits", hex.EncodedLen(ed25519.SignatureSize))
	}
	sec, err := strconv.ParseInt(a.Timestamp, 10, 64)
	if err != nil || sec < 0 || sec > 1<<40 {
		return asked{}, errors.New("timestamp is not seconds since 1970")
	}
	switch {
	case a.IDToken == "" && (a.Username == "" || a.Password == ""):
		return asked{}, errors.New("neither a name with a password nor an id token")
	case a.IDToken != "" && (a.Username != "" || a.Password != "" || a.OTP != ""):
		return asked{}, errors.New("both a name or password and an id token")
	case len(a.Password) > MaxPassword || len(a.Username) > 256 || len(a.OTP) > 16 || len(a.Salt) > 128:
		return asked{}, errors.New("a field is too long")
	}
	a.key, a.sig, a.time = key, sig, time.Unix(sec, 0)
	return a, nil
}
