// Package streams is the vocabulary of weir: what an event is, where it is
// read, where it is stored and how a position in it is written down. It holds
// the declared streams as YAML files (see [Files]) and imports nothing but the
// standard library; streams/jetstream speaks to real brokers and
// streams/memory is its in-process twin. Both pass the suite of
// streams/streamtest.
package streams

import (
	"context"
	"errors"
	"time"
)

// Msg is one event, a value: it holds no context, acknowledgement or lock.
// Stream, Seq and Time are set by the stream that stored it and ignored when
// publishing. Header and Data are shared between copies of a Msg: whoever
// wants to change them clones them first.
type Msg struct {
	Subject string
	Header  Header
	Data    []byte

	Stream string    // name of the stream that stored the message
	Seq    uint64    // its sequence there, from 1
	Time   time.Time // when that stream stored it, by the broker's clock
}

// Size is the number of bytes that the message counts for in bounded queues:
// subject, header and payload as they go over the wire.
func (m Msg) Size() int { return len(m.Subject) + m.Header.Size() + len(m.Data) }

// EventTime is when the first stream of the origin overlay stored the event
// (D8). That is the header Weir-Time if the message was collected from a landing
// stream, which only a stage can write to, and the store time otherwise: what a
// node says about time moves nothing.
func (m Msg) EventTime() time.Time {
	if len(m.Header[HeaderCollected]) > 0 {
		if t, err := time.Parse(time.RFC3339Nano, m.Header.Get(HeaderTime)); err == nil {
			return t
		}
	}
	return m.Time
}

// Errors that a Source, a Cursor, a Sink or a State returns. They are matched
// with errors.Is; what is returned wraps them with the noun that failed.
var (
	// ErrFenced says that the server refused a write because the position has
	// moved: another copy has written. Nothing of the refused message or of
	// those after it was stored.
	ErrFenced = errors.New("fenced: another writer has moved the position")
	// ErrUnknown says that it is not known how much was stored. The caller asks
	// [Sink.Last] and goes on from there; it never repeats blindly.
	ErrUnknown = errors.New("outcome unknown")
	// ErrFull says that the target refuses new messages because of a limit
	// (bytes, messages, disk). Nothing was stored; trying again later is right.
	ErrFull = errors.New("target is full")
	// ErrRefused says that the server refuses what would be refused again: a
	// setting of the stream or of the server has to change. Nothing of the refused
	// message or of those after it was stored.
	ErrRefused = errors.New("refused for good")
	// ErrSilent says that a write was not acknowledged at all. It comes with
	// ErrUnknown. If the target can be asked meanwhile, a permission is missing
	// on the way there or back: what one forbids is dropped without a word.
	ErrSilent = errors.New("no acknowledgement")
	// ErrNotFound says that the message, stream or key does not exist.
	ErrNotFound = errors.New("not found")
	// ErrLost says that outputs which nothing accounts for were removed from
	// the target, so that neither repeating nor skipping them would be safe.
	ErrLost = errors.New("outputs removed that no snapshot covers")
)

// Info describes a stream at one moment.
type Info struct {
	Stream  string
	Created time.Time // with Stream, the identity of the stream
	First   uint64    // first sequence that is still stored; Last+1 when empty
	Last    uint64    // last sequence ever stored
	Msgs    uint64
	Bytes   uint64
	Now     time.Time // the broker's clock when it answered
	Compact bool      // the stream drops older messages of a subject, so holes are normal
}

// Start says where a reader begins. The zero Start is the first message.
// At most one field is set; Seq wins over Time, Time over End.
type Start struct {
	Seq  uint64    // this sequence, or the next one that exists
	Time time.Time // the first message stored at or after it
	End  bool      // only what is stored from now on
}

// Lag is how far a cursor is behind its stream.
type Lag struct {
	Pending uint64    // stored messages that match and that Next has not returned yet
	Now     time.Time // the broker's clock when it counted them
}

// Source is a stream, read in order.
type Source interface {
	// Info asks the leader of the stream.
	Info(ctx context.Context) (Info, error)
	// At returns one message, read from the leader, or ErrNotFound.
	At(ctx context.Context, seq uint64) (Msg, error)
	// Open starts a cursor. Cursors are independent of each other.
	Open(ctx context.Context, from Start) (Cursor, error)
}

// Cursor yields the messages of a Source in stream order, each once, without
// gaps other than messages that were removed. Calls must not overlap.
type Cursor interface {
	// Next blocks until at least one message is there or ctx ends, and returns
	// what is there, bounded by the cursor's limits. The slice is valid until
	// the next call.
	Next(ctx context.Context) ([]Msg, error)
	// Done records that the message with this sequence and all before it are
	// fully handled. It is a hint for operators (lag of the durable consumer),
	// never the position that a restart relies on.
	Done(ctx context.Context, upTo uint64) error
	// Lag asks the broker. A Pending of zero is exact: everything stored before
	// Lag.Now has been returned by Next. Any other number may be a moment old.
	Lag(ctx context.Context) (Lag, error)
	// Close ends the cursor and frees what it holds on the broker.
	Close() error
}

// Position is what a Sink knows about the outputs of its one writer.
type Position struct {
	Found  bool   // an output can be read
	Origin Origin // of the newest output that can be read
	Seq    uint64 // its sequence in the target; 0 when there is none
	// End is the newest sequence that the target ever gave out, whether or not
	// the message is still there.
	End uint64
	// First is the oldest sequence that the target still holds (End+1 when it is empty).
	First uint64
	// Alone says that nobody else writes to the target. Then End-Seq is exactly
	// the number of outputs that were stored after Origin and removed since.
	Alone bool
}

// Sink stores the outputs of one writer. It holds a prefix of them, in order:
// every write carries the position it expects the target to have, and the
// server refuses it when that has moved (D2, D3). Calls must not overlap.
type Sink interface {
	// Last reads the newest output back from the leader and arms the fence with
	// it. It comes before the first Check and Publish and after every error of Publish.
	Last(ctx context.Context) (Position, error)
	// Ticks lists the origins of the outputs stored after the target sequence
	// that belong to a tick, oldest first.
	Ticks(ctx context.Context, after uint64) ([]Origin, error)
	// Check says why the target would never take a message: its subject is not
	// the writer's, or it is too large. It does not ask the server; it goes by
	// the limits that Last has read. It may be called while another call is
	// under way.
	Check(m Msg) error
	// Publish stores the messages in order and, once all of them are stored,
	// returns the target's sequence of the last one. It may add fields that
	// begin with "Nats-" to their headers. Otherwise the error is ErrFenced,
	// ErrUnknown, ErrFull, ErrRefused, or the context's; after each of them a prefix
	// of the messages may have been stored, and Last says which.
	Publish(ctx context.Context, msgs []Msg) (uint64, error)
	// Close frees what the sink holds on its connection. Nothing is stored by it.
	Close() error
}

// Feed yields the messages of a subject that no stream holds. Copies of a stage
// share its messages out among them. There is no position to go back to: what
// is not taken in time is lost, and counted.
type Feed interface {
	// Next blocks until at least one message is there or ctx ends, and returns
	// some of what is there, in the order in which it came. Their Time is when
	// they came, by the clock of this host. The slice is valid until the next
	// call. After Stop and the last message it returns io.EOF.
	Next(ctx context.Context) ([]Msg, error)
	// Lost counts the messages that came while the buffer was full.
	Lost() uint64
	// Waiting is how many messages have come and were not taken.
	Waiting() int
	// Stop takes no further messages. Next returns those that are there.
	Stop() error
}

// Appender stores messages in a stream that has other writers. It has no fence:
// the stream leaves out a message whose id, in the field [HeaderMsgID], it has
// stored within its window for duplicates. Calls must not overlap, but for Check.
type Appender interface {
	// Check says why the stream would never take a message, by the limits that
	// the last Append has read; before the first, by those of the broker alone.
	Check(m Msg) error
	// Append stores messages in their order and returns when all are stored. After
	// any error a prefix of them may be, and Append may be called with all of
	// them again.
	Append(ctx context.Context, msgs []Msg) error
	// Close frees what the appender holds on its connection.
	Close() error
}

// Journal stores single messages in a stream of many writers that take turns by
// what they have read: each message is stored only if nobody else has stored
// anything about the same matter since. Calls may overlap.
type Journal interface {
	// Append stores a message, and returns its sequence, if the newest message of
	// the subjects that match space has the sequence last; 0 is for none. ErrFenced
	// says that it has another, or is just being written, and that nothing was
	// stored; after ErrUnknown the message may be stored all the same.
	Append(ctx context.Context, m Msg, space string, last uint64) (uint64, error)
}

// State keeps a small record for each key, guarded by its revision.
type State interface {
	// Load returns the newest value and its revision, or nil and the revision
	// to give to Save (0, or that of a deletion) when there is none.
	Load(ctx context.Context, key string) (value []byte, revision uint64, err error)
	// Save stores a value if the revision is still the newest, and returns the
	// new one. ErrFenced says that somebody else has saved meanwhile.
	Save(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Keys lists the keys below a prefix that ends with a full stop, in any order.
	Keys(ctx context.Context, prefix string) ([]string, error)
	// Delete removes keys and all that is known of them. It is no error when one
	// does not exist.
	Delete(ctx context.Context, keys ...string) error
	// Close frees what the state holds on its connection.
	Close() error
}
