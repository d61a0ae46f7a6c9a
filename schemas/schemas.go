// Package schemas holds the wire formats: for each one a JSON Schema, a Go
// type with Encode and Decode, and examples. What is encoded is valid under the
// schema. What is decoded may be less: documents as real Choria programs write
// them are accepted, and each Decode function says where it is tolerant.
//
// A released schema is frozen; a change makes a new version beside it. The
// package imports nothing but the standard library.
package schemas

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Names of the formats: what a document says in its protocol or type field,
// and what a stream declares as its schema.
const (
	// AdapterOutputName is the envelope of a node's message in a stream.
	AdapterOutputName = "choria:adapters:jetstream:output:1"
	// InventoryContentName is the packed inventory inside the envelope.
	InventoryContentName = "choria:registration:inventorycontent:1"
	// InventoryDataName is the inventory itself.
	InventoryDataName = "io.weir.registration.v1.inventorydata"
	// GapName is the event about messages that a stage could not handle.
	GapName = "io.weir.stage.v1.gap"
	// AgeAdvisoryName is the event about a node that is new, silent, back or gone.
	AgeAdvisoryName = "io.choria.sr.v2.age_advisory"
	// OverlaySilentName is the event about many nodes that went silent at once.
	OverlaySilentName = "io.weir.advisory.v1.overlay_silent"
)

// Files holds the schemas, one <path>.json for each [Format], and their
// examples: examples/<path>/good are valid and can be decoded, bad are neither,
// and tolerated are not valid but decoded all the same, because such documents
// are on the wire.
//
//go:embed choria sr weir examples
var Files embed.FS

// Format is one wire format.
type Format struct {
	Name    string // what documents and streams call it
	Path    string // of its schema in Files and below the base URL, without ".json"
	Summary string
}

var formats = []Format{ //nolint:gochecknoglobals // a table
	{AdapterOutputName, "choria/adapters/jetstream/v1/output", "A message of a node as it stands in a stream."},
	{InventoryContentName, "choria/registration/v1/inventorycontent", "The inventory of a node, packed."},
	{InventoryDataName, "weir/registration/v1/inventorydata", "What a node says about itself."},
	{GapName, "weir/stage/v1/gap", "Messages were removed before a stage could handle them."},
	{TransportName, "choria/protocol/v2/transport", "The outer envelope of a request or reply."},
	{SecureRequestName, "choria/protocol/v2/secure_request", "A request and who has signed it."},
	{RequestName, "choria/protocol/v2/request", "What somebody asks of nodes, and what nodes send unasked."},
	{SecureReplyName, "choria/protocol/v2/secure_reply", "A reply and who has signed it."},
	{ReplyName, "choria/protocol/v2/reply", "What a node answers."},
	{FileContentName, "choria/registration/v1/filecontent", "A file that a node publishes as it is."},
	{LifecycleStartupName, "choria/lifecycle/v1/startup", "A program has started and is connected."},
	{LifecycleAliveName, "choria/lifecycle/v1/alive", "A program still runs."},
	{LifecycleShutdownName, "choria/lifecycle/v1/shutdown", "A program is about to end, as it was told to."},
	{LifecycleProvisionedName, "choria/lifecycle/v1/provisioned", "A program was given its configuration and identity."},
	{LifecycleUpgradedName, "choria/lifecycle/v1/upgraded", "A program was replaced by another version."},
	{LifecycleGovernorName, "choria/lifecycle/v1/governor", "A program took or gave back a place under a governor."},
	{LifecycleReconnectName, "weir/lifecycle/v1/reconnect", "The connection of a program was lost and is back."},
	{LifecycleReloadName, "weir/lifecycle/v1/reload", "A program was told to read its configuration again."},
	{LifecycleSpoolFullName, "weir/lifecycle/v1/spool_full", "What a program keeps to send later has no more room."},
	{AgeAdvisoryName, "sr/v2/age_advisory", "A node is new, silent, back or gone."},
	{SignatureAuditName, "choria/signer/v1/signature_audit", "What somebody has asked a signer to sign, and what it said."},
	{AuditDecisionName, "weir/audit/v1/decision", "A decision about who may do what, other than that of a signer."},
	{AuditCheckpointName, "weir/audit/v1/checkpoint", "A program vouches for its records of the audit up to this one."},
	{ProvisioningName, "weir/provisioning/v1/step", "A step of how a node becomes a member of the fleet."},
	{OverlaySilentName, "weir/advisory/v1/overlay_silent", "Many nodes went silent at once, or are back."},
	{RevocationName, "weir/trust/v1/revocation", "A token, a key or the tokens of a party are not valid any more."},
}

// Formats lists all formats.
func Formats() []Format { return slices.Clone(formats) }

// Lookup finds a format by its name.
func Lookup(name string) (Format, bool) {
	i := slices.IndexFunc(formats, func(f Format) bool { return f.Name == name })
	if i < 0 {
		return Format{}, false
	}
	return formats[i], true
}

// URL is the $id of the schema.
func (f Format) URL() string { return "https://weirhq.io/schemas/" + f.Path + ".json" }

// Schema is the JSON Schema (draft 2020-12), or nil for a Format that is not
// one of [Formats].
func (f Format) Schema() []byte {
	b, err := Files.ReadFile(f.Path + ".json")
	if err != nil {
		return nil
	}
	return b
}

// object splits a JSON object into its fields. Unlike a struct, which
// encoding/json fills without regard to case, it takes names literally.
type object map[string]json.RawMessage

// decodeObject reads one JSON object and nothing after it.
func decodeObject(b []byte) (object, error) {
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if o == nil {
		return nil, errors.New("not a JSON object but null")
	}
	return o, nil
}

// has says whether a field is there with a value other than null.
func (o object) has(name string) bool {
	v, ok := o[name]
	return ok && !bytes.Equal(v, []byte("null"))
}

// get decodes one field, which must be there, into p.
func (o object) get(name string, p any) error {
	if !o.has(name) {
		return fmt.Errorf("no %s", name)
	}
	if err := json.Unmarshal(o[name], p); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// text returns a field that must be a string with at least one character.
func (o object) text(name string) (string, error) {
	var s string
	if err := o.get(name, &s); err != nil {
		return "", err
	}
	if s == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return s, nil
}

// encode is json.Marshal without the escapes that only HTML needs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
