# The commands of the documents' page "Run In Docker", as printed, part by part; and at the end those that the page
# describes in words. A part begins with a line of ###.

### pull
docker pull ghcr.io/osvaldoandrade/codeq-service:latest

### env
cat > codeq.env <<'EOF'
PORT=8080
LOG_LEVEL=info
LOG_FORMAT=json
PERSISTENCE_PROVIDER=pebble
PERSISTENCE_CONFIG={"path":"/var/lib/codeq/pebble"}
PRODUCER_AUTH_PROVIDER=static
PRODUCER_AUTH_CONFIG={"token":"dev-token","subject":"producer-dev","raw":{"role":"ADMIN","tenantId":"dev-tenant"}}
WORKER_AUTH_PROVIDER=static
WORKER_AUTH_CONFIG={"token":"dev-token","subject":"worker-dev","scopes":["codeq:claim","codeq:heartbeat","codeq:abandon","codeq:nack","codeq:result","codeq:subscribe"],"eventTypes":["*"],"raw":{"tenantId":"dev-tenant"}}
EOF

### run
docker run -d --name codeq -p 8080:8080 --env-file codeq.env -v codeq-data:/var/lib/codeq/pebble ghcr.io/osvaldoandrade/codeq-service:latest

### logs
docker logs codeq

### metrics
curl -sSf http://localhost:8080/metrics | head -5

### streams
echo 'WORKER_STREAM_ADDR=:9091' >> codeq.env
echo 'PRODUCER_STREAM_ADDR=:9092' >> codeq.env
docker stop codeq && docker rm codeq
docker run -d --name codeq -p 8080:8080 -p 9091:9091 -p 9092:9092 --env-file codeq.env -v codeq-data:/var/lib/codeq/pebble ghcr.io/osvaldoandrade/codeq-service:latest

### tasks
AUTH='Authorization: Bearer dev-token'
JSON='Content-Type: application/json'
TASK_ID=$(curl -s -X POST http://localhost:8080/v1/codeq/tasks -H "$AUTH" -H "$JSON" -d '{"command":"PROCESS_ORDER","payload":{"orderId":"42"},"priority":5}' | jq -r '.id')
echo "$TASK_ID"
curl -s -X POST http://localhost:8080/v1/codeq/tasks/claim -H "$AUTH" -H "$JSON" -d '{"commands":["PROCESS_ORDER"],"leaseSeconds":60,"waitSeconds":5}' | jq -c
curl -s -X POST "http://localhost:8080/v1/codeq/tasks/${TASK_ID}/result" -H "$AUTH" -H "$JSON" -d '{"status":"COMPLETED","result":{"ok":true}}' | jq -c
curl -s "http://localhost:8080/v1/codeq/tasks/${TASK_ID}" -H "$AUTH" | jq '.status'

### restart
docker restart codeq

### status
curl -s "http://localhost:8080/v1/codeq/tasks/${TASK_ID}" -H 'Authorization: Bearer dev-token' | jq '.status'

### upgrade
docker pull ghcr.io/osvaldoandrade/codeq-service:latest
docker stop codeq
docker rm codeq
docker run -d --name codeq -p 8080:8080 -p 9091:9091 -p 9092:9092 --env-file codeq.env -v codeq-data:/var/lib/codeq/pebble -v codeq-artifacts:/var/lib/codeq/artifacts ghcr.io/osvaldoandrade/codeq-service:latest
