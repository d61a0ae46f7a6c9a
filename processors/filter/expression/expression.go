// Package expression is the language in which configurations ask about one
// message: [expr], made pure. The same message gives the same answer on every
// host and at any time: there is no clock and no time zone, maps are walked in
// the order of their keys, and no value has methods. A message can cost a
// bounded amount of memory only.
//
// These variables describe the message:
//
//	subject  string
//	tokens   the tokens of the subject, from tokens[0]
//	header   the first value of each field; header["Name"] is "" when absent
//	data     the payload, decoded from JSON where an expression reaches it
//	size     number of bytes of the payload
//	time     when the event happened (D8): time.unix, .nano, .year, .month,
//	         .day, .hour, .minute, .second, .weekday, all in UTC
//	seq      sequence in the source stream
//
// Whole numbers of the payload that fit 64 bits are integers, others are
// floating point. Times can be compared; the difference of two times, and
// duration("10m"), are seconds. date(x) reads a number of seconds since 1970, a
// time in RFC 3339 form or a date, date(text, layout) any layout of Go; a text
// that names no offset is UTC. string(x) of anything but a string is its JSON.
//
// [expr]: https://expr-lang.org/docs/language-definition
package expression

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"

	"github.com/weirhq/weir/streams"
)

const (
	maxNodes  = 2000      // of a program
	maxMemory = 1_000_000 // elements of lists, or bytes of text, that a run may make
	maxError  = 300       // bytes of a reason
)

// Scope is one message as programs see it. It is reused from message to
// message, and keeps what it has decoded for all programs that run on it.
type Scope struct{ env env }

// Set makes m the message that programs see.
func (s *Scope) Set(m streams.Msg) {
	s.env = env{Subject: m.Subject, Size: len(m.Data), Seq: int(m.Seq), msg: m}
}

// env holds the variables. Expressions reach the exported fields. Those marked
// as derived are never filled: naming them calls the function of the same name
// in derived, which computes the value when it is needed.
type env struct {
	Subject string            `expr:"subject"`
	Size    int               `expr:"size"`
	Seq     int               `expr:"seq"`
	Tokens  []string          `expr:"tokens"` // derived
	Header  map[string]string `expr:"header"` // derived
	Data    any               `expr:"data"`   // derived
	Time    Time              `expr:"time"`   // derived

	msg     streams.Msg
	decoded bool // data and dataErr are set
	data    any
	dataErr error
}

// payload decodes the payload on its first use.
func (e *env) payload() (any, error) {
	if !e.decoded {
		e.decoded = true
		e.data, e.dataErr = Decode(e.msg.Data)
		if e.dataErr != nil {
			e.dataErr = fmt.Errorf("payload is not JSON: %w", e.dataErr)
		}
	}
	return e.data, e.dataErr
}

// header returns the first value of each field.
func (e *env) header() map[string]string {
	h := make(map[string]string, len(e.msg.Header))
	for k := range e.msg.Header {
		h[k] = e.msg.Header.Get(k)
	}
	return h
}

// Result is what an expression must give.
type Result int

// The results that can be asked for.
const (
	Any    Result = iota // a value of JSON, a Time, or a list or map of them
	Bool                 // true or false; nil is false
	String               // a text
)

// Program is a compiled expression. Calls of Run must not overlap.
type Program struct {
	code   *vm.Program
	vm     vm.VM
	result Result
}

// Compile checks the syntax of an expression and all types that can be known
// before it runs, that of the result among them.
func Compile(source string, result Result) (*Program, error) {
	if strings.TrimSpace(source) == "" {
		return nil, errors.New("expression is empty")
	}
	v := &variables{}
	opts := append(language(), expr.Env(env{}), expr.MaxNodes(maxNodes), expr.Patch(v))
	switch result {
	case Bool:
		opts = append(opts, expr.AsBool())
	case String:
		opts = append(opts, expr.AsKind(reflect.String))
	}
	code, err := expr.Compile(source, opts...)
	if v.err != nil {
		return nil, v.err
	}
	if err != nil {
		return nil, err
	}
	return &Program{code: code, vm: vm.VM{MemoryBudget: maxMemory}, result: result}, nil
}

// Run evaluates the expression on the message of s. The value has the type that
// was asked for. An error is one short line, and depends on nothing but the
// message.
func (p *Program) Run(s *Scope) (any, error) {
	v, err := p.vm.Run(p.code, &s.env)
	if err != nil {
		return nil, reason(err)
	}
	if _, ok := v.(string); p.result == String && !ok {
		return nil, fmt.Errorf("gave %s, want string", kind(v))
	}
	return v, nil
}

// reason turns an error of the machine into one line.
func reason(err error) error {
	text, at := err.Error(), ""
	if e, ok := errors.AsType[*file.Error](err); ok {
		text = e.Message
		if e.Line > 0 {
			at = fmt.Sprintf(" (line %d, column %d)", e.Line, e.Column+1)
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "..."
	}
	return errors.New(text + at)
}

// kind names the type of a value for people.
func kind(v any) string {
	switch v.(type) {
	case nil:
		return "nil"
	case bool:
		return "bool"
	case string:
		return "string"
	case Time:
		return "time"
	}
	switch reflect.TypeOf(v).Kind() {
	case reflect.Map:
		return "map"
	case reflect.Slice, reflect.Array:
		return "list"
	}
	return "number"
}

// Names of functions that only variables can call: no identifier can hold "()".
const (
	fnTokens = "tokens()"
	fnHeader = "header()"
	fnField  = "header()[]"
	fnData   = "data()"
	fnTime   = "time()"
)

// derived are the functions behind the derived variables. They are given the
// environment as their first argument.
func derived() []expr.Option {
	scope := func(params []any) *env { return params[0].(*env) }
	return []expr.Option{
		expr.Function(fnTokens, func(p ...any) (any, error) {
			return strings.Split(scope(p).Subject, "."), nil
		}, new(func(any) []string)),
		expr.Function(fnHeader, func(p ...any) (any, error) {
			return scope(p).header(), nil
		}, new(func(any) map[string]string)),
		expr.Function(fnField, func(p ...any) (any, error) {
			return scope(p).msg.Header.Get(p[1].(string)), nil
		}, new(func(any, string) string)),
		expr.Function(fnData, func(p ...any) (any, error) {
			return scope(p).payload()
		}, new(func(any) any)),
		expr.Function(fnTime, func(p ...any) (any, error) {
			return timeOf(scope(p).msg.EventTime()), nil
		}, new(func(any) Time)),
	}
}

// variables replaces the derived variables by calls, and header["Name"] by the
// call that looks up one field. It refuses the name of the environment itself.
type variables struct{ err error }

// Visit implements ast.Visitor.
func (v *variables) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		switch n.Value {
		case "tokens", "header", "data", "time":
			ast.Patch(node, call(n.Value+"()"))
		case "$env":
			v.err = errors.New("unknown name $env")
		}
	case *ast.MemberNode:
		if isHeader(n.Node) {
			ast.Patch(node, call(fnField, n.Property))
		}
	}
}

func isHeader(n ast.Node) bool {
	if chain, ok := n.(*ast.ChainNode); ok {
		n = chain.Node
	}
	c, ok := n.(*ast.CallNode)
	if !ok {
		return false
	}
	id, ok := c.Callee.(*ast.IdentifierNode)
	return ok && id.Value == fnHeader
}

func call(fn string, args ...ast.Node) *ast.CallNode {
	return &ast.CallNode{
		Callee:    &ast.IdentifierNode{Value: fn},
		Arguments: append([]ast.Node{&ast.IdentifierNode{Value: "$env"}}, args...),
	}
}
