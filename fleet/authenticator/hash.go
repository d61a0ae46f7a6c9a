package authenticator

import (
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// What a new hash costs: 19 MiB and two passes, some 20 ms of one core.
const (
	newMemory  = 19 << 10 // KiB
	newPasses  = 2
	newThreads = 1
	newSalt    = 16 // bytes
	newSum     = 32 // bytes
)

// What a hash in a user file may cost, so that one line cannot stop a host.
const (
	mostMemory = 256 << 10 // KiB
	mostPasses = 16
	mostCost   = 15 // of bcrypt
)

// MaxPassword is the longest password, in bytes.
const MaxPassword = 1024

// HashPassword makes the argon2id hash of a password, in the form in which the
// user file has it. The random bytes become its salt.
func HashPassword(random io.Reader, password string) (string, error) {
	if password == "" || len(password) > MaxPassword {
		return "", fmt.Errorf("want a password of 1 to %d bytes", MaxPassword)
	}
	salt := make([]byte, newSalt)
	if _, err := io.ReadFull(random, salt); err != nil {
		return "", fmt.Errorf("random bytes: %w", err)
	}
	h := hash{memory: newMemory, passes: newPasses, threads: newThreads, salt: salt}
	h.sum = h.argon(password, newSum)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, h.memory, h.passes, h.threads, b64.EncodeToString(h.salt), b64.EncodeToString(h.sum)), nil
}

// hash is one of a password: of argon2id, or of bcrypt if that is there.
type hash struct {
	bcrypt         []byte
	memory, passes uint32
	threads        uint8
	salt, sum      []byte
}

// parseHash reads the two forms. Its errors do not repeat the hash.
func parseHash(s string) (hash, error) {
	if strings.HasPrefix(s, "$2") {
		cost, err := bcrypt.Cost([]byte(s))
		if err != nil {
			return hash{}, errors.New("not a hash of bcrypt")
		}
		if cost > mostCost {
			return hash{}, fmt.Errorf("cost %d of bcrypt, want %d at most", cost, mostCost)
		}
		return hash{bcrypt: []byte(s)}, nil
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return hash{}, errors.New("neither a hash of bcrypt nor one of argon2id; make one with: weir login hash")
	}
	var h hash
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return hash{}, fmt.Errorf("argon2id: version other than %d", argon2.Version)
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.passes, &h.threads); err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.passes, h.threads) {
		return hash{}, errors.New("argon2id: parameters are not m=,t=,p=")
	}
	if h.threads < 1 || h.passes < 1 || h.passes > mostPasses || h.memory < 8*uint32(h.threads) || h.memory > mostMemory {
		return hash{}, fmt.Errorf("argon2id: m=%d,t=%d,p=%d is out of bounds, want m up to %d and t up to %d", h.memory, h.passes, h.threads, mostMemory, mostPasses)
	}
	var err, err2 error
	h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.sum, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err != nil || err2 != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.sum) < 16 || len(h.sum) > 64 {
		return hash{}, errors.New("argon2id: salt or sum is not base64 of a usual length")
	}
	return h, nil
}

func (h hash) argon(password string, size int) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.passes, h.memory, h.threads, uint32(size))
}

// matches costs the same whether it does or not.
func (h hash) matches(password string) bool {
	if h.bcrypt != nil {
		return bcrypt.CompareHashAndPassword(h.bcrypt, []byte(password)) == nil
	}
	return subtle.ConstantTimeCompare(h.argon(password, len(h.sum)), h.sum) == 1
}

// nobody is what the password of an unknown user is compared with where no user
// is known.
func nobody() hash {
	return hash{memory: newMemory, passes: newPasses, threads: newThreads, salt: make([]byte, newSalt), sum: make([]byte, newSum)}
}
