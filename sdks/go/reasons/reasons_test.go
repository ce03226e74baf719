package reasons_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/reasons"
)

func TestOfKnownReasonReturnsItsRow(t *testing.T) {
	want := reasons.Reason{
		Value:      codeqv1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN,
		Name:       "OUTCOME_UNKNOWN",
		GRPCCode:   codes.Unavailable,
		HTTPStatus: 503,
		Retryable:  true,
	}
	if got := reasons.Of(want.Value); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOfUnknownReasonIsInternal(t *testing.T) {
	got := reasons.Of(codeqv1.ErrorReason(9999))
	if got.Name != "INTERNAL" || got.GRPCCode != codes.Internal || got.HTTPStatus != 500 || got.Retryable {
		t.Errorf("got %+v", got)
	}
}

func TestEveryReasonIsComplete(t *testing.T) {
	for number := range codeqv1.ErrorReason_name {
		row := reasons.Of(codeqv1.ErrorReason(number))
		if row.Value != codeqv1.ErrorReason(number) {
			t.Errorf("%d: the row is of %v", number, row.Value)
		}
		if row.GRPCCode == codes.OK || row.HTTPStatus < 400 || row.HTTPStatus > 599 {
			t.Errorf("%s: gRPC code %v, HTTP status %d", row.Name, row.GRPCCode, row.HTTPStatus)
		}
		if found, known := reasons.ByName(row.Name); !known || found != row {
			t.Errorf("%s: found %+v by its name", row.Name, found)
		}
	}
}

func TestByNameOfUnknownNameFindsNothing(t *testing.T) {
	if row, known := reasons.ByName("NO_SUCH_REASON"); known {
		t.Errorf("found %+v", row)
	}
}
