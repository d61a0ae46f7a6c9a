// Package proctest tests kinds of processors by scripts on a virtual clock.
// One line is the whole test of a kind:
//
//	func TestKind(t *testing.T) { proctest.Run(t, sampler.Kind) }
//
// Run replays every testdata/*.txt and compares what the processor emits, and
// then holds the processor to its contract, on the inputs of the script and on
// many generated from it:
//
//   - declaration: the kind has a name, version, summary, schemas and an example that it accepts
//   - selection: what Select returns is valid
//   - outputs: valid subjects, no control headers, a header of their own, and either outputs or an error of one line
//   - route: every output is where Route says, for the subject of its input and for wider patterns
//   - purity: another instance, built later, gives the same outputs, errors and snapshots
//   - inputs: Process changes nothing in a message, neither then nor later
//   - ownership: the stage may change an output without the processor noticing, and the processor changes none that it has given away
//   - restart: an instance restored from a snapshot goes on exactly like the one that was saved, and
//     one without Snapshotter has no state to lose
//   - increments: the parts of an Incremental processor hold all of its state
//   - errors: an error leaves the state as it was
//   - silence: a tick without output leaves the state as it was
//
// # Scripts
//
// A script is the with: block of the stage, a line of three dashes, and a
// story:
//
//	every: 1h
//	---
//	# The first sign of a node passes at once.
//	> 0s registration.mt-1.n1 sender=n1 note="two words" | {"facts":{}}
//	< registration.mt-1.n1 Weir-Time=2026-01-01T00:00:00Z note="two words" sender=n1 | {"facts":{}}
//	> 5m registration.mt-1.n1 sender=n1
//	> 6m #9 registration.mt-1.n2
//	! dead: no sender
//	! tick 20m
//	! ticks 1m 2h
//	@ 1h20m
//	< registration.mt-1._weir.silent
//
// Lines that begin with ">", "! tick" and "! ticks" are what happens; blank
// lines and those that begin with "#" are kept as they are. All others are
// what follows, and go test -update writes them anew:
//
//	> TIME [#SEQ] SUBJECT [NAME=VALUE]... [| PAYLOAD]   a message is stored
//	! tick TIME                                         one tick
//	! ticks EVERY UNTIL                                 the ticks of a grid after the last line, up to and including UNTIL
//	< SUBJECT [NAME=VALUE]... [| PAYLOAD]               an output, fields in the order of their names
//	@ TIME                                              the tick of a grid that the outputs below follow from
//	! dead: REASON                                      Process returned an error
//	! failed: REASON                                    Tick returned an error
//	! not selected                                      the filter of Select keeps the message away
//
// TIME is what has passed since the beginning of 2026 in UTC (0s, 90m, -5m),
// or a time in RFC 3339 form. Sequences count from 1; #SEQ leaves a gap. A value
// that is not one plain word is quoted as in Go, a field is repeated for
// further values, and "|=" before a quoted Go string is a payload that is
// binary or of several lines. The processor runs as stage "test" of overlay
// "mt-1" and reads the stream SOURCE. [Scripts] hands configuration and messages
// of the scripts to tests of another kind.
package proctest
