package link

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	codeq "github.com/osvaldoandrade/codeq/sdks/go"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/reasons"
)

// FromStatus returns the typed form of an error of gRPC; typed errors stay as they are.
func FromStatus(err error) *codeq.Error {
	var typed *codeq.Error
	if errors.As(err, &typed) {
		return typed
	}
	told, _ := status.FromError(err)
	name := code.Code_name[int32(told.Code())]
	failure := &codeq.Error{Reason: codeq.Reason(name), Message: told.Message(), Cause: causeOf(err, told.Code())}
	hasReason := false
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Metadata = detail.GetMetadata()
			if detail.GetDomain() == reasons.Domain {
				failure.Reason, hasReason = codeq.Reason(detail.GetReason()), true
			}
		case *errdetails.BadRequest:
			for _, each := range detail.GetFieldViolations() {
				failure.Violations = append(failure.Violations, codeq.Violation{Field: each.GetField(), Description: each.GetDescription()})
			}
		case *errdetails.RetryInfo:
			failure.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	if row, known := reasons.ByName(string(failure.Reason)); hasReason && known {
		failure.Retryable = row.Retryable
	} else if !hasReason {
		failure.Retryable = isRetryable(told.Code())
	}
	return failure
}

func causeOf(err error, of codes.Code) error {
	switch of {
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return err
	}
}

func isRetryable(of codes.Code) bool {
	switch of {
	case codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.DeadlineExceeded:
		return true
	default:
		return false
	}
}

// FromReason returns the error of a rejected item of a batch or frame.
func FromReason(number codeqv1.ErrorReason, message string) *codeq.Error {
	row := reasons.Of(number)
	return &codeq.Error{Reason: codeq.Reason(row.Name), Message: message, Retryable: row.Retryable}
}

// Unavailable returns the error of a server that was not reached or went away.
func Unavailable(message string) *codeq.Error {
	return &codeq.Error{Reason: codeq.ErrUnavailable, Message: message, Retryable: true}
}

// Closed returns the error of an object that its owner has closed.
func Closed(what string) *codeq.Error {
	return &codeq.Error{Reason: codeq.ErrClosed, Message: "the " + what + " is closed"}
}

// codeOf returns the gRPC code behind an error, also for errors without a reason of codeq.
func codeOf(err *codeq.Error) codes.Code {
	if row, known := reasons.ByName(string(err.Reason)); known {
		return row.GRPCCode
	}
	if number, known := code.Code_value[string(err.Reason)]; known {
		return codes.Code(number)
	}
	return codes.Unknown
}

// IsFinal reports whether reconnecting is pointless: the token or request was rejected, or the server lacks the call.
func IsFinal(err *codeq.Error) bool {
	switch codeOf(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return true
	default:
		return err.Reason == codeq.ErrInvalidField
	}
}

// IsOfExpiredToken reports whether the token was rejected only because it has expired.
func IsOfExpiredToken(err *codeq.Error) bool {
	return err.Reason == codeq.ErrUnauthenticated && err.Metadata["expiredAt"] != ""
}

// IsOfConnection reports whether a rejection concerns the connection, and so does not say whether an earlier attempt took
// effect.
func IsOfConnection(err *codeq.Error) bool {
	switch codeOf(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		return true
	default:
		return err.Reason == codeq.ErrBadHandshake
	}
}

// IsUnavailable reports whether the server is of no use for the call at the moment.
func IsUnavailable(err *codeq.Error) bool {
	switch codeOf(err) {
	case codes.Unavailable, codes.Canceled, codes.Aborted:
		return true
	default:
		return false
	}
}

// IsOfContent reports whether an outcome was rejected for what it holds, or for a limit, so that another one may be taken.
func IsOfContent(err *codeq.Error) bool {
	switch codeOf(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.ResourceExhausted:
		return true
	default:
		return false
	}
}
