package direct

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/weirhq/weir/schemas"
)

// factsName stands in the file field of the registration, which is the path
// of the facts file on nodes that have one.
const factsName = "weir:facts"

// template is an inventory in JSON without what differs from one registration
// to the next, so that a node costs no more than a copy and a compression.
type template struct {
	facts []byte // the facts after the serial: `,"a":1}`
	rest  []byte // the document after status and facts: `,"agents":[]}`
}

// newTemplate prepares an inventory. The status and the serial in it are left out.
func newTemplate(d schemas.InventoryData) (template, error) {
	facts := maps.Clone(d.Facts)
	delete(facts, schemas.FactSerial)
	d.Facts, d.Status = nil, schemas.Status{}
	doc, err := d.Encode()
	if err != nil {
		return template{}, err
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(doc, &parts); err != nil {
		return template{}, err
	}
	delete(parts, "facts")
	delete(parts, "status")
	var t template
	if t.rest, err = tail(parts); err != nil {
		return template{}, err
	}
	if t.facts, err = tail(facts); err != nil {
		return template{}, err
	}
	return t, nil
}

// tail is a JSON object without its opening brace, to go on an object that has
// a field already.
func tail(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if string(b) == "{}" || string(b) == "null" {
		return []byte("}"), nil
	}
	b[0] = ','
	return b, nil
}

// append writes the inventory of one node to b. The identity is valid, so it
// needs no escapes.
func (t template) append(b []byte, identity string, serial uint64, uptime time.Duration) []byte {
	b = append(b, `{"status":{"identity":"`...)
	b = append(b, identity...)
	b = append(b, `","uptime":`...)
	b = strconv.AppendInt(b, int64(uptime/time.Second), 10)
	b = append(b, `,"last_message":0,"provisioning_mode":false},"facts":{"`+schemas.FactSerial+`":`...)
	b = strconv.AppendUint(b, serial, 10)
	b = append(b, t.facts...)
	return append(b, t.rest...)
}

// registration is a document that is ready to be published.
type registration struct {
	identity  string
	requestID string
	serial    uint64
	doc       []byte
}

// packer makes registrations, one after the other, with the same buffers.
type packer struct {
	inventory []byte
	enc       schemas.InventoryEncoder
}

// registration makes the document of one node: the envelope around the packed
// inventory.
func (p *packer) registration(t template, identity string, serial uint64, start, now time.Time) (registration, error) {
	p.inventory = t.append(p.inventory[:0], identity, serial, now.Sub(start))
	content, err := p.enc.Encode(schemas.InventoryContent{MTime: now.Unix(), File: factsName, Data: p.inventory})
	if err != nil {
		return registration{}, err
	}
	id := newRequestID()
	doc, err := schemas.AdapterOutput{Data: string(content), Sender: identity, Time: now.Unix(), RequestID: id}.Encode()
	if err != nil {
		return registration{}, fmt.Errorf("registration: %w", err)
	}
	return registration{identity, id, serial, doc}, nil
}

// newRequestID returns 32 random hexadecimal digits.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	return hex.EncodeToString(b[:])
}
