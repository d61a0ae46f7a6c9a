package server

import "sync/atomic"

// Counts says what became of all that was to be published.
type Counts struct {
	Events       EventCounts        `json:"events"`
	Registration RegistrationCounts `json:"registration"`
}

// EventCounts are about lifecycle events.
type EventCounts struct {
	Published uint64 `json:"published"` // handed to the connection
	Failed    uint64 `json:"failed"`
}

// RegistrationCounts are about registrations.
type RegistrationCounts struct {
	Published uint64 `json:"published"` // handed to the connection
	Early     uint64 `json:"early"`     // of those, because something changed

	SkippedNotReady     uint64 `json:"skipped_not_ready"`    // looks at facts that were not ready
	SkippedDisconnected uint64 `json:"skipped_disconnected"` // turns without a connection

	FailedFacts    uint64 `json:"failed_facts"`     // nothing could be gathered
	FailedEncode   uint64 `json:"failed_encode"`    // not a document, or too large for one
	FailedWrap     uint64 `json:"failed_wrap"`      // no envelope
	FailedTooLarge uint64 `json:"failed_too_large"` // more than the broker takes
	FailedPublish  uint64 `json:"failed_publish"`   // refused by the connection
}

// Failed is the sum of all that failed.
func (c RegistrationCounts) Failed() uint64 {
	return c.FailedFacts + c.FailedEncode + c.FailedWrap + c.FailedTooLarge + c.FailedPublish
}

// counters are Counts that goroutines share.
type counters struct {
	events, eventsFailed                            atomic.Uint64
	published, early, notReady, disconnected        atomic.Uint64
	badFacts, badDocument, badWrap, large, rejected atomic.Uint64
}

func (c *counters) read() Counts {
	return Counts{
		Events: EventCounts{Published: c.events.Load(), Failed: c.eventsFailed.Load()},
		Registration: RegistrationCounts{
			Published: c.published.Load(), Early: c.early.Load(),
			SkippedNotReady: c.notReady.Load(), SkippedDisconnected: c.disconnected.Load(),
			FailedFacts: c.badFacts.Load(), FailedEncode: c.badDocument.Load(), FailedWrap: c.badWrap.Load(),
			FailedTooLarge: c.large.Load(), FailedPublish: c.rejected.Load(),
		},
	}
}
