package audit

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weirhq/weir/schemas"
	"github.com/weirhq/weir/streams"
)

// Kind says what is wrong with the records.
type Kind string

// The kinds of findings.
const (
	Malformed  Kind = "malformed"  // it is no record of the audit
	Unchained  Kind = "unchained"  // a record in no chain
	Gap        Kind = "gap"        // records are missing
	Changed    Kind = "changed"    // a record is not the one that the next one follows
	Reordered  Kind = "reordered"  // a record comes after one that follows it
	Repeated   Kind = "repeated"   // there are two records with one number
	Checkpoint Kind = "checkpoint" // a checkpoint is not right, or not by whom it should be
	Unvouched  Kind = "unvouched"  // no checkpoint vouches for any record of the chain
	Tail       Kind = "tail"       // the newest records are missing
	TooMany    Kind = "too_many"   // there are more chains than can be
)

// Finding is something wrong.
type Finding struct {
	Kind   Kind   `json:"kind"`
	Signer string `json:"signer,omitempty"` // name of the chain; "" where that is not known
	First  uint64 `json:"first,omitempty"`  // number in the chain of the first record concerned
	Last   uint64 `json:"last,omitempty"`   // and of the last one
	Stream string `json:"stream,omitempty"` // where it was found
	Seq    uint64 `json:"seq,omitempty"`    // at which sequence of the stream
	Text   string `json:"text"`             // one line about it
}

// Options of a [Verifier].
type Options struct {
	// Trusted says why the key of a checkpoint, whose signature is right, is not
	// that of the program that it names, or nil; for example [TrustKeys]. Required.
	Trusted func(schemas.AuditCheckpoint) error
	// Expect are records that chains have to reach, as somebody remembers them: the
	// heads of the overlay that the records come from, or of an earlier verification.
	Expect map[string]Head
	// Trimmed says that old records may have been removed for their age, so that a
	// chain begins anywhere. Otherwise it begins with its first record.
	Trimmed bool
	// AllowUnchained counts records of signers that know of no chains, and does
	// not find fault with them.
	AllowUnchained bool
}

// Limits of a Verifier.
const (
	maxChains   = 100_000
	maxFindings = 1000 // beside the first one of each chain
)

// Verifier reads records in the order of their stream, from one stream or from
// several one after the other, and finds what is wrong with them.
type Verifier struct {
	o        Options
	report   Report
	chains   map[string]*chain
	findings []*Finding // in the order in which they were found
	loose    int        // of them, those that belong to no chain
	full     bool       // TooMany was told
}

// chain is what is known of one chain.
type chain struct {
	first   uint64 // the first record that was read
	head    Head   // the newest record
	sealed  uint64 // newest checkpoint that is right and in its place
	finding *Finding
}

// NewVerifier makes a verifier.
func NewVerifier(o Options) (*Verifier, error) {
	if o.Trusted == nil {
		return nil, errors.New("audit: whose checkpoints are trusted is not said")
	}
	return &Verifier{o: o, chains: map[string]*chain{}}, nil
}

// Add reads the next record.
func (v *Verifier) Add(m streams.Msg) {
	v.report.Records++
	r, err := schemas.DecodeAuditRecord(m.Data)
	if err != nil {
		v.lose(m, Malformed, err.Error())
		return
	}
	l := r.Chain()
	if l.IsZero() {
		v.report.Unchained++
		if !v.o.AllowUnchained {
			v.lose(m, Unchained, "the record is in no chain")
		}
		return
	}
	c := v.chains[l.Signer]
	if c == nil {
		if len(v.chains) >= maxChains {
			if !v.full {
				v.full = true
				v.lose(m, TooMany, fmt.Sprintf("there are more than %d chains", maxChains))
			}
			return
		}
		c = &chain{first: l.Sequence}
		v.chains[l.Signer] = c
		v.begin(c, m, r)
	}
	v.follow(c, m, l)
	if p, ok := r.(schemas.AuditCheckpoint); ok {
		v.vouch(c, m, p)
	}
}

// lose keeps a finding that belongs to no chain.
func (v *Verifier) lose(m streams.Msg, kind Kind, text string) {
	if v.loose++; v.loose <= maxFindings {
		v.findings = append(v.findings, &Finding{Kind: kind, Stream: m.Stream, Seq: m.Seq, Text: text})
	}
}

// find keeps the first finding of a chain. What comes after it mostly follows
// from it.
func (v *Verifier) find(c *chain, m streams.Msg, f Finding) {
	if c.finding != nil {
		return
	}
	f.Stream, f.Seq = m.Stream, m.Seq
	c.finding = &f
	v.findings = append(v.findings, c.finding)
}

// begin looks at the first record of a chain that is there.
func (v *Verifier) begin(c *chain, m streams.Msg, r schemas.AuditRecord) {
	l := r.Chain()
	switch _, ok := r.(schemas.AuditCheckpoint); {
	case l.Sequence > 1 && !v.o.Trimmed:
		v.find(c, m, Finding{
			Kind: Gap, Signer: l.Signer, First: 1, Last: l.Sequence - 1,
			Text: fmt.Sprintf("the chain begins with record %d", l.Sequence),
		})
	case l.Sequence == 1 && !ok:
		v.find(c, m, Finding{
			Kind: Checkpoint, Signer: l.Signer, First: 1, Last: 1, Text: "the chain does not begin with a checkpoint",
		})
	}
	c.head.Sequence = l.Sequence - 1
	c.head.Hash = l.Previous
}

// follow compares the place of a record with the head of its chain.
func (v *Verifier) follow(c *chain, m streams.Msg, l schemas.AuditLink) {
	hash := sha256.Sum256(m.Data)
	if want, ok := v.o.Expect[l.Signer]; ok && l.Sequence == want.Sequence && hash != want.Hash {
		v.find(c, m, Finding{
			Kind: Changed, Signer: l.Signer, First: l.Sequence, Last: l.Sequence,
			Text: fmt.Sprintf("record %d is another one than is remembered", l.Sequence),
		})
	}
	next := c.head.Sequence + 1
	switch {
	case l.Sequence > next:
		v.find(c, m, Finding{
			Kind: Gap, Signer: l.Signer, First: next, Last: l.Sequence - 1,
			Text: fmt.Sprintf("records %d to %d are missing before record %d", next, l.Sequence-1, l.Sequence),
		})
	case l.Sequence < next:
		v.late(c, m, l)
		return
	case l.Previous != c.head.Hash:
		v.find(c, m, Finding{
			Kind: Changed, Signer: l.Signer, First: c.head.Sequence, Last: l.Sequence,
			Text: fmt.Sprintf("record %d does not follow record %d as it is here: one of them was changed", l.Sequence, c.head.Sequence),
		})
	}
	c.head = Head{l.Sequence, hash}
}

// late is for a record whose number is not above that of the head.
func (v *Verifier) late(c *chain, m streams.Msg, l schemas.AuditLink) {
	if f := c.finding; f != nil && f.Kind == Gap && l.Sequence >= f.First && l.Sequence <= f.Last {
		f.Kind = Reordered
		f.Text = fmt.Sprintf("record %d comes after record %d", l.Sequence, f.Last+1)
		return
	}
	if l.Sequence < c.first {
		v.find(c, m, Finding{
			Kind: Reordered, Signer: l.Signer, First: l.Sequence, Last: l.Sequence,
			Text: fmt.Sprintf("record %d comes after record %d", l.Sequence, c.first),
		})
		return
	}
	v.find(c, m, Finding{
		Kind: Repeated, Signer: l.Signer, First: l.Sequence, Last: l.Sequence,
		Text: fmt.Sprintf("record %d comes once more after record %d", l.Sequence, c.head.Sequence),
	})
}

// vouch judges a checkpoint.
func (v *Verifier) vouch(c *chain, m streams.Msg, p schemas.AuditCheckpoint) {
	err := v.genuine(m, p)
	if err != nil {
		v.find(c, m, Finding{
			Kind: Checkpoint, Signer: p.Link.Signer, First: p.Link.Sequence, Last: p.Link.Sequence,
			Text: fmt.Sprintf("checkpoint %d: %v", p.Link.Sequence, err),
		})
		return
	}
	if c.finding == nil {
		c.sealed = p.Link.Sequence
	}
}

// genuine says why a checkpoint was not made by its signer as it is here.
func (v *Verifier) genuine(m streams.Msg, p schemas.AuditCheckpoint) error {
	if !ed25519.Verify(p.Key[:], p.Signed(), p.Signature[:]) {
		return errors.New("the signature is not right")
	}
	// No later record may have been made that would show what was changed beside
	// what is signed.
	if b, err := p.Encode(); err != nil || !bytes.Equal(b, m.Data) {
		return errors.New("it was changed beside what is signed")
	}
	return v.o.Trusted(p)
}

// Report says what a Verifier has found.
type Report struct {
	Records   uint64 `json:"records"`
	Unchained uint64 `json:"unchained"`
	// Chains, by the name of their signer.
	Chains []ChainReport `json:"chains"`
	// Findings has the first one of each chain, and what belongs to none, in the
	// order of the records.
	Findings []Finding `json:"findings"`
	// Untold counts findings that are left out, which belong to no chain.
	Untold int `json:"untold,omitempty"`
}

// ChainReport is about one chain.
type ChainReport struct {
	Signer string `json:"signer"`
	First  uint64 `json:"first"` // number of the first record
	Last   uint64 `json:"last"`  // and of the last one
	// Sealed is the newest checkpoint up to which all is right. Records after it can
	// still have been exchanged by somebody who has made all of them anew.
	Sealed uint64 `json:"sealed"`
	Head   Head   `json:"head"` // for Options.Expect of another verification
}

// OK says that nothing is wrong.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// Report ends the verification. What was added up to now is all there is.
func (v *Verifier) Report() Report {
	for _, name := range slices.Sorted(maps.Keys(v.o.Expect)) {
		want, c := v.o.Expect[name], v.chains[name]
		if want.Sequence == 0 || c != nil && c.head.Sequence >= want.Sequence {
			continue
		}
		if c == nil {
			c = &chain{}
			v.chains[name] = c
		}
		v.find(c, streams.Msg{}, Finding{
			Kind: Tail, Signer: name, First: c.head.Sequence + 1, Last: want.Sequence,
			Text: fmt.Sprintf("the chain ends with record %d and had %d", c.head.Sequence, want.Sequence),
		})
	}
	r := v.report
	r.Untold = max(0, v.loose-maxFindings)
	for _, name := range slices.Sorted(maps.Keys(v.chains)) {
		c := v.chains[name]
		if c.sealed == 0 {
			v.find(c, streams.Msg{}, Finding{
				Kind: Unvouched, Signer: name, First: c.first, Last: c.head.Sequence, Text: "no checkpoint vouches for the chain",
			})
		}
		if c.head.Sequence > 0 {
			r.Chains = append(r.Chains, ChainReport{name, c.first, c.head.Sequence, c.sealed, c.head})
		}
	}
	for _, f := range v.findings {
		r.Findings = append(r.Findings, *f)
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return cmp.Compare(place(a), place(b)) })
	return r
}

// place puts what was found at the end after what was found on the way.
func place(f Finding) int {
	if f.Kind == Tail || f.Kind == Unvouched {
		return 1
	}
	return 0
}
