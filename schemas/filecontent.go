package schemas

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
)

// FileContentName is the format of a file that a node publishes as it is.
const FileContentName = "choria:registration:filecontent:1"

// FileContent is a file that a node publishes as it is, format
// choria:registration:filecontent:1.
type FileContent struct {
	MTime   int64  // when the file was changed, in seconds since 1970
	File    string // its path
	Updated bool   // whether it was changed since it was last published
	Data    []byte // what is in it, at most MaxInventory bytes
}

// Encode packs the file with zlib. It fails when File is missing, or Data is
// empty or too large.
func (c FileContent) Encode() ([]byte, error) {
	if c.File == "" {
		return nil, errors.New("file content: file is empty")
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("file content: %w", err)
	}
	var packed bytes.Buffer
	z := zlib.NewWriter(&packed)
	if _, err := z.Write(c.Data); err != nil {
		return nil, fmt.Errorf("file content: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("file content: %w", err)
	}
	return encode(struct {
		Protocol string `json:"protocol"`
		MTime    int64  `json:"mtime"`
		File     string `json:"file"`
		Updated  bool   `json:"updated"`
		ZContent []byte `json:"zcontent"`
	}{FileContentName, c.MTime, c.File, c.Updated, packed.Bytes()})
}

func (c FileContent) check() error {
	if len(c.Data) > MaxInventory {
		return fmt.Errorf("the file is larger than %d bytes", MaxInventory)
	}
	if len(c.Data) == 0 {
		return errors.New("the file is empty")
	}
	return nil
}

// DecodeFileContent unpacks a file. Beyond the schema it accepts zcontent that
// is compressed with gzip, as Choria nodes send it. One of content and zcontent
// must be there and not both, because readers would not agree on which counts.
func DecodeFileContent(b []byte) (FileContent, error) {
	c, err := decodeFileContent(b)
	if err != nil {
		return FileContent{}, fmt.Errorf("file content: %w", err)
	}
	return c, nil
}

func decodeFileContent(b []byte) (FileContent, error) {
	var c FileContent
	o, err := decodeObject(b)
	if err != nil {
		return c, err
	}
	protocol, err := o.text("protocol")
	if err != nil {
		return c, err
	}
	if protocol != FileContentName {
		return c, fmt.Errorf("protocol %.80q is not known", protocol)
	}
	if !o.has("mtime") {
		return c, errors.New("no mtime")
	}
	if c.MTime, err = decodeInteger(o["mtime"]); err != nil {
		return c, fmt.Errorf("mtime: %w", err)
	}
	if c.File, err = o.text("file"); err != nil {
		return c, err
	}
	if o.has("updated") {
		if err := o.get("updated", &c.Updated); err != nil {
			return c, err
		}
	}
	if o.has("content") && o["content"][0] != '"' {
		return c, errors.New("content is not text")
	}
	if c.Data, err = o.unpack(); err != nil {
		return c, err
	}
	return c, c.check()
}
