package jetstream_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/streams"
	"github.com/weirhq/weir/streams/jetstream"
	"github.com/weirhq/weir/streams/jetstream/jetstreamtest"
)

// TestEveryRefusalHasOneMeaning goes through all that the server can answer.
func TestEveryRefusalHasOneMeaning(t *testing.T) {
	meanings := []error{streams.ErrNotFound, streams.ErrFenced, streams.ErrFull, streams.ErrUnknown, streams.ErrRefused}
	count := map[error]int{}
	for id, e := range server.ApiErrors {
		api := &jetstream.APIError{Code: e.Code, ErrCode: int(e.ErrCode), Description: e.Description}
		n := 0
		for _, m := range meanings {
			if errors.Is(api, m) {
				count[m]++
				n++
			}
		}
		if n != 1 {
			t.Errorf("error %d (%d) has %d meanings", id, e.ErrCode, n)
		}
	}
	for _, m := range meanings {
		if count[m] == 0 {
			t.Errorf("no answer means %q", m)
		}
	}
	want := map[server.ErrorIdentifier]error{
		server.JSStreamWrongLastSequenceErrF: streams.ErrFenced, server.JSStreamWrongLastSequenceConstantErr: streams.ErrUnknown,
		server.JSNoMessageFoundErr: streams.ErrNotFound, server.JSStreamNotFoundErr: streams.ErrNotFound, server.JSConsumerNotFoundErr: streams.ErrNotFound,
		server.JSStreamStoreFailedF: streams.ErrFull, server.JSInsufficientResourcesErr: streams.ErrFull, server.JSStorageResourcesExceededErr: streams.ErrFull,
		server.JSStreamTooManyRequests: streams.ErrUnknown, server.JSClusterNotAvailErr: streams.ErrUnknown, server.JSAtomicPublishTooManyInflight: streams.ErrUnknown,
		server.JSBatchPublishUnknownBatchIDErr: streams.ErrUnknown, server.JSAtomicPublishIncompleteBatchErr: streams.ErrUnknown,
		server.JSClusterNoPeersErrF: streams.ErrUnknown, server.JSStreamOfflineErr: streams.ErrUnknown,
		server.JSAtomicPublishDisabledErr: streams.ErrRefused, server.JSBatchPublishDisabledErr: streams.ErrRefused, server.JSStreamSealedErr: streams.ErrRefused,
		server.JSMessageSourceHdrNotAllowedErr: streams.ErrRefused, server.JSStreamSubjectOverlapErr: streams.ErrRefused, server.JSStreamInvalidConfigF: streams.ErrRefused,
		server.JSStreamReplicasNotSupportedErr: streams.ErrRefused, server.JSNotEnabledForAccountErr: streams.ErrRefused, server.JSMessageIncrMissingErr: streams.ErrRefused,
		server.JSStreamMessageExceedsMaximumErr: streams.ErrRefused, server.JSStreamHeaderExceedsMaximumErr: streams.ErrRefused, server.JSRequiredApiLevelErr: streams.ErrRefused,
	}
	for id, is := range want {
		e := server.ApiErrors[id]
		if !errors.Is(&jetstream.APIError{Code: e.Code, ErrCode: int(e.ErrCode)}, is) {
			t.Errorf("%s (%d) is not %q", e.Description, e.ErrCode, is)
		}
	}
}

// TestRefusedForGood: a stream that does not take what it is sent, and will not
// tomorrow, is told apart from one that may.
func TestRefusedForGood(t *testing.T) {
	b := openLanding(t, jetstreamtest.Single(t, "one"), "one", 1)
	ctx := withTimeout(t)
	alter := func(name string, change func(*natsjs.StreamConfig)) {
		t.Helper()
		s, err := b.JS.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		cfg := s.CachedInfo().Config
		change(&cfg)
		if _, err := b.JS.UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(k streams.Sink, words string) {
		t.Helper()
		defer func() { _ = k.Close() }()
		if _, err := k.Last(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Publish(ctx, written(1, 3)); !errors.Is(err, streams.ErrRefused) || errors.Is(err, streams.ErrUnknown) || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want that it is refused: %s", err, words)
		}
	}
	alter("LAND", func(c *natsjs.StreamConfig) { c.AllowBatchPublish = false })
	refused(b.Landing(land), "batch publish is disabled")
	alter("SHARED", func(c *natsjs.StreamConfig) { c.AllowAtomicPublish = false })
	refused(b.Shared("SHARED", "x.>"), "atomic publish is disabled")
	alter("LAND", func(c *natsjs.StreamConfig) { c.AllowBatchPublish, c.Sealed = true, true })
	refused(b.Landing(land), "sealed")

	err := b.Ensure(ctx, streams.Spec{Name: "OTHER", Subjects: []string{"x.y.>"}})
	if !errors.Is(err, streams.ErrRefused) || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("a stream with subjects of another one: %v", err)
	}
}
