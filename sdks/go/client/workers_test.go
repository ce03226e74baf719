package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/osvaldoandrade/codeq/sdks/go/client"
	codeqv1 "github.com/osvaldoandrade/codeq/sdks/go/gen/codeq/v1"
	"github.com/osvaldoandrade/codeq/sdks/go/internal/scripted"
)

func TestConnectedWorkersAreReadPageByPage(t *testing.T) {
	since := timestamppb.New(time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC))
	server := scripted.Start(t, only("ListWorkers", func(_ context.Context, _ string, request proto.Message) (proto.Message, error) {
		asked := request.(*codeqv1.ListWorkersRequest)
		worker := &codeqv1.ConnectedWorker{WorkerId: asked.GetTenant() + asked.GetPageToken(), Claimed: 3, ConnectedAt: since}
		return &codeqv1.ListWorkersResponse{
			Workers: []*codeqv1.ConnectedWorker{worker}, NextPageToken: strings.TrimPrefix("2", asked.GetPageToken()),
		}, nil
	}))
	var ids []string
	for worker, err := range open(t, client.Config{}, server).Workers(t.Context(), "shop") {
		if err != nil {
			t.Fatal(err)
		}
		if worker.GetClaimed() != 3 || !proto.Equal(worker.GetConnectedAt(), since) {
			t.Errorf("read %v", worker)
		}
		ids = append(ids, worker.GetWorkerId())
	}
	if got := strings.Join(ids, " "); got != "shop shop2" {
		t.Errorf("got %q", got)
	}
}
