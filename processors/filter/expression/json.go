package expression

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strconv"
	"time"
)

// Decode reads one JSON value. Whole numbers that fit 64 bits become an int,
// others a float64.
func Decode(b []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	switch err := dec.Decode(&v); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows the value")
	}
	return numbers(v)
}

// numbers replaces the numbers in a decoded value, in place. Its error is the
// same in whatever order maps are walked.
func numbers(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.Atoi(v.String()); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, errors.New("a number is out of range")
		}
		return f, nil
	case []any:
		for i, e := range v {
			if v[i], err = numbers(e); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k, e := range v {
			switch e.(type) {
			case json.Number, []any, map[string]any:
				if v[k], err = numbers(e); err != nil {
					return nil, err
				}
			}
		}
	}
	return v, nil
}

// Encode writes a value as compact JSON, the keys of maps in order, so that
// equal values have equal bytes.
func Encode(v any) ([]byte, error) {
	v, err := plain(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// errNotJSON does not say which value it means: that would depend on the order
// in which maps are walked.
var errNotJSON = errors.New("a key of a map is not a string, or a value has no form in JSON")

// plain returns v with what JSON does not know replaced: times by their text,
// other maps by maps of strings.
func plain(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int, float64, map[string]string, []string, []int:
		return v, nil
	case Time:
		return time.Unix(int64(v.Unix), int64(v.Nano)).UTC().Format(time.RFC3339Nano), nil
	case []any:
		return list(len(v), func(i int) any { return v[i] })
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Slice, reflect.Array:
		return list(r.Len(), func(i int) any { return r.Index(i).Interface() })
	case reflect.Map:
		out := make(map[string]any, r.Len())
		for it := r.MapRange(); it.Next(); {
			k, ok := reflect.TypeAssert[string](it.Key())
			if !ok {
				return nil, errNotJSON
			}
			e, err := plain(it.Value().Interface())
			if err != nil {
				return nil, err
			}
			out[k] = e
		}
		return out, nil
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Float32,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return v, nil
	}
	return nil, errNotJSON
}

func list(n int, at func(int) any) ([]any, error) {
	out := make([]any, n)
	var err error
	for i := range out {
		if out[i], err = plain(at(i)); err != nil {
			return nil, err
		}
	}
	return out, nil
}
