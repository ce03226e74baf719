# Prints the status of the task $TASK_ID.
curl -s "http://localhost:8080/v1/codeq/tasks/${TASK_ID}" -H 'Authorization: Bearer dev-token' | jq '.status'
