package schemas

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// ProvisioningName is the event about one step of how a node becomes a member of
// the fleet.
const ProvisioningName = "io.weir.provisioning.v1.step"

// ProvisioningStep says which step an event is about. It is also the third token
// of the subject of the event.
type ProvisioningStep string

// The steps. An enrolment begins with a request and a provisioner that takes it
// on, and ends with a failure, a result, or a decision that is not to enrol.
const (
	ProvisioningRequest  ProvisioningStep = "request"  // a node waits, and a provisioner has taken it on
	ProvisioningDecision ProvisioningStep = "decision" // what is to become of it; stored before the node is told
	ProvisioningFailure  ProvisioningStep = "failure"  // the enrolment came to nothing
	ProvisioningResult   ProvisioningStep = "result"   // the node has its configuration and its token
	ProvisioningOrder    ProvisioningStep = "order"    // what an operator wants
)

// Actions of a decision.
const (
	ProvisioningEnrol    = "enrol"    // it becomes a member
	ProvisioningDefer    = "defer"    // it is asked about again later
	ProvisioningShutdown = "shutdown" // its program ends
	ProvisioningRefuse   = "refuse"   // it does not become a member
)

// Orders of operators. Retry is about one node, the others about all of them.
const (
	ProvisioningRetry  = "retry"  // take the node on again, whatever has happened
	ProvisioningPause  = "pause"  // take on no node
	ProvisioningResume = "resume" // go on
)

// Provisioning is one step of how a node becomes a member of the fleet, format
// io.weir.provisioning.v1.step. No secret is in it.
type Provisioning struct {
	ID       string // of this event and of no other
	Step     ProvisioningStep
	Time     time.Time // by the clock of the program that tells
	Overlay  string    // in which the node is provisioned
	Program  string    // that tells: a copy of the provisioner, or what the operator uses
	Identity string    // of the node; "" for an order about all

	Enrolment string // the same in all steps of one enrolment; "" for an order
	Attempt   int    // from 1, since the last result; 0 for an order
	Found     string // request: how the node was found, such as "startup", "scan" or "lease"

	Action string // decision: what is to become of the node; order: what is wanted
	Code   string // decision and failure: why, in one word
	Reason string // why, in a sentence, for operators
	By     string // decision: who has decided, such as "helper"; order: who wants it

	Target    string    // decision, result: overlay that the node becomes a member of; "" is what its configuration says
	PublicKey []byte    // decision to enrol, result: that the node has proven
	TokenID   string    // decision to enrol, result: of the token that it gets
	Expires   time.Time // decision to enrol, result: when that token ends
	Presented string    // id of the provisioning token that the node has presented; "" if it has none

	// Retry is when the node is taken on again at the earliest, after a failure or a
	// decision not to enrol; the zero time is when somebody orders it.
	Retry       time.Time
	Quarantined bool // failure: it has failed too often, and waits for an order
}

// provisioningEvent is a Provisioning on the wire.
type provisioningEvent struct {
	SpecVersion     string           `json:"specversion"`
	ID              string           `json:"id"`
	Source          string           `json:"source"`
	Type            string           `json:"type"`
	Subject         string           `json:"subject,omitempty"`
	Time            string           `json:"time"`
	DataContentType string           `json:"datacontenttype"`
	Data            provisioningData `json:"data"`
}

type provisioningData struct {
	Step        ProvisioningStep `json:"step"`
	Overlay     string           `json:"overlay"`
	Program     string           `json:"program"`
	Identity    string           `json:"identity,omitempty"`
	Enrolment   string           `json:"enrolment,omitempty"`
	Attempt     int              `json:"attempt,omitempty"`
	Found       string           `json:"found,omitempty"`
	Action      string           `json:"action,omitempty"`
	Code        string           `json:"code,omitempty"`
	Reason      string           `json:"reason,omitempty"`
	By          string           `json:"by,omitempty"`
	Target      string           `json:"target,omitempty"`
	PublicKey   string           `json:"public_key,omitempty"`
	TokenID     string           `json:"token_id,omitempty"`
	Expires     string           `json:"expires,omitempty"`
	Presented   string           `json:"provisioning_token_id,omitempty"`
	Retry       string           `json:"retry,omitempty"`
	Quarantined bool             `json:"quarantined,omitempty"`
}

func (p Provisioning) source() string {
	return "/overlays/" + url.PathEscape(p.Overlay) + "/programs/" + url.PathEscape(p.Program)
}

func optionalTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return formatTime(t)
}

// Encode writes the event as a CloudEvent 1.0 in structured JSON. It fails when a
// field that the step needs is missing, or is not UTF-8.
func (p Provisioning) Encode() ([]byte, error) {
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("provisioning event: %w", err)
	}
	return encode(provisioningEvent{
		SpecVersion: "1.0", ID: p.ID, Source: p.source(), Type: ProvisioningName, Subject: p.Identity, Time: formatTime(p.Time),
		DataContentType: "application/json", Data: provisioningData{
			p.Step, p.Overlay, p.Program, p.Identity, p.Enrolment, p.Attempt, p.Found, p.Action, p.Code, p.Reason, p.By,
			p.Target, hex.EncodeToString(p.PublicKey), p.TokenID, optionalTime(p.Expires), p.Presented, optionalTime(p.Retry), p.Quarantined,
		},
	})
}

// enrols says whether the step is about a token for the node.
func (p Provisioning) enrols() bool {
	return p.Step == ProvisioningResult || p.Step == ProvisioningDecision && p.Action == ProvisioningEnrol
}

func (p Provisioning) validate() error {
	if p.ID == "" || p.Overlay == "" || p.Program == "" {
		return errors.New("id, overlay or program is empty")
	}
	if err := p.validateStep(); err != nil {
		return err
	}
	if (p.Code != "" || p.Step == ProvisioningDecision || p.Step == ProvisioningFailure) && !auditCode.MatchString(p.Code) {
		return fmt.Errorf("code %.80q is not one", p.Code)
	}
	if n := len(p.PublicKey); n != 0 && n != 32 || n == 0 && p.enrols() {
		return fmt.Errorf("public key of %d bytes, want 32", n)
	}
	if p.enrols() && (p.TokenID == "" || p.Expires.IsZero()) {
		return errors.New("token_id or expires is empty")
	}
	for _, t := range []time.Time{p.Time, p.Expires, p.Retry} {
		if err := writableTime(t); err != nil {
			return err
		}
	}
	return validText("id", p.ID, "overlay", p.Overlay, "program", p.Program, "identity", p.Identity, "enrolment", p.Enrolment,
		"found", p.Found, "reason", p.Reason, "by", p.By, "target", p.Target, "token_id", p.TokenID, "provisioning_token_id", p.Presented)
}

// validateStep checks what belongs to the step.
func (p Provisioning) validateStep() error {
	actions := []string{""}
	switch p.Step {
	case ProvisioningRequest, ProvisioningFailure, ProvisioningResult:
	case ProvisioningDecision:
		actions = []string{ProvisioningEnrol, ProvisioningDefer, ProvisioningShutdown, ProvisioningRefuse}
	case ProvisioningOrder:
		actions = []string{ProvisioningRetry, ProvisioningPause, ProvisioningResume}
		if (p.Identity == "") == (p.Action == ProvisioningRetry) {
			return fmt.Errorf("order %.80q and identity %.80q do not go together", p.Action, p.Identity)
		}
	default:
		return fmt.Errorf("step %.80q is not known", p.Step)
	}
	if !slices.Contains(actions, p.Action) {
		return fmt.Errorf("action %.80q is none of a %s", p.Action, p.Step)
	}
	if p.Step == ProvisioningOrder {
		return nil
	}
	if p.Identity == "" || p.Enrolment == "" || p.Attempt < 1 || p.Attempt > 1<<31-1 {
		return fmt.Errorf("identity or enrolment is empty, or attempt %d is out of range", p.Attempt)
	}
	return nil
}

// DecodeProvisioning reads the event that Encode wrote. It refuses an event whose
// attributes do not agree with its data.
func DecodeProvisioning(b []byte) (Provisioning, error) {
	p, err := decodeProvisioning(b)
	if err != nil {
		return Provisioning{}, fmt.Errorf("provisioning event: %w", err)
	}
	return p, nil
}

func decodeProvisioning(b []byte) (Provisioning, error) {
	var p Provisioning
	event, data, err := auditParts(b, ProvisioningName)
	if err != nil {
		return p, err
	}
	if p.ID, err = event.text("id"); err != nil {
		return p, err
	}
	var step string
	for name, to := range map[string]*string{"step": &step, "overlay": &p.Overlay, "program": &p.Program} {
		if *to, err = data.text(name); err != nil {
			return p, err
		}
	}
	p.Step = ProvisioningStep(step)
	for name, to := range map[string]any{
		"identity": &p.Identity, "enrolment": &p.Enrolment, "found": &p.Found, "action": &p.Action,
		"code": &p.Code, "reason": &p.Reason, "by": &p.By, "target": &p.Target, "token_id": &p.TokenID,
		"provisioning_token_id": &p.Presented, "expires": &p.Expires, "retry": &p.Retry, "quarantined": &p.Quarantined,
	} {
		if err := data.maybe(name, to); err != nil {
			return p, err
		}
	}
	if err := data.count("attempt", &p.Attempt); err != nil {
		return p, err
	}
	if _, ok := data["public_key"]; ok {
		p.PublicKey = make([]byte, 32)
		if err := data.hex("public_key", p.PublicKey); err != nil {
			return p, err
		}
	}
	if err := event.get("time", &p.Time); err != nil {
		return p, err
	}
	var subject string
	if err := errors.Join(p.validate(), event.maybe("subject", &subject)); err != nil {
		return p, err
	}
	if subject != p.Identity {
		return p, fmt.Errorf("subject is %.80q and the identity is %.80q", subject, p.Identity)
	}
	return p, event.attribute("source", p.source())
}

// count reads a small whole number, which may be missing.
func (o object) count(name string, to *int) error {
	raw, ok := o[name]
	if !ok {
		return nil
	}
	n, err := decodeInteger(raw)
	if err == nil && (n < 1 || n > 1<<31-1) {
		err = fmt.Errorf("%s is out of range", json.Number(raw))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	*to = int(n)
	return nil
}
