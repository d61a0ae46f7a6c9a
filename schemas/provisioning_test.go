package schemas_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/weirhq/weir/schemas"
)

func step(s schemas.ProvisioningStep, change func(*schemas.Provisioning)) schemas.Provisioning {
	p := schemas.Provisioning{
		ID: "e1", Step: s, Time: time.Date(2026, 11, 22, 9, 36, 4, 0, time.UTC), Overlay: "mt-1", Program: "host/1",
		Identity: "n1.example.net", Enrolment: "x1", Attempt: 1,
	}
	if change != nil {
		change(&p)
	}
	return p
}

func token(p *schemas.Provisioning) {
	p.PublicKey, p.TokenID, p.Expires = bytes.Repeat([]byte{7}, 32), "t1", p.Time.Add(time.Hour)
}

func TestProvisioning(t *testing.T) {
	schema := compiled(t, schemas.ProvisioningName)
	for name, p := range map[string]schemas.Provisioning{
		"request": step(schemas.ProvisioningRequest, func(p *schemas.Provisioning) { p.Found = "scan" }),
		"enrol": step(schemas.ProvisioningDecision, func(p *schemas.Provisioning) {
			p.Action, p.Code, p.By, p.Target, p.Presented = schemas.ProvisioningEnrol, "enrol", "rules", "mt-2", "p1"
			token(p)
		}),
		"refuse": step(schemas.ProvisioningDecision, func(p *schemas.Provisioning) {
			p.Action, p.Code, p.Reason = schemas.ProvisioningRefuse, "duplicate", "a \"reason\" of <some> length"
		}),
		"failure": step(schemas.ProvisioningFailure, func(p *schemas.Provisioning) { p.Code, p.Retry = "no_answer", p.Time.Add(time.Second) }),
		"result":  step(schemas.ProvisioningResult, token),
		"pause": {ID: "e1", Step: schemas.ProvisioningOrder, Time: time.Unix(1, 0).UTC(), Overlay: "mt-1", Program: "weir",
			Action: schemas.ProvisioningPause, By: "ann"},
	} {
		b, err := p.Encode()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := check(t, schema, b); err != nil {
			t.Errorf("%s: %v in %s", name, err, b)
		}
		got, err := schemas.DecodeProvisioning(b)
		if err != nil {
			t.Errorf("%s: %v in %s", name, err, b)
			continue
		}
		if again, err := got.Encode(); err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: wrote %s, then %s, %v", name, b, again, err)
		}
	}
}

func TestProvisioningRefuses(t *testing.T) {
	for name, p := range map[string]schemas.Provisioning{
		"no step":             step("", nil),
		"no identity":         step(schemas.ProvisioningRequest, func(p *schemas.Provisioning) { p.Identity = "" }),
		"no attempt":          step(schemas.ProvisioningRequest, func(p *schemas.Provisioning) { p.Attempt = 0 }),
		"action of another":   step(schemas.ProvisioningRequest, func(p *schemas.Provisioning) { p.Action = schemas.ProvisioningDefer }),
		"no code":             step(schemas.ProvisioningFailure, nil),
		"result without key":  step(schemas.ProvisioningResult, func(p *schemas.Provisioning) { token(p); p.PublicKey = nil }),
		"result without end":  step(schemas.ProvisioningResult, func(p *schemas.Provisioning) { token(p); p.Expires = time.Time{} }),
		"retry of all":        step(schemas.ProvisioningOrder, func(p *schemas.Provisioning) { p.Action, p.Identity = schemas.ProvisioningRetry, "" }),
		"pause of one":        step(schemas.ProvisioningOrder, func(p *schemas.Provisioning) { p.Action = schemas.ProvisioningPause }),
		"reason is not UTF-8": step(schemas.ProvisioningFailure, func(p *schemas.Provisioning) { p.Code, p.Reason = "x", "\xff" }),
		"year 10000":          step(schemas.ProvisioningRequest, func(p *schemas.Provisioning) { p.Time = time.Date(10000, 1, 2, 0, 0, 0, 0, time.UTC) }),
	} {
		if b, err := p.Encode(); err == nil {
			t.Errorf("%s: wrote %s", name, b)
		}
	}
}

func FuzzDecodeProvisioning(f *testing.F) {
	seed(f, schemas.ProvisioningName)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := schemas.DecodeProvisioning(b)
		if err != nil {
			return
		}
		enc, err := p.Encode()
		if err != nil {
			t.Fatalf("decoded %+v but cannot encode it: %v", p, err)
		}
		if again, err := schemas.DecodeProvisioning(enc); err != nil {
			t.Fatalf("decoded %+v, then %v in %s", again, err, enc)
		}
	})
}
