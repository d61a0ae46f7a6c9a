package cli

import (
	"errors"
	"fmt"
	"io"
)

// Exit codes of every verb.
const (
	ExitFailed      = 1 // something went wrong
	ExitRejected    = 2 // the input is not right, or what exists is not what is declared
	ExitUnreachable = 3 // a broker or machine does not answer
)

// ExitError carries the code with which the process ends. Its text goes to
// standard error.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *ExitError) Unwrap() error { return e.Err }

// rejected is an ExitError for input that is not right.
func rejected(format string, args ...any) error {
	return &ExitError{Code: ExitRejected, Err: fmt.Errorf(format, args...)}
}

// Exit prints what went wrong, if anything, and returns the exit code.
func Exit(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(w, "weir:", err)
	if e := (*ExitError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ExitFailed
}
