package direct

import (
	"context"
	"errors"
	"testing"

	"github.com/weirhq/weir/schemas"
)

func TestFactsOfThisMachine(t *testing.T) {
	data, err := Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := data.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schemas.DecodeInventoryData(b); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"networking", "processors", "os", "weir"} {
		if data.Facts[name] == nil {
			t.Errorf("no %s in %s", name, b)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Facts(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}
