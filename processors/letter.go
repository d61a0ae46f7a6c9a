package processors

import (
	"fmt"
	"strings"

	"github.com/weirhq/weir/streams"
)

// maxReason is how much of a reason stands in a dead letter, in bytes.
const maxReason = 1024

// deadSpace begins the subjects of a stage's dead letters.
func deadSpace(overlay, uid string) string {
	return strings.TrimSuffix(streams.Dead(overlay, uid), ">")
}

// deadLetter is what becomes of a message that a stage cannot handle. If check
// would not take it with its payload, it only tells what it was.
func deadLetter(overlay, uid string, m streams.Msg, reason string, check func(streams.Msg) error) streams.Msg {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	space := deadSpace(overlay, uid)
	d := streams.Msg{Subject: space + m.Subject, Header: m.Header.Forward(), Data: m.Data}
	d.Header[streams.HeaderReason] = []string{printable(reason)}
	d.Header[streams.HeaderSubject] = []string{printable(m.Subject)}
	if streams.ValidSubject(m.Subject) != nil || len(d.Subject) > streams.MaxSubject {
		d.Subject = space + "_invalid"
	}
	if check(d) == nil {
		return d
	}
	return withoutPayload(space, m.Subject, reason, len(m.Data))
}

// withoutPayload is the dead letter of a message that is too large for one.
func withoutPayload(space, subject, reason string, size int) streams.Msg {
	return streams.Msg{Subject: space + "_oversized", Header: streams.Header{
		streams.HeaderReason:  {printable(fmt.Sprintf("%s (payload of %d bytes and header left out, too large)", reason, size))},
		streams.HeaderSubject: {printable(subject)},
	}}
}

// printable makes a text fit for a header field.
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return string(b)
}
