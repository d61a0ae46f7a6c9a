package main

import (
	"fmt"
	"slices"
)

// mutant is a build that is broken on purpose.
type mutant struct {
	name  string
	why   string // what is wrong with it
	edits []edit
	pkg   string // whose tests have to notice it
	run   string // those tests, as for go test -run
	hangs bool   // what is noticed is that a test does not end
}

// edit replaces a text that is there exactly once.
type edit struct{ file, old, new string }

func mutantNamed(name string) (mutant, error) {
	i := slices.IndexFunc(mutants, func(m mutant) bool { return m.name == name })
	if i < 0 {
		return mutant{}, fmt.Errorf("there is no broken build %q; lab mutate --list names them: %w", name, errUsage)
	}
	return mutants[i], nil
}

// Files that are broken, and tests that notice it.
const (
	stageFile    = "processors/stage.go"
	targetFile   = "processors/target.go"
	positionFile = "processors/position.go"
	batchFile    = "streams/jetstream/batch.go"
	domainFile   = "streams/jetstream/domain.go"

	stageTests     = "./processors"
	jetstreamTests = "./streams/jetstream"
	serverTests    = "./fleet/server/direct"
	brokerTests    = "./topology/broker"

	crashes = "^TestCrashEquivalence$/^(landing|shared)$"
)

// mutants is the table. A mutant is one mistake that somebody could make, small
// enough for a reviewer to pass over it.
var mutants = []mutant{ //nolint:gochecknoglobals // a table
	{
		name: "ack-before-store",
		why:  "the snapshot is saved, and the source acknowledged, before the outputs are stored (D1)",
		edits: []edit{
			{stageFile, `	return r.flush(ctx)
}
`, `	if err := r.maybeSnapshot(ctx); err != nil {
		return err
	}
	return r.flush(ctx)
}
`},
			{positionFile, "r.dead.skip > 0 || len(r.to.queue.msgs) > 0 || len(r.dead.queue.msgs) > 0 ||", "r.dead.skip > 0 ||"},
		},
		pkg: stageTests, run: crashes,
	},
	{
		name: "ack-on-the-way",
		why:  "the snapshot is saved, and the source acknowledged, while outputs are still on their way (D1)",
		edits: []edit{{positionFile, `func (r *run) snapshot(ctx context.Context) error {
	if err := r.to.wait(); err != nil {
		return err
	}
`, `func (r *run) snapshot(ctx context.Context) error {
`}},
		pkg: stageTests, run: "^TestNothingIsAcknowledgedOnItsWay$",
	},
	{
		name:  "no-fence",
		why:   "messages of a fast batch carry no expectation (D3)",
		edits: []edit{{batchFile, "		m.Header[hdrExpectSeq] = values[i : i+1 : i+1]\n", ""}},
		pkg:   jetstreamTests, run: "^TestConformanceR1$/^an_old_writer_is_refused$",
	},
	{
		name: "no-fence-shared",
		why:  "atomic batches carry no expectation (D3)",
		edits: []edit{{batchFile, `			h[hdrExpectSubjectSeq] = []string{strconv.FormatUint(last, 10)}
			h[hdrExpectSubject] = []string{space}
`, ""}},
		pkg: jetstreamTests, run: "^TestConformanceR1$/^(an_old_writer_is_refused|state_is_guarded_by_its_revision)$",
	},
	{
		name: "fence-first-only",
		why:  "only the first message of a fast batch carries an expectation (D3)",
		edits: []edit{{batchFile, "		m.Header[hdrExpectSeq] = values[i : i+1 : i+1]\n", `		if delete(m.Header, hdrExpectSeq); i == 0 {
			m.Header[hdrExpectSeq] = values[i : i+1 : i+1]
		}
`}},
		pkg: jetstreamTests, run: "^TestFastBatchIsFencedInEveryMessage$",
	},
	{
		name:  "direct-get", // on one server, where it is never old: the way is what is noticed
		why:   "positions are read by direct get, which a replica that lags may answer (D2)",
		edits: directGet,
		pkg:   jetstreamTests, run: "^TestPositionsAreReadFromTheLeader$",
	},
	{
		name:  "direct-get-r3",
		why:   "the same on a cluster, where what is read is too old (D2)",
		edits: directGet,
		pkg:   jetstreamTests, run: "^TestReadBackIsNeverOld$",
	},
	{
		name: "random-index",
		why:  "the index of an output is not the same when it is made again (D2)",
		edits: []edit{
			{stageFile, "\t\"log/slog\"\n", "\t\"log/slog\"\n\t\"math/rand/v2\"\n"},
			{stageFile, "		o.Index, o.Final = i, i == len(out)-1\n", "		o.Index, o.Final = rand.IntN(1000), i == len(out)-1\n"},
		},
		pkg: stageTests, run: crashes,
	},
	{
		name: "random-origin",
		why:  "the sequence in an origin is not that of the input (D2)",
		edits: []edit{
			{stageFile, "\t\"log/slog\"\n", "\t\"log/slog\"\n\t\"math/rand/v2\"\n"},
			{stageFile, "Epoch: r.epoch, Seq: r.seq, Time", "Epoch: r.epoch, Seq: r.seq + rand.Uint64N(3), Time"},
		},
		pkg: stageTests, run: crashes,
	},
	{
		name:  "suppress-off-by-one",
		why:   "the newest output that is stored is stored once more after a restart (D2)",
		edits: []edit{{targetFile, "o.Compare(t.upTo) <= 0", "o.Compare(t.upTo) < 0"}},
		pkg:   stageTests, run: crashes,
	},
	{
		name:  "removed-are-repeated",
		why:   "outputs that were stored and removed since are stored once more (D2)",
		edits: []edit{{positionFile, "			t.skip = p.End - p.Seq\n", ""}},
		pkg:   stageTests, run: "^TestCrashEquivalence$/^outputs_removed$",
	},
	{
		name: "unknown-is-stored",
		why:  "a write whose outcome is unknown is taken for one that was stored (D2)",
		edits: []edit{{targetFile, "		stored, err := t.settle(ctx, origins, &wait)\n",
			"		stored := len(origins)\n		_, err = t.settle(ctx, origins, &wait)\n"}},
		pkg: stageTests, run: "^TestCrashEquivalence$/^unknown_outcomes$",
	},
	{
		name:  "unknown-is-repeated",
		why:   "a write whose outcome is unknown is blindly repeated (D2)",
		edits: []edit{{targetFile, "		return stored, nil\n", "		return 0, nil\n"}},
		pkg:   stageTests, run: "^TestCrashEquivalence$/^unknown_outcomes$",
	},
	{
		name: "no-dead-read-back",
		why:  "the position of the dead letters is not read back (D5)",
		edits: []edit{{positionFile, `	if err := r.dead.resume(dead, snapped.known(), snapped.origin(), snapped.DeadTarget, snapped.DeadDirty); err != nil {
		return streams.Start{}, err
	}
`, ""}},
		pkg: stageTests, run: crashes,
	},
	{
		name: "letters-after-outputs",
		why:  "outputs are stored before the dead letters of the inputs before them (D5)",
		edits: []edit{{stageFile, `	if len(r.dead.queue.msgs) > 0 {
		if err := r.to.wait(); err != nil {`, `	if len(r.dead.queue.msgs) > 0 {
		if err := r.to.send(ctx, func() {}); err != nil {
			return err
		}
		if err := r.to.wait(); err != nil {`}},
		pkg: stageTests, run: "^TestLettersComeBeforeOutputs$",
	},
	{
		name:  "ticks-forgotten",
		why:   "ticks that the target shows are not repeated after a restart (D2)",
		edits: []edit{{positionFile, "		r.shown = later(ticks, r.epoch)\n", "		_ = later(ticks, r.epoch)\n"}},
		pkg:   stageTests, run: "^TestTicksAreRepeatedWhenTheClockWentBack$",
	},
	{
		name:  "time-of-now",
		why:   "an event gets the time at which it was sent on (D8)",
		edits: []edit{{stageFile, "			when = m.EventTime().UTC().Format(time.RFC3339Nano)\n", "			when = time.Now().UTC().Format(time.RFC3339Nano)\n"}},
		pkg:   stageTests, run: crashes,
	},
	{
		name:  "recreated-source",
		why:   "a source that was made anew is taken for the former one (D2)",
		edits: []edit{{positionFile, "if !info.Created.Equal(newest.Created) {", "if false {"}},
		pkg:   stageTests, run: "^TestRecreatedSourceWithoutThePosition$",
	},
	{
		name:  "same-epoch",
		why:   "outputs of a source that was made anew look like those of the former one (D2)",
		edits: []edit{{positionFile, "	r.epoch = newest.Epoch + 1\n", "	r.epoch = newest.Epoch\n"}},
		pkg:   stageTests, run: "^TestRecreatedSource",
	},
	{
		name:  "silent-gap",
		why:   "inputs that were removed unsent are not told of (D2)",
		edits: []edit{{targetFile, `if r.Gap == "" {`, "if true {"}},
		pkg:   stageTests, run: "^TestRemovedInputsAreToldOnce$",
	},
	{
		name: "lease-ignored",
		why:  "a stage writes outputs although its lease has run out (D3)",
		edits: []edit{{targetFile, `		if !t.run.Valid() {
			return ErrLease
		}
		end, err`, `		end, err`}},
		pkg: stageTests, run: "^TestLeaseThatRanOutStopsTheStage$",
	},
	{
		name: "lease-for-ever",
		why:  "a lease that cannot be renewed stays valid (D3)",
		edits: []edit{{"streams/jetstream/lease.go",
			"return int64(time.Since(h.start)) < h.until.Load() }", "return true }"}},
		pkg: jetstreamTests, run: "^TestLeaseRunsOut$",
	},
	{
		name:  "any-acknowledgement",
		why:   "an acknowledgement of another stream or domain counts (D1)",
		edits: []edit{{batchFile, `(a.Stream != b.stream || (b.d.name != "" && a.Domain != b.d.name))`, `a.Stream == ""`}},
		pkg:   jetstreamTests, run: "^TestAcknowledgementOfAnother$",
	},
	{
		name:  "any-domain",
		why:   "a node takes the acknowledgement of another overlay for that of its own (D1)",
		edits: []edit{{"fleet/server/direct/direct.go", "if err == nil && ack.Domain != s.domain {", "if false {"}},
		pkg:   serverTests, run: "^TestNodeOnTheWrongBroker$", hangs: true,
	},
	{
		name: "place-lost",
		why:  "a cursor that is made anew leaves out a message (D2)",
		edits: []edit{{"streams/jetstream/cursor.go",
			`cfg.DeliverPolicy, cfg.OptStartSeq = "by_start_sequence", c.last+1`, `cfg.DeliverPolicy, cfg.OptStartSeq = "by_start_sequence", c.last+2`}},
		pkg: jetstreamTests, run: "^TestCursorGoesOnAfterARestart$",
	},
	{
		name:  "uncollected-trimmed",
		why:   "a landing stream is trimmed of what the shared stream has not collected (D1)",
		edits: []edit{{"streams/jetstream/landing.go", "upTo := min(seq, st.Last-min(keep, st.Last-1))", "upTo := max(seq, st.Last-min(keep, st.Last-1))"}},
		pkg:   jetstreamTests, run: "^TestTrimLeavesWhatWasNotCollected$",
	},
	{
		name: "link-denies-nothing",
		why:  "a link lets out and in whatever the other side permits",
		edits: []edit{{"topology/broker/broker.go", `		DenyImports:  o.Uplink.Deny,
		DenyExports:  o.Uplink.Deny,
`, ""}},
		pkg: brokerTests, run: "^TestPrivateStaysPrivate$",
	},
	{
		name: "link-allows-everything",
		why:  "a link may publish and subscribe to everything at its uplink",
		edits: []edit{{"topology/broker/broker.go", "add(l.PublicKey, account[AccountFleet], l.Permissions,",
			`add(l.PublicKey, account[AccountFleet], Permissions{Publish: []string{">"}, Subscribe: []string{">"}},`}},
		pkg: brokerTests, run: "^TestWall",
	},
}

// directGet reads single messages from whichever replica answers first.
var directGet = []edit{{domainFile, //nolint:gochecknoglobals // a table
	`	var r storedMsg
	if err := d.api(ctx, "STREAM.MSG.GET."+stream, query, &r); err != nil {
		return streams.Msg{}, err
	}
`, `	var r storedMsg
	body, err := json.Marshal(query)
	if err != nil {
		return streams.Msg{}, err
	}
	short, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	got, err := d.nc.RequestWithContext(short, d.prefix+"DIRECT.GET."+stream, body)
	if err != nil {
		return streams.Msg{}, err
	}
	if got.Header.Get("Status") != "" {
		return streams.Msg{}, &APIError{Code: 404, ErrCode: errMessageNotFound, Description: "no message found"}
	}
	r.Message.Subject, r.Message.Data = got.Header.Get("Nats-Subject"), got.Data
	if _, err := fmt.Sscan(got.Header.Get("Nats-Sequence"), &r.Message.Seq); err != nil {
		return streams.Msg{}, err
	}
	if r.Message.Time, err = time.Parse(time.RFC3339Nano, got.Header.Get("Nats-Time-Stamp")); err != nil {
		return streams.Msg{}, err
	}
	r.Message.Header = []byte("NATS/1.0\r\n")
	for name, values := range got.Header {
		for _, v := range values {
			r.Message.Header = append(r.Message.Header, name+": "+v+"\r\n"...)
		}
	}
	r.Message.Header = append(r.Message.Header, "\r\n"...)
`}}
