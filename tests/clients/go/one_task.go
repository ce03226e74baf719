// Completes a task with the client that oapi-codegen generated: one_task URL TOKEN COMMAND.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	url, token, command := os.Args[1], os.Args[2], os.Args[3]
	ctx := context.Background()
	client, err := NewClientWithResponses(url, WithRequestEditorFn(func(_ context.Context, request *http.Request) error {
		request.Header.Set("Authorization", "Bearer "+token)
		return nil
	}))
	check(err)
	spec := TaskSpec{Command: command, Payload: map[string]int{"n": 20}}
	created, err := client.TaskServiceCreateTaskWithResponse(ctx, nil, spec)
	check(err)
	wait := int32(20)
	claim := TaskServiceClaimTaskJSONRequestBody{Commands: &[]string{command}, WaitSeconds: &wait}
	claimed, err := client.TaskServiceClaimTaskWithResponse(ctx, nil, claim)
	check(err)
	if created.JSON202 == nil || claimed.JSON200 == nil || claimed.JSON200.Id != created.JSON202.Id {
		log.Fatalf("%s %s", created.Body, claimed.Body)
	}
	outcome := TaskServiceSubmitResultJSONRequestBody{
		Status:     TaskServiceSubmitResultJSONBodyStatusCOMPLETED,
		LeaseToken: claimed.JSON200.LeaseToken,
		Result:     map[string]int{"n": 21},
	}
	_, err = client.TaskServiceSubmitResultWithResponse(ctx, claimed.JSON200.Id, nil, outcome)
	check(err)
	ended, err := client.TaskServiceGetTaskResultWithResponse(ctx, claimed.JSON200.Id, &TaskServiceGetTaskResultParams{WaitSeconds: &wait})
	check(err)
	if ended.JSON200 == nil {
		log.Fatalf("%s", ended.Body)
	}
	fmt.Println(ended.JSON200.Task.Status, ended.JSON200.Result.Result.(map[string]any)["n"])
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
