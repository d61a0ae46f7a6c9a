package streams

import (
	"embed"
	"strings"
	"time"
)

// Files holds the declared streams, one YAML file each, in the form of [Spec]
// with durations and sizes as people write them. The topology package decodes
// them strictly.
//
//go:embed *.yaml
var Files embed.FS

// Discard says what a stream does with a message for which it has no room.
type Discard string

// The two ways to be full.
const (
	DiscardOld Discard = "old" // drop the oldest messages
	DiscardNew Discard = "new" // refuse the new message
)

// Spec declares one stream in one overlay: what it is for, which subjects it
// stores and for how long. Limits of zero mean none.
type Spec struct {
	Name        string // upper case, unique in an overlay
	Concern     string // first token of its subjects, and the name of its file
	Description string
	Schema      string // identifier of the format of its events, see package schemas

	Subjects []string // what programs and stages of the overlay publish
	Sources  []Collected

	MaxAge            time.Duration
	MaxBytes          int64
	MaxMsgs           int64
	MaxMsgsPerSubject int64
	MaxMsgSize        int32
	Discard           Discard
	Memory            bool // keep in memory, not on disk
	Replicas          int  // 1, 3 or 5
	// Duplicates is the window of [HeaderMsgID], by which events enter. Stages that
	// read a stream do not use it.
	Duplicates time.Duration

	Metadata map[string]string
}

// Collected is a landing stream whose messages a shared stream takes over, on
// the same broker, with the prefix of the landing subjects removed.
type Collected struct {
	Stream string // name of the landing stream
	Prefix string // subject prefix without the final full stop
}

// Landing names the stream, and the prefix of its subjects, to which one stage
// of one overlay writes in another overlay. Nobody else writes there.
func Landing(overlay, uid string) Collected {
	return Collected{
		Stream: "UP_" + overlay + "_" + uid,
		Prefix: "up." + overlay + "." + uid,
	}
}

// Dead is the pattern of the dead-letter subjects of a stage.
func Dead(overlay, uid string) string { return "dead." + overlay + "." + uid + ".>" }

// GapSubject is where a stage tells, in its target, that messages were removed
// before it could handle them. concern is the first token of the target's
// subjects. No identity begins with "_", so no node can publish there.
func GapSubject(concern, overlay, uid string) string {
	return strings.Join([]string{concern, overlay, ownToken, "gap", uid}, ".")
}

// ownToken stands in place of an identity in the subjects of weir's own events.
const ownToken = "_weir"

// Own says that an event is one of weir's own, about streams and stages: its
// third token is where others have the identity of a node.
func Own(subject string) bool {
	_, rest, _ := strings.Cut(subject, ".")
	_, rest, _ = strings.Cut(rest, ".")
	third, _, _ := strings.Cut(rest, ".")
	return third == ownToken
}
