// Package reasons is the error table of codeq: the gRPC code and HTTP status of each codeq.v1.ErrorReason, and whether
// a retry may help. It is read from the options in the descriptors, so it always matches the server's table.
package reasons

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	optionsv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/options/v1"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
)

// Domain is the domain of google.rpc.ErrorInfo in every failed call.
const Domain = "codeq"

const prefix = "ERROR_REASON_"

// Reason is one row of the error table.
type Reason struct {
	// Value of the enum.
	Value codeqv1.ErrorReason
	// Name without its prefix, such as "TASK_NOT_FOUND"; "INTERNAL" for the unspecified reason.
	Name string
	// GRPCCode is the status code of the call.
	GRPCCode codes.Code
	// HTTPStatus is the HTTP status of the REST reply.
	HTTPStatus int
	// Retryable reports whether the same call may succeed later.
	Retryable bool
}

var byValue, byName = read()

func read() (map[codeqv1.ErrorReason]Reason, map[string]Reason) {
	values := codeqv1.ErrorReason(0).Descriptor().Values()
	byValue := make(map[codeqv1.ErrorReason]Reason, values.Len())
	byName := make(map[string]Reason, values.Len())
	for i := range values.Len() {
		value := values.Get(i)
		options := value.Options().(*descriptorpb.EnumValueOptions)
		name := strings.TrimPrefix(string(value.Name()), prefix)
		if value.Number() == 0 {
			name = "INTERNAL"
		}
		reason := Reason{
			Value:      codeqv1.ErrorReason(value.Number()),
			Name:       name,
			GRPCCode:   codes.Code(proto.GetExtension(options, optionsv1.E_GrpcCode).(code.Code)),
			HTTPStatus: int(proto.GetExtension(options, optionsv1.E_HttpStatus).(int32)),
			Retryable:  proto.GetExtension(options, optionsv1.E_Retryable).(bool),
		}
		byValue[reason.Value] = reason
		byName[name] = reason
	}
	return byValue, byName
}

// Of returns the row of a value; for a value that this build does not know, the row of the unspecified reason.
func Of(value codeqv1.ErrorReason) Reason {
	if reason, known := byValue[value]; known {
		return reason
	}
	return byValue[codeqv1.ErrorReason_ERROR_REASON_UNSPECIFIED]
}

// ByName returns the row of a name as used in google.rpc.ErrorInfo and HTTP error bodies, and whether it exists.
func ByName(name string) (Reason, bool) {
	reason, known := byName[name]
	return reason, known
}
