package codeq

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// Reason says why a call failed. Each reason is itself an error, so that errors.Is recognises it:
//
//	if errors.Is(err, codeq.ErrTaskNotFound) { … }
//
// The server's reasons are those of codeq.v1.ErrorReason without their prefix. If the server gave none, the reason is the
// name of the gRPC code, such as "PERMISSION_DENIED".
type Reason string

// Error returns the name of the reason.
func (r Reason) Error() string { return string(r) }

// Reasons that the SDK itself gives. The server, too, gives ErrDeadlineExceeded and ErrOutcomeUnknown.
const (
	// ErrUnavailable means that no server was reached, or that it went away.
	ErrUnavailable Reason = "UNAVAILABLE"
	// ErrClosed means that the producer, worker or client was closed by its owner.
	ErrClosed Reason = "CLOSED"
	// ErrInvalidArgument means that an argument was refused before anything was sent. Violations names the argument.
	ErrInvalidArgument Reason = "INVALID_ARGUMENT"
	// ErrUnsupported means that the server does not know the call: it is older than the SDK, or not a codeq server.
	ErrUnsupported Reason = "UNIMPLEMENTED"
	// ErrCallCancelled means that the caller's context was cancelled.
	ErrCallCancelled Reason = "CANCELLED"
)

// Violation is a rejected field or argument.
type Violation struct {
	// Field is the path of the field, such as "tasks[3].priority".
	Field string
	// Description says what is wrong with it, in human-readable form.
	Description string
}

// Error is every error of the SDK.
type Error struct {
	// Reason is the machine-readable reason.
	Reason Reason
	// Message is human-readable text, which may change.
	Message string
	// Retryable reports whether the same call may succeed later.
	Retryable bool
	// RetryAfter is the time to wait before a retry, if the server asked for it; otherwise 0.
	RetryAfter time.Duration
	// Violations are the rejected fields; often none.
	Violations []Violation
	// Metadata are further machine-readable details from the server, by name; often none.
	Metadata map[string]string
	// Cause is the error behind this one, such as context.Canceled; nil if there is none.
	Cause error
}

// Error returns the reason and the message.
func (e *Error) Error() string { return string(e.Reason) + ": " + e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether the target is the reason of this error.
func (e *Error) Is(target error) bool {
	reason, isReason := target.(Reason)
	return isReason && reason == e.Reason
}

// Clone returns a copy, for another caller.
func (e *Error) Clone() *Error {
	clone := *e
	clone.Violations = slices.Clone(e.Violations)
	clone.Metadata = maps.Clone(e.Metadata)
	return &clone
}

// ReasonOf returns the reason of an error; "" if it is not an error of the SDK.
func ReasonOf(err error) Reason {
	var typed *Error
	if errors.As(err, &typed) {
		return typed.Reason
	}
	var reason Reason
	if errors.As(err, &reason) {
		return reason
	}
	return ""
}

// IsRetryable reports whether the same call may succeed later.
func IsRetryable(err error) bool {
	var typed *Error
	return errors.As(err, &typed) && typed.Retryable
}

// IsLeaseLost reports whether a call was rejected because the caller does not hold the lease of the task: another worker
// may be running it.
func IsLeaseLost(err error) bool {
	switch ReasonOf(err) {
	case ErrTaskNotClaimed, ErrStaleLeaseToken, ErrNotLeaseOwner, "FAILED_PRECONDITION":
		return true
	default:
		return false
	}
}

// Invalid returns the error of an argument that was refused before anything was sent.
func Invalid(field, description string) *Error {
	return &Error{
		Reason:     ErrInvalidArgument,
		Message:    field + ": " + description,
		Violations: []Violation{{Field: field, Description: description}},
	}
}
