package main

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/weirhq/weir/schemas"
)

// formats are the published schemas of a registration, from the outside in.
type formats struct {
	envelope, content, inventory *jsonschema.Schema
}

func newFormats() (formats, error) {
	var f formats
	for name, to := range map[string]**jsonschema.Schema{
		schemas.AdapterOutputName:    &f.envelope,
		schemas.InventoryContentName: &f.content,
		schemas.InventoryDataName:    &f.inventory,
	} {
		s, err := compile(name)
		if err != nil {
			return f, fmt.Errorf("schema %s: %w", name, err)
		}
		*to = s
	}
	return f, nil
}

// compile makes a schema that also checks formats and encodings.
func compile(name string) (*jsonschema.Schema, error) {
	format, ok := schemas.Lookup(name)
	if !ok {
		return nil, fmt.Errorf("not published")
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(format.Schema()))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource(format.URL(), doc); err != nil {
		return nil, err
	}
	return c.Compile(format.URL())
}

// registration is what the checks need to know of an event.
type registration struct {
	sender    string
	requestID string
	serial    uint64
}

// maxInventory is what the schema says that an inventory inflates to at most.
const maxInventory = 4 << 20

// open validates an event under all its schemas and returns what is inside.
func (f formats) open(data []byte) (registration, error) {
	var envelope struct {
		Sender    string `json:"sender"`
		RequestID string `json:"requestid"`
		Data      string `json:"data"`
	}
	if err := decode(f.envelope, data, &envelope); err != nil {
		return registration{}, fmt.Errorf("envelope: %w", err)
	}
	var content struct {
		ZContent []byte `json:"zcontent"`
		Content  []byte `json:"content"`
	}
	if err := decode(f.content, []byte(envelope.Data), &content); err != nil {
		return registration{}, fmt.Errorf("content: %w", err)
	}
	text := content.Content
	if content.ZContent != nil {
		var err error
		if text, err = inflate(content.ZContent); err != nil {
			return registration{}, fmt.Errorf("zcontent: %w", err)
		}
	}
	var inventory struct {
		Facts struct {
			Serial uint64 `json:"weir_serial"`
		} `json:"facts"`
		Status struct {
			Identity string `json:"identity"`
		} `json:"status"`
	}
	if err := decode(f.inventory, text, &inventory); err != nil {
		return registration{}, fmt.Errorf("inventory: %w", err)
	}
	r := registration{envelope.Sender, envelope.RequestID, inventory.Facts.Serial}
	if r.serial == 0 {
		return r, fmt.Errorf("inventory has no fact weir_serial")
	}
	if id := inventory.Status.Identity; id != "" && id != r.sender {
		return r, fmt.Errorf("inventory of %s was sent by %s", id, r.sender)
	}
	return r, nil
}

// decode validates a document and then reads it.
func decode(s *jsonschema.Schema, data []byte, to any) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if err := s.Validate(doc); err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}

func inflate(b []byte) ([]byte, error) {
	r, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, maxInventory+1))
	if err == nil && len(text) > maxInventory {
		err = fmt.Errorf("inflates to more than %d bytes", maxInventory)
	}
	return text, err
}
