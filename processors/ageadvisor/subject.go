package ageadvisor

import (
	"crypto/sha256"
	"encoding/hex"
)

// maxToken bounds what a key takes of a subject, in bytes.
const maxToken = 512

// Subject is where the advisory of an event about a key is stored:
//
//	advisories.<overlay>.<event>.<key>
//
// A key that can stand in a subject does so as it is, its full stops included. In
// others, each byte that cannot is a percent sign and two hexadecimal digits in
// upper case, as in a URL: controls, spaces, "*", ">", "%" itself, all that is
// not ASCII, and a full stop that would leave a token empty. What is longer than
// 512 bytes then is "%sha256." and the SHA-256 of the key, 64 hexadecimal digits.
// Two keys never share a subject, and the body of the advisory has the key itself.
func Subject(overlay, event, key string) string {
	return "advisories." + overlay + "." + event + "." + token(key)
}

// token is the form of a key in a subject.
func token(key string) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(key))
	for i := range len(key) {
		if c := key[i]; stands(key, i) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	if len(b) > maxToken {
		sum := sha256.Sum256([]byte(key))
		return "%sha256." + hex.EncodeToString(sum[:])
	}
	return string(b)
}

// stands says whether the byte at i can stand in a subject as it is.
func stands(key string, i int) bool {
	switch c := key[i]; c {
	case '*', '>', '%':
		return false
	case '.':
		return i > 0 && i < len(key)-1 && key[i-1] != '.'
	default:
		return c > ' ' && c < 0x7f
	}
}
