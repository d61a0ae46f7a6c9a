package main

import (
	"bytes"
	"compress/zlib"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/weirhq/weir/fleet/trust"
	"github.com/weirhq/weir/schemas"
)

// fleetNodes is how many nodes the registrations are of, one after the other.
const fleetNodes = 2000

// factBytes is the size of a node's inventory.
const factBytes = 20_600

// collective is the one that all nodes belong to, and organization the one whose
// issuer stands behind them.
const (
	collective   = "bench"
	organization = "bench"
)

// fleet is nodes that register: each with a key and a token of its own, and
// inventories of its own.
type fleet struct {
	issuer ed25519.PublicKey
	nodes  []node
	packed int // bytes of an inventory, compressed; that of the first node
}

type node struct {
	identity string
	key      ed25519.PrivateKey
	token    trust.Token
	zcontent string // inventory, compressed and in base64
}

func newFleet(n int, now time.Time) (*fleet, error) {
	issuer := keyOf("issuer")
	f := &fleet{issuer: issuer.Public().(ed25519.PublicKey)}
	for i := range n {
		nd := node{identity: fmt.Sprintf("n%05d.cell.example.net", i), key: keyOf(fmt.Sprint("node ", i))}
		text, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"purpose": "choria_server", "identity": nd.identity, "collectives": []string{collective}, "ou": organization,
			"public_key": hex.EncodeToString(nd.key.Public().(ed25519.PublicKey)), "jti": fmt.Sprintf("token-%05d", i), "iss": "I-" + hex.EncodeToString(f.issuer),
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(),
			"permissions": map[string]bool{"submission": true}, "pub_subjects": []string{}, "sub_subjects": []string{},
		}).SignedString(issuer)
		if err != nil {
			return nil, err
		}
		nd.token = trust.NewToken(text)
		packed, err := pack(inventory(i))
		if err != nil {
			return nil, err
		}
		if i == 0 {
			f.packed = len(packed)
		}
		nd.zcontent = base64.StdEncoding.EncodeToString(packed)
		f.nodes = append(f.nodes, nd)
	}
	return f, nil
}

// keyOf makes the same key for the same name.
func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("weir bench stages " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// inventory is what a node says about itself: facts of which most are alike on
// all machines, and some are its own.
func inventory(i int) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 20))
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"agents":[{"agent":"rpcutil","version":"1.0.0"}],"classes":["base","monitoring"],"collectives":[%q],"facts":{"hostname":"n%05d"`, collective, i)
	for k := 0; b.Len() < factBytes-100; k++ {
		switch k % 5 {
		case 0:
			fmt.Fprintf(&b, `,"networking.interfaces.eth%d.bindings":{"address":"10.%d.%d.%d","netmask":"255.255.255.0"}`, k, r.IntN(256), r.IntN(256), r.IntN(256))
		case 1:
			fmt.Fprintf(&b, `,"disks.sd%d":{"model":"Virtual disk","size":"%d GiB","size_bytes":%d}`, k, 20+k, r.Int64N(1<<40))
		case 2:
			fmt.Fprintf(&b, `,"mountpoints./srv/volume%d":{"available":"%d.%02d GiB","capacity":"%d.%02d%%","filesystem":"xfs","options":["rw","relatime"]}`, k, r.IntN(900), r.IntN(100), r.IntN(100), r.IntN(100))
		case 3:
			fmt.Fprintf(&b, `,"processors.models.%d":"Example CPU of the machine with a name of usual length @ 2.40GHz"`, k)
		default:
			fmt.Fprintf(&b, `,"service.%d.state":"running","service.%d.checksum":"%08x"`, k, k, r.Uint32())
		}
	}
	fmt.Fprintf(&b, `},"status":{"identity":"n%05d","uptime":%d}}`, i, r.IntN(1e6))
	return b.Bytes()
}

func pack(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	err := z.Close()
	return b.Bytes(), err
}

// of is the node that message n comes from.
func (f *fleet) of(n int) *node { return &f.nodes[n%len(f.nodes)] }

// body is the inventory of message n, which is marked by the time at which it was
// gathered.
func (f *fleet) body(n int) string {
	return fmt.Sprintf(`{"protocol":%q,"mtime":%d,"file":"/etc/facts.json","zcontent":%q}`, schemas.InventoryContentName, n+1, f.of(n).zcontent)
}

// seal makes the signed registrations 0 to n-1.
func (f *fleet) seal(n int, now time.Time) ([][]byte, error) {
	out := make([][]byte, n)
	for i := range out {
		nd := f.of(i)
		var err error
		if out[i], err = trust.Seal(now, trust.Registration{
			Identity: nd.identity, Collective: collective, Body: []byte(f.body(i)), Token: nd.token, Key: nd.key,
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// stored is given what a stream holds of registrations, in its order, and finds
// what is not as it was sent.
type stored struct {
	fleet *fleet
	seen  []bool
	last  map[string]int // number of the newest message of each sender, plus one
}

func newStored(f *fleet, n int) *stored {
	return &stored{fleet: f, seen: make([]bool, n), last: make(map[string]int)}
}

// add takes the next message.
func (s *stored) add(subject string, data []byte) error {
	var out struct {
		Protocol, Data, Sender, RequestID string
		Time                              int64
	}
	var inner struct{ MTime int }
	if err := json.Unmarshal(data, &out); err != nil {
		return fmt.Errorf("on %s: %w", subject, err)
	}
	if err := json.Unmarshal([]byte(out.Data), &inner); err != nil {
		return fmt.Errorf("on %s: %w", subject, err)
	}
	n := inner.MTime - 1
	switch {
	case n < 0 || n >= len(s.seen):
		return fmt.Errorf("message %d on %s was never sent", n, subject)
	case out.Protocol != schemas.AdapterOutputName || out.RequestID == "" || out.Time == 0:
		return fmt.Errorf("message %d: %.200s", n, data)
	case out.Sender != s.fleet.of(n).identity || subject != "registration.cell."+out.Sender:
		return fmt.Errorf("message %d of %s came on %s, from %s", n, s.fleet.of(n).identity, subject, out.Sender)
	case out.Data != s.fleet.body(n):
		return fmt.Errorf("message %d was changed", n)
	case s.seen[n]:
		return fmt.Errorf("message %d came twice", n)
	case s.last[out.Sender] > n:
		return fmt.Errorf("message %d came after %d of the same sender", n, s.last[out.Sender]-1)
	}
	s.seen[n] = true
	s.last[out.Sender] = n + 1
	return nil
}

// missing is how many were not added.
func (s *stored) missing() int {
	n := 0
	for _, ok := range s.seen {
		if !ok {
			n++
		}
	}
	return n
}
