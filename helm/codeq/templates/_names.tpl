{{/* Names, labels and addresses. */}}

{{- define "codeq.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimAll "-" -}}
{{- end -}}

{{/* At most 40 characters, so that names of pods and claims made from it stay within 63. */}}
{{- define "codeq.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimAll "-" -}}
{{- else if contains (include "codeq.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimAll "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "codeq.name" .) | trunc 40 | trimAll "-" -}}
{{- end -}}
{{- end -}}

{{- define "codeq.selector" -}}
app.kubernetes.io/name: {{ include "codeq.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "codeq.labels" -}}
{{ include "codeq.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "codeq.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "codeq.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "codeq.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "codeq.secret" -}}
{{- default (include "codeq.fullname" .) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "codeq.tlsSecret" -}}
{{- default (printf "%s-tls" (include "codeq.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "codeq.scheme" -}}
{{- ternary "https" "http" .Values.tls.enabled -}}
{{- end -}}

{{/* Headless Service: the domain in which each server has a name, also before it is ready. */}}
{{- define "codeq.members" -}}
{{- printf "%s-members" (include "codeq.fullname" .) -}}
{{- end -}}

{{- define "codeq.memberDomain" -}}
{{- printf "%s.%s.svc.%s" (include "codeq.members" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- define "codeq.gateway" -}}
{{- printf "%s-gateway" (include "codeq.fullname" .) -}}
{{- end -}}

{{/* Service that answers REST. */}}
{{- define "codeq.restService" -}}
{{- ternary (include "codeq.gateway" .) (include "codeq.fullname" .) .Values.gateway.enabled -}}
{{- end -}}
