package topology

import "slices"

// Code is one kind of finding. Codes are never given to something else.
type Code struct {
	ID       string
	Severity Severity
	Meaning  string // one or two sentences
}

// Codes lists every kind of finding in the order of their codes.
func Codes() []Code { return slices.Clone(codes) }

// LookupCode returns the kind of finding that has a code.
func LookupCode(id string) (Code, bool) {
	i, ok := slices.BinarySearchFunc(codes, id, func(c Code, id string) int {
		switch {
		case c.ID < id:
			return -1
		case c.ID > id:
			return 1
		}
		return 0
	})
	if !ok {
		return Code{}, false
	}
	return codes[i], true
}

// Codes of findings: T0 the text of the file, T1 names, T2 stages and subjects,
// T3 promises, T4 brokers.
const (
	cUnreadable  = "T001"
	cSyntax      = "T002"
	cDocument    = "T003"
	cDuplicate   = "T004"
	cUnknownKey  = "T005"
	cType        = "T006"
	cMissing     = "T007"
	cName        = "T008"
	cNumber      = "T009"
	cPlaceholder = "T010"
	cEnv         = "T011"
	cAlias       = "T012"
	cChoice      = "T013"
	cSubject     = "T015"

	cNoClass     = "T101"
	cNoOverlay   = "T102"
	cNoStream    = "T103"
	cNoKind      = "T104"
	cNoService   = "T105"
	cNoConcern   = "T106"
	cUplinkCycle = "T107"
	cNoUplink    = "T108"
	cForeign     = "T109"
	cNotUplink   = "T110"
	cSameUID     = "T111"
	cSameStream  = "T112"
	cCollision   = "T113"
	cReserved    = "T114"
	cUnused      = "T115"
	cNoRole      = "T116"

	cWith       = "T201"
	cSchema     = "T202"
	cUncaptured = "T203"
	cWriters    = "T204"
	cIntersect  = "T205"
	cLoop       = "T206"
	cTooMany    = "T207"
	cUnproved   = "T208"
	cNothing    = "T209"
	cGap        = "T210"
	cKindFault  = "T211"
	cEntry      = "T212"

	cMemoryTarget = "T301"
	cShortTarget  = "T302"
	cIsolation    = "T303"
	cMustKeep     = "T304"
	cMemorySource = "T305"
	cUnbounded    = "T306"
	cReplicas     = "T307"
	cSingle       = "T308"
	cWindow       = "T309"

	cBroker  = "T401"
	cURL     = "T402"
	cSharing = "T403"
	cPlain   = "T404"
)

// codes is sorted by ID.
var codes = []Code{ //nolint:gochecknoglobals // a table
	{cUnreadable, Error, "The file cannot be read, is too large, or is not UTF-8."},
	{cSyntax, Error, "The file is not valid YAML."},
	{cDocument, Error, "The file is empty, or holds more than one YAML document. One file is one topology."},
	{cDuplicate, Error, "A key or list item is given twice. Only one of them could count, so neither is taken."},
	{cUnknownKey, Error, "A key has no meaning where it is. Nothing is ignored silently."},
	{cType, Error, "A value has the wrong form: a list where text is wanted, a number where a mapping is wanted, and so on."},
	{cMissing, Error, "A key that is always needed is missing or empty."},
	{cName, Error, "A name cannot be part of a subject. Names are letters, digits, - and _, at most 63 bytes, and begin with a letter or digit; names of streams are upper case."},
	{cNumber, Error, "A duration, size or number cannot be understood or is out of range. Durations have a unit: 30s, 10m, 72h, 7d, 2w. Sizes are bytes, or have a unit: 100MB, 512MiB, 2GiB."},
	{cPlaceholder, Error, "A placeholder has no meaning where it is. {overlay} is known in classes and brokers, {stage} within a stage."},
	{cEnv, Error, "A broker setting takes a value from an environment variable that is not set, or is empty."},
	{cAlias, Error, "An alias, merge key or tag of YAML cannot be used as written. Text that begins with * needs quotes."},
	{cChoice, Error, "A value is not one of the few that are possible."},
	{cSubject, Error, "A subject pattern is malformed, or would capture subjects that belong to NATS or to weir."},

	{cNoClass, Error, "An overlay has a class that the file does not define."},
	{cNoOverlay, Error, "An uplink or the end of a stage names an overlay that the file does not declare."},
	{cNoStream, Error, "A stage or program names a stream that its overlay does not declare."},
	{cNoKind, Error, "A stage has a kind that this binary does not contain."},
	{cNoService, Error, "A program serves a service that its class does not list under services."},
	{cNoConcern, Error, "A class lists a stream that has no file in streams/ and is not declared in place with name and schema."},
	{cUplinkCycle, Error, "Following uplinks leads back to the same overlay. Uplinks form a tree."},
	{cNoUplink, Error, "Something speaks of the uplink of an overlay that has none."},
	{cForeign, Error, "A stage has neither end in the overlay that runs it. It belongs to one of the overlays that it joins."},
	{cNotUplink, Error, "A stage reaches into an overlay that is not its uplink. Links exist only between an overlay and its uplink, so nothing else can be reached."},
	{cSameUID, Error, "Two stages of an overlay have the same uid. The uid names positions, subjects and state, so each stage needs its own."},
	{cSameStream, Error, "An overlay has two streams of one name."},
	{cCollision, Error, "Two landing streams or two durable consumers get the same name, because overlay and uid are joined by _ in it."},
	{cReserved, Error, "A name or subject is kept for NATS or for weir itself."},
	{cUnused, Warning, "No overlay has this class, so only its form is checked."},
	{cNoRole, Error, "A program has a configuration, and this binary does not contain it, so nothing would read the configuration."},

	{cWith, Error, "The kind of a stage, or a program, refuses its with: block."},
	{cSchema, Error, "The format that a kind accepts or emits is not that of its stream."},
	{cUncaptured, Error, "A stage emits subjects that its target does not store, so the server would refuse them."},
	{cWriters, Error, "Two writers may publish the same subject of a stream. Then neither can read its position back, and order is lost."},
	{cIntersect, Error, "Two streams of an overlay store the same subjects. NATS refuses the second."},
	{cLoop, Error, "An event can come back to a stream in which it has been. It would go round for ever, so no subject may return to where it came from, not even rewritten."},
	{cTooMany, Error, "There are so many combinations of subjects that it cannot be proved within bounds that no event goes round."},
	{cUnproved, Warning, "A stage writes to another overlay and its kind does not say which subjects it emits, so it is not proved that it collides with nobody."},
	{cNothing, Warning, "A stage can never emit anything: its filter matches none of the subjects that its source can hold."},
	{cGap, Warning, "Where messages are removed before a stage has handled them, it tells so in its target; the target does not store that subject."},
	{cKindFault, Error, "A kind gave a filter or a pattern of outputs that is not valid. Either its configuration or the kind itself is wrong."},
	{cEntry, Error, "A stage reads a subject, where events enter, and cannot stand there: it has state, writes to another overlay, or a stream of the overlay stores the subject."},

	{cMemoryTarget, Error, "A stage writes into a stream that is kept in memory. After a restart its position could not be read back, and exactly-once would be lost (D2)."},
	{cShortTarget, Error, "A stage writes into a stream that forgets so soon that the stage's position could be gone before its next snapshot (D2)."},
	{cIsolation, Error, "A stage crosses the link, and its source keeps messages for a shorter time than the overlay may be cut off. What is not sent by then would be lost."},
	{cMustKeep, Error, "A stream whose messages must never be dropped unsent is carried to another overlay, but drops old messages when it is full, or is not kept on disk."},
	{cMemorySource, Warning, "A stage reads a stream that is kept in memory. After a restart of the broker it is another stream, and the stage stops or starts a new epoch."},
	{cUnbounded, Warning, "A stream has no limit of age, bytes or messages, so it grows until the disk is full."},
	{cReplicas, Error, "Replicas are 1, 3 or 5: an even number is lost as soon as the next lower one, and NATS knows no more than 5."},
	{cSingle, Error, "An embedded broker is a single server and cannot hold more than one replica."},
	{cWindow, Warning, "A stage by which events enter writes to a stream that knows copies for a short time only. After a longer outage of the stream, what was on its way when it began may be stored twice."},

	{cBroker, Error, "The settings of a broker are incomplete or contradict each other."},
	{cURL, Error, "The address of a broker is malformed."},
	{cSharing, Error, "Two overlays share a JetStream domain, a directory, an address or an account. They would write into each other's streams."},
	{cPlain, Warning, "An embedded broker listens beyond this machine and has no certificate. Run by \"weir run\" it has no TLS then, and whoever is on the way reads what is said to it."},
}

// severity of a code; the table is complete.
func severity(code string) Severity {
	c, ok := LookupCode(code)
	if !ok {
		return Error
	}
	return c.Severity
}
