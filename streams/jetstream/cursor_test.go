package jetstream

import "testing"

func TestParseAck(t *testing.T) {
	for reply, want := range map[string][4]uint64{
		"$JS.ACK.S.C.1.42.7.1700000000000000001.9":                 {42, 7, 1700000000000000001, 9},
		"$JS.ACK.hub.ACCHASH.S.C.1.42.7.1700000000000000001.9":     {42, 7, 1700000000000000001, 9},
		"$JS.ACK.hub.ACCHASH.S.C.1.42.7.1700000000000000001.9.tok": {42, 7, 1700000000000000001, 9},
		"$JS.ACK._.ACCHASH.S.C.1.1.1.5.0.tok":                      {1, 1, 5, 0},
	} {
		seq, cseq, at, pending, ok := parseAck(reply)
		if got := [4]uint64{seq, cseq, uint64(at), pending}; !ok || got != want {
			t.Errorf("%s gives %v, %v", reply, got, ok)
		}
	}
	for _, reply := range []string{"", "_INBOX.x", "$JS.ACK.", "$JS.ACK.S.C.1.42", "$JS.ACK.S.C.1.x.7.1.9", "$JS.ACK.S.C.1.42.7.-1.9", "$JS.ACK.S.C.1.42.7.1.x"} {
		if _, _, _, _, ok := parseAck(reply); ok {
			t.Errorf("%q was read", reply)
		}
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add("$JS.ACK.hub.ACCHASH.S.C.1.42.7.1700000000000000001.9.tok")
	f.Fuzz(func(_ *testing.T, reply string) { parseAck(reply) })
}
