package schemas

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxInventory is the largest inventory that is packed or unpacked, in bytes
// of JSON.
const MaxInventory = 4 << 20

// ErrTooLarge says that an inventory has more than MaxInventory bytes.
var ErrTooLarge = fmt.Errorf("inventory is larger than %d bytes", MaxInventory)

// InventoryContent is a packed inventory, format
// choria:registration:inventorycontent:1.
type InventoryContent struct {
	MTime int64           // when the inventory was gathered, in seconds since 1970; 0 when a reader was not told
	File  string          // file that the facts come from, or a name for another source; "" when a reader was not told
	Data  json.RawMessage // the inventory: a JSON object, see [DecodeInventoryData]
}

// Encode packs the inventory with zlib. It fails when File is missing, Data
// is not a JSON object, or Data is too large.
func (c InventoryContent) Encode() ([]byte, error) {
	var e InventoryEncoder
	return e.Encode(c)
}

// InventoryEncoder packs one inventory after the other with the same buffers,
// which are large compared with an inventory. The zero value is ready for use.
// Calls must not overlap.
type InventoryEncoder struct {
	packed bytes.Buffer
	z      *zlib.Writer
}

// Encode is as [InventoryContent.Encode].
func (e *InventoryEncoder) Encode(c InventoryContent) ([]byte, error) {
	if c.File == "" {
		return nil, errors.New("inventory content: file is empty")
	}
	if err := checkInventory(c.Data); err != nil {
		return nil, fmt.Errorf("inventory content: %w", err)
	}
	e.packed.Reset()
	if e.z == nil {
		e.z = zlib.NewWriter(&e.packed)
	} else {
		e.z.Reset(&e.packed)
	}
	if _, err := e.z.Write(c.Data); err != nil {
		return nil, fmt.Errorf("inventory content: %w", err)
	}
	if err := e.z.Close(); err != nil {
		return nil, fmt.Errorf("inventory content: %w", err)
	}
	return c.encode(e.packed.Bytes())
}

// encode writes the document around an inventory that was packed with zlib.
func (c InventoryContent) encode(packed []byte) ([]byte, error) {
	return encode(struct {
		Protocol string `json:"protocol"`
		MTime    int64  `json:"mtime"`
		File     string `json:"file"`
		ZContent []byte `json:"zcontent"` // encoding/json writes it in base64
	}{InventoryContentName, c.MTime, c.File, packed})
}

// DecodeInventoryContent unpacks an inventory. Beyond the schema it accepts
// what Choria nodes send: content as a plain JSON object, zcontent compressed
// with gzip, and a document without mtime or file. One of content and zcontent
// must be there and not both, because readers would not agree on which counts.
func DecodeInventoryContent(b []byte) (InventoryContent, error) {
	c, err := decodeInventoryContent(b)
	if err != nil {
		return InventoryContent{}, fmt.Errorf("inventory content: %w", err)
	}
	return c, nil
}

func decodeInventoryContent(b []byte) (InventoryContent, error) {
	var c InventoryContent
	o, err := decodeObject(b)
	if err != nil {
		return c, err
	}
	protocol, err := o.text("protocol")
	if err != nil {
		return c, err
	}
	if protocol != InventoryContentName {
		return c, fmt.Errorf("protocol %.80q is not known", protocol)
	}
	if o.has("mtime") {
		if c.MTime, err = decodeInteger(o["mtime"]); err != nil {
			return c, fmt.Errorf("mtime: %w", err)
		}
	}
	if o.has("file") {
		if c.File, err = o.text("file"); err != nil {
			return c, err
		}
	}
	if c.Data, err = o.unpack(); err != nil {
		return c, err
	}
	return c, checkInventory(c.Data)
}

// unpack returns the inventory from whichever field holds it.
func (o object) unpack() ([]byte, error) {
	switch content, zcontent := o.has("content"), o.has("zcontent"); {
	case content && zcontent:
		return nil, errors.New("both content and zcontent")
	case zcontent:
		var packed []byte // encoding/json reads it from base64
		if err := o.get("zcontent", &packed); err != nil {
			return nil, err
		}
		data, err := inflate(packed)
		if err != nil {
			return nil, fmt.Errorf("zcontent: %w", err)
		}
		return data, nil
	case content && o["content"][0] == '{':
		return o["content"], nil
	case content:
		var data []byte
		err := o.get("content", &data)
		return data, err
	default:
		return nil, errors.New("neither content nor zcontent")
	}
}

// inflate undoes gzip or zlib, whichever b begins with. It gives up as soon
// as there is too much.
func inflate(b []byte) ([]byte, error) {
	var r io.Reader
	var err error
	if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
		r, err = gzip.NewReader(bytes.NewReader(b))
	} else {
		r, err = zlib.NewReader(bytes.NewReader(b))
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxInventory+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxInventory {
		return nil, ErrTooLarge
	}
	return data, nil
}

func checkInventory(data []byte) error {
	if len(data) > MaxInventory {
		return ErrTooLarge
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) || !json.Valid(data) {
		return errors.New("the inventory is not a JSON object")
	}
	return nil
}

// InventoryData is what a node says about itself, format
// io.weir.registration.v1.inventorydata, which is what Choria nodes send.
type InventoryData struct {
	Agents  []Agent  `json:"agents"`
	Classes []string `json:"classes"` // roles from configuration management
	// Facts describe the machine. Numbers are decoded as json.Number, so none
	// loses digits.
	Facts       map[string]any `json:"facts"`
	Status      Status         `json:"status"`
	Collectives []string       `json:"collectives"` // groups of nodes
	BuildInfo   BuildInfo      `json:"build_info"`
	Machines    []Machine      `json:"machines"`
}

// FactSerial is the fact that counts the registrations of a node upwards,
// across restarts too.
const FactSerial = "weir_serial"

// Agent is a set of actions that can be called on a node.
type Agent struct {
	Name        string `json:"name"`
	Version     string `json:"version,omitempty"`
	Timeout     int64  `json:"timeout,omitempty"` // seconds
	Author      string `json:"author,omitempty"`
	License     string `json:"license,omitempty"`
	URL         string `json:"url,omitempty"`
	Description string `json:"description,omitempty"`
	Provider    string `json:"provider,omitempty"`
	Service     bool   `json:"service,omitempty"`
}

// Machine is an autonomous agent and the state it is in.
type Machine struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	State   string `json:"state,omitempty"`
}

// BuildInfo is the version of the node's program.
type BuildInfo struct {
	Version string `json:"version,omitempty"`
	SHA     string `json:"sha,omitempty"`
}

// Status is how the node's program fares.
type Status struct {
	Identity           string           `json:"identity,omitempty"`
	Uptime             int64            `json:"uptime"` // of the program, in seconds
	ConnectedServer    string           `json:"connected_server,omitempty"`
	LastMessage        int64            `json:"last_message"` // last request received, in seconds since 1970; 0 is never
	ProvisioningMode   bool             `json:"provisioning_mode"`
	Stats              map[string]int64 `json:"stats,omitempty"` // counters of requests
	CertificateExpires time.Time        `json:"certificate_expires,omitzero"`
	TokenExpires       time.Time        `json:"token_expires,omitzero"`
}

// Encode writes the inventory as JSON. Lists that are nil become empty ones.
// It fails when a fact cannot be written as JSON or an agent or machine has no
// name.
func (d InventoryData) Encode() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, fmt.Errorf("inventory data: %w", err)
	}
	if d.Agents == nil {
		d.Agents = []Agent{}
	}
	if d.Classes == nil {
		d.Classes = []string{}
	}
	if d.Facts == nil {
		d.Facts = map[string]any{}
	}
	if d.Collectives == nil {
		d.Collectives = []string{}
	}
	if d.Machines == nil {
		d.Machines = []Machine{}
	}
	b, err := encode(d)
	if err != nil {
		return nil, fmt.Errorf("inventory data: %w", err)
	}
	return b, nil
}

// DecodeInventoryData reads an inventory. Parts that are missing or null are
// left empty, and parts that it does not know are passed over.
func DecodeInventoryData(b []byte) (InventoryData, error) {
	if err := checkInventory(b); err != nil {
		return InventoryData{}, fmt.Errorf("inventory data: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var d InventoryData
	err := dec.Decode(&d)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return InventoryData{}, fmt.Errorf("inventory data: %w", err)
	}
	return d, nil
}

// check finds what the types leave open.
func (d InventoryData) check() error {
	for i, a := range d.Agents {
		if a.Name == "" {
			return fmt.Errorf("agent %d has no name", i)
		}
	}
	for i, m := range d.Machines {
		if m.Name == "" {
			return fmt.Errorf("machine %d has no name", i)
		}
	}
	return nil
}
