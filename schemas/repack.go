package schemas

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
)

// InventoryRepacker makes what nodes send, format
// choria:registration:inventorycontent:1 as [DecodeInventoryContent] reads it,
// valid under the schema. It reuses its buffers. Calls must not overlap.
type InventoryRepacker struct {
	MaxDepth int // of nesting, of the document and of the inventory

	packed bytes.Reader
	data   bytes.Buffer
	gzip   *gzip.Reader
	zlib   io.ReadCloser
	enc    InventoryEncoder
}

// Repack returns the document unchanged if it is valid, and the same inventory
// packed with zlib if it is not, with these values for a missing mtime and file.
// What is gzip becomes zlib without compressing it again. JSON objects of another
// protocol are returned unchanged. It fails when the document or the inventory
// in it cannot be read, is nested too deeply, has more than [MaxInventory] bytes,
// or is followed by something in its compressed form.
func (r *InventoryRepacker) Repack(b []byte, mtime int64, file string) ([]byte, error) {
	o, err := scanObject(b, r.MaxDepth)
	if err != nil {
		return nil, err
	}
	var protocol string
	if err := o.optional("protocol", &protocol); err != nil {
		return nil, err
	}
	if protocol != InventoryContentName {
		return b, nil
	}
	out, err := r.repack(b, o, mtime, file)
	if err != nil {
		return nil, fmt.Errorf("inventory content: %w", err)
	}
	return out, nil
}

func (r *InventoryRepacker) repack(b []byte, o object, mtime int64, file string) ([]byte, error) {
	c := InventoryContent{MTime: mtime, File: file}
	var err error
	if o.has("mtime") {
		if c.MTime, err = decodeInteger(o["mtime"]); err != nil {
			return nil, fmt.Errorf("mtime: %w", err)
		}
	}
	if o.has("file") {
		if c.File, err = o.text("file"); err != nil {
			return nil, err
		}
	}
	complete := o.has("mtime") && o.has("file")
	if !o.has("zcontent") || o.has("content") {
		if c.Data, err = o.unpack(); err != nil {
			return nil, err
		}
		if err := r.check(c.Data); err != nil {
			return nil, err
		}
		if complete && o["content"][0] == '"' {
			return b, nil
		}
		return r.enc.Encode(c)
	}
	packed, err := o.bytes("zcontent")
	if err != nil {
		return nil, err
	}
	stream, err := r.stream(packed)
	if err != nil {
		return nil, fmt.Errorf("zcontent: %w", err)
	}
	if err := r.check(r.data.Bytes()); err != nil {
		return nil, err
	}
	if complete && len(stream) == len(packed) {
		return b, nil
	}
	return c.encode(stream)
}

// stream leaves the inventory in r.data and returns it as a zlib stream.
func (r *InventoryRepacker) stream(packed []byte) ([]byte, error) {
	r.packed.Reset(packed)
	isGzip := bytes.HasPrefix(packed, []byte{0x1f, 0x8b})
	z, err := r.open(isGzip)
	if err != nil {
		return nil, err
	}
	head := len(packed) - r.packed.Len()
	r.data.Reset()
	if _, err := r.data.ReadFrom(io.LimitReader(z, MaxInventory+1)); err != nil {
		return nil, err
	}
	if r.data.Len() > MaxInventory {
		return nil, ErrTooLarge
	}
	if r.packed.Len() > 0 {
		return nil, errors.New("something follows the compressed inventory")
	}
	if !isGzip {
		return packed, nil
	}
	// Both formats hold the same deflate stream, between another head and sum.
	const gzipTail = 8
	body := packed[head : len(packed)-gzipTail]
	stream := make([]byte, 0, len(body)+6)
	stream = append(stream, 0x78, 0x9c)
	stream = append(stream, body...)
	return binary.BigEndian.AppendUint32(stream, adler32.Checksum(r.data.Bytes())), nil
}

// open reads the head of r.packed and returns what inflates the rest.
func (r *InventoryRepacker) open(isGzip bool) (io.Reader, error) {
	var err error
	if isGzip {
		if r.gzip == nil {
			r.gzip = new(gzip.Reader)
		}
		if err = r.gzip.Reset(&r.packed); err != nil {
			return nil, err
		}
		r.gzip.Multistream(false)
		return r.gzip, nil
	}
	if r.zlib == nil {
		r.zlib, err = zlib.NewReader(&r.packed)
	} else {
		err = r.zlib.(zlib.Resetter).Reset(&r.packed, nil)
	}
	return r.zlib, err
}

func (r *InventoryRepacker) check(data []byte) error {
	if len(data) > MaxInventory {
		return ErrTooLarge
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
		return errors.New("the inventory is not a JSON object")
	}
	if err := ValidJSON(data, r.MaxDepth); err != nil {
		return fmt.Errorf("the inventory is %w", err)
	}
	return nil
}
