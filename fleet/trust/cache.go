package trust

import (
	"crypto/sha256"
	"sync"
)

// cache remembers claims whose signatures were found right, by the hash of the
// token. It holds nothing that time or a revocation could make wrong. It has two
// generations: when the young one is full it becomes the old one, and what is
// found in the old one is young again.
type cache struct {
	size int // of a generation

	mu         sync.Mutex
	young, old map[[sha256.Size]byte]claims
}

// newCache makes a cache of about size tokens, and none for a size below 1.
func newCache(size int) *cache {
	if size < 1 {
		return nil
	}
	return &cache{size: (size + 1) / 2, young: map[[sha256.Size]byte]claims{}}
}

// empty returns an empty cache of the same size.
func (c *cache) empty() *cache {
	if c == nil {
		return nil
	}
	return newCache(2 * c.size)
}

// prove returns what is remembered about a token, or remembers what proof finds.
func (c *cache) prove(t Token, proof func(Token) (claims, error)) (claims, error) {
	if c == nil || len(t.text) > MaxToken {
		return proof(t)
	}
	id := sha256.Sum256([]byte(t.text))
	if found, ok := c.get(id); ok {
		return found, nil
	}
	found, err := proof(t)
	if err == nil {
		c.put(id, found)
	}
	return found, err
}

func (c *cache) get(id [sha256.Size]byte) (claims, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.young[id]
	if !ok {
		if found, ok = c.old[id]; ok {
			c.keep(id, found)
		}
	}
	return found, ok
}

func (c *cache) put(id [sha256.Size]byte, v claims) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(id, v)
}

func (c *cache) keep(id [sha256.Size]byte, v claims) {
	if len(c.young) >= c.size {
		c.young, c.old = map[[sha256.Size]byte]claims{}, c.young
	}
	c.young[id] = v
}
