package schemas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// AdapterOutput is the envelope of a node's message in a stream, format
// choria:adapters:jetstream:output:1.
type AdapterOutput struct {
	Data      string // the payload; its own protocol field tells its format
	Sender    string // identity of the node
	Time      int64  // when it was made, in seconds since 1970 by the sender's clock
	RequestID string // unique among all messages of all senders
}

// adapterProtocols are read alike. The adapters of Choria write the second
// one whatever their type is; the third is of a former adapter.
var adapterProtocols = []string{ //nolint:gochecknoglobals // a table
	AdapterOutputName,
	"choria:adapters:choria_streams:output:1",
	"choria:adapters:natsstream:output:1",
}

// Encode writes the envelope. It fails when sender or request id is missing
// or a field is not UTF-8, which JSON could not carry unchanged.
func (a AdapterOutput) Encode() ([]byte, error) {
	for _, f := range []struct{ name, value string }{
		{"data", a.Data}, {"sender", a.Sender}, {"requestid", a.RequestID},
	} {
		if f.value == "" && f.name != "data" {
			return nil, fmt.Errorf("adapter output: %s is empty", f.name)
		}
		if !utf8.ValidString(f.value) {
			return nil, fmt.Errorf("adapter output: %s is not UTF-8", f.name)
		}
	}
	return encode(struct {
		Protocol  string `json:"protocol"`
		Data      string `json:"data"`
		Sender    string `json:"sender"`
		Time      int64  `json:"time"`
		RequestID string `json:"requestid"`
	}{AdapterOutputName, a.Data, a.Sender, a.Time, a.RequestID})
}

// DecodeAdapterOutput reads an envelope. Beyond the schema it accepts the
// protocol names of the other adapters of Choria and a time in RFC 3339, which
// is cut to whole seconds.
func DecodeAdapterOutput(b []byte) (AdapterOutput, error) {
	a, err := decodeAdapterOutput(b)
	if err != nil {
		return AdapterOutput{}, fmt.Errorf("adapter output: %w", err)
	}
	return a, nil
}

func decodeAdapterOutput(b []byte) (AdapterOutput, error) {
	var a AdapterOutput
	o, err := decodeObject(b)
	if err != nil {
		return a, err
	}
	protocol, err := o.text("protocol")
	if err != nil {
		return a, err
	}
	if !slices.Contains(adapterProtocols, protocol) {
		return a, fmt.Errorf("protocol %.80q is not known", protocol)
	}
	if err := o.get("data", &a.Data); err != nil {
		return a, err
	}
	if a.Sender, err = o.text("sender"); err != nil {
		return a, err
	}
	if a.RequestID, err = o.text("requestid"); err != nil {
		return a, err
	}
	if !o.has("time") {
		return a, errors.New("no time")
	}
	if a.Time, err = decodeTime(o["time"]); err != nil {
		return a, fmt.Errorf("time: %w", err)
	}
	return a, nil
}

// decodeTime reads seconds since 1970 or an RFC 3339 string.
func decodeTime(b json.RawMessage) (int64, error) {
	if bytes.HasPrefix(b, []byte(`"`)) {
		var t time.Time
		if err := json.Unmarshal(b, &t); err != nil {
			return 0, fmt.Errorf("want seconds since 1970 or RFC 3339: %w", err)
		}
		return t.Unix(), nil
	}
	return decodeInteger(b)
}

// decodeInteger reads what JSON Schema calls an integer: also 10.0 and 1e1, as
// long as a float64 holds it exactly.
func decodeInteger(b json.RawMessage) (int64, error) {
	if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		return n, nil
	}
	const exact = 1 << 53
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f < -exact || f > exact || f != float64(int64(f)) {
		return 0, fmt.Errorf("%.80s is not an integer", b)
	}
	return int64(f), nil
}
