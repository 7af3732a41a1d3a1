// Package usererr is how an error reaches a person: the problem, the fix, and the exit code that scripts can rely on.
package usererr

import (
	"errors"
	"fmt"
)

// Code is the exit code of the dayfly command. The codes are part of its interface (docs/cli.md).
type Code int

const (
	OK           Code = 0
	Failed       Code = 1 // something went wrong that has no code of its own
	Usage        Code = 2 // the command line is wrong
	NoCluster    Code = 3 // the cluster cannot be reached
	NotInstalled Code = 4 // dayfly is not installed in the cluster, or its version does not fit
	Forbidden    Code = 5 // the caller has no right to do this
	NotFound     Code = 6 // a named object does not exist
	Refused      Code = 7 // it exists, but cannot be intercepted
	Conflict     Code = 8 // somebody else holds it
	TimedOut     Code = 9 // it did not happen in time
)

// Error is what a person reads.
type Error struct {
	Code    Code
	Problem string // one sentence, no full stop
	Fix     string // what to do about it; may be empty
	Cause   error  // what led to it; may be nil
}

func (e *Error) Error() string {
	s := e.Problem
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// New returns an error with a problem and a fix.
func New(code Code, fix, format string, args ...any) *Error {
	return &Error{Code: code, Problem: fmt.Sprintf(format, args...), Fix: fix}
}

// Because adds the cause.
func (e *Error) Because(cause error) *Error {
	e.Cause = cause
	return e
}

// CodeOf returns the exit code of an error: 0 for nil, 1 for an error that names none.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Failed
}

// FixOf returns what to do about an error, or "".
func FixOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Fix
	}
	return ""
}
