{{/* Parts that the containers of servers, gateways and jobs share. */}}

{{/* Environment of a server. The same for every pod: a member takes its name from its host name, the name of its pod. */}}
{{- define "codeq.serverEnv" -}}
- name: PORT
  value: "8080"
- name: WORKER_STREAM_ADDR
  value: ":9091"
- name: PRODUCER_STREAM_ADDR
  value: ":9092"
- name: LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
- name: LOG_FORMAT
  value: json
- name: SHUTDOWN_GRACE_SECONDS
  value: {{ .Values.shutdownGraceSeconds | quote }}
- name: PERSISTENCE_CONFIG
  value: {{ dict "path" "/var/lib/codeq/pebble/store" "numShards" (int .Values.numShards) | toJson | quote }}
{{- if .Values.persistence.artifacts.enabled }}
- name: LOCAL_ARTIFACTS_DIR
  value: /var/lib/codeq/artifacts
{{- end }}
{{- if .Values.persistence.backups.enabled }}
- name: BACKUP_DIR
  value: /var/lib/codeq/backups
{{- end }}
{{- range $role := list "producer" "worker" }}
{{- $auth := index $.Values.auth $role }}
- name: {{ printf "%s_AUTH_PROVIDER" (upper $role) | quote }}
  value: {{ $auth.provider | quote }}
- name: {{ printf "%s_AUTH_CONFIG" (upper $role) | quote }}
  value: {{ default (dict "file" (printf "/etc/codeq/auth/%ss.json" $role)) $auth.config | toJson | quote }}
{{- end }}
- name: WEBHOOK_HMAC_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "codeq.secret" . | quote }}, key: webhook-hmac-secret, optional: true}}
{{ include "codeq.gatewaySecretEnv" . }}
{{- if .Values.raft.enabled }}
{{ include "codeq.raftEnv" . }}
{{- end }}
{{- if .Values.tls.enabled }}
{{ include "codeq.tlsEnv" . }}
{{- if eq .Values.tls.clientAuth "require" }}
- name: GRPC_TLS_CLIENT_AUTH
  value: require
{{- end }}
{{- end }}
{{- end -}}

{{/* The first member founds the cluster if all expected members answer and are empty; else an empty member joins. The
number of members is not part of the template: changing it restarts nobody. */}}
{{- define "codeq.raftEnv" -}}
- name: RAFT_ENABLED
  value: "true"
- name: RAFT_BIND_ADDR
  value: ":7000"
- name: RAFT_PEERS_DNS
  value: {{ include "codeq.memberDomain" . | printf "%s:7000" | quote }}
- name: RAFT_EXPECTED_NODES
  valueFrom: {configMapKeyRef: {name: {{ include "codeq.members" . | quote }}, key: RAFT_EXPECTED_NODES}}
- name: RAFT_ELECTION_MS
  value: {{ .Values.raft.electionMS | int | quote }}
- name: RAFT_CLUSTER_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "codeq.secret" . | quote }}, key: cluster-secret}}
{{- if .Values.tls.enabled }}
- name: RAFT_TLS_CERT
  value: /etc/codeq/tls/tls.crt
- name: RAFT_TLS_KEY
  value: /etc/codeq/tls/tls.key
- name: RAFT_TLS_CA
  value: /etc/codeq/tls/ca.crt
{{- end }}
{{- end -}}

{{- define "codeq.gatewaySecretEnv" -}}
- name: GATEWAY_SECRET
  valueFrom: {secretKeyRef: {name: {{ include "codeq.secret" . | quote }}, key: gateway-secret, optional: {{ not .Values.gateway.enabled }}}}
{{- end -}}

{{/* Over HTTP a certificate of the client is never required: the probes have none. */}}
{{- define "codeq.tlsEnv" -}}
- name: TLS_CERT_FILE
  value: /etc/codeq/tls/tls.crt
- name: TLS_KEY_FILE
  value: /etc/codeq/tls/tls.key
{{- if or .Values.raft.enabled .Values.gateway.enabled }}
- name: SERVER_TLS_CA_FILE
  value: /etc/codeq/tls/ca.crt
{{- if ne .Values.tls.clientAuth "none" }}
- name: SERVER_TLS_CERT_FILE
  value: /etc/codeq/tls/tls.crt
- name: SERVER_TLS_KEY_FILE
  value: /etc/codeq/tls/tls.key
{{- end }}
{{- end }}
{{- if ne .Values.tls.clientAuth "none" }}
- name: TLS_CLIENT_CA_FILE
  value: /etc/codeq/tls/ca.crt
- name: TLS_CLIENT_AUTH
  value: request
{{- end }}
{{- end -}}

{{/* Each volume of a server, where it is mounted. */}}
{{- define "codeq.serverMounts" -}}
- {name: data, mountPath: /var/lib/codeq/pebble}
{{- if .Values.persistence.artifacts.enabled }}
- {name: artifacts, mountPath: /var/lib/codeq/artifacts}
{{- end }}
{{- if .Values.persistence.backups.enabled }}
- {name: backups, mountPath: /var/lib/codeq/backups}
{{- end }}
# A folder, without subPath, so that changed files are seen.
- {name: auth, mountPath: /etc/codeq/auth, readOnly: true}
{{- if .Values.tls.enabled }}
- {name: tls, mountPath: /etc/codeq/tls, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "codeq.httpProbes" -}}
{{- $scheme := include "codeq.scheme" . | upper -}}
livenessProbe:
  httpGet: {path: /healthz, port: http, scheme: {{ $scheme | quote }}}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: http, scheme: {{ $scheme | quote }}}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
{{- end -}}

{{/* Needs no shell and no sleep in the image. */}}
{{- define "codeq.preStop" -}}
lifecycle:
  preStop:
    exec:
      command: [python3, -c, "import time; time.sleep({{ int .Values.preStopSeconds }})"]
{{- end -}}

{{- define "codeq.gracePeriod" -}}
{{- add (int .Values.preStopSeconds) (int .Values.shutdownGraceSeconds) 10 -}}
{{- end -}}

{{- define "codeq.podDefaults" -}}
serviceAccountName: {{ include "codeq.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ toYaml .Values.podSecurityContext | nindent 2 }}
{{- end -}}

{{- define "codeq.image.lines" -}}
image: {{ include "codeq.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
securityContext: {{ toYaml .Values.securityContext | nindent 2 }}
{{- end -}}

{{/* A claim of the StatefulSet, with name, volume (size, storageClass) and annotations. */}}
{{- define "codeq.claim" -}}
- metadata:
    name: {{ .name | quote }}
    {{- with .annotations }}
    annotations: {{ toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .volume.storageClass }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources:
      requests:
        storage: {{ .volume.size | quote }}
{{- end -}}
