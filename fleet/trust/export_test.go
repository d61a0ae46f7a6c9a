package trust

// Text is what a token was made of, for tests alone.
func Text(t Token) string { return t.text }
