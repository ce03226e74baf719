{{/* Values that are rejected although each of them is valid by the schema. */}}

{{/* Rejects values that contradict each other. */}}
{{- define "codeq.check" -}}
{{- $v := .Values -}}
{{- $label := "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" -}}
{{- if or (gt (len .Release.Namespace) 63) (not (regexMatch $label .Release.Namespace)) -}}
{{- fail (printf "namespace: %q is no name of a namespace" .Release.Namespace) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" (include "codeq.fullname" .)) -}}
{{- fail (printf "fullnameOverride: set it to a name that begins with a letter: no Service can have the name %q, which is made of the release's" (include "codeq.fullname" .)) -}}
{{- end -}}
{{- if and $v.raft.enabled (not (has (int $v.replicaCount) (list 3 5))) -}}
{{- fail "replicaCount: a cluster (raft.enabled) has 3 or 5 members" -}}
{{- end -}}
{{- if and $v.raft.enabled (ne (int $v.numShards) 1) -}}
{{- fail "numShards: a cluster (raft.enabled) has one shard in this chart, which does not offer a Raft group per shard yet" -}}
{{- end -}}
{{- if and (not $v.raft.enabled) (ne (int $v.replicaCount) 1) -}}
{{- fail "replicaCount: without raft.enabled there is one node" -}}
{{- end -}}
{{- if and $v.raft.enabled $v.persistence.artifacts.enabled -}}
{{- fail "persistence.artifacts.enabled: a cluster (raft.enabled) keeps artifact contents in its stores and has no use for a volume of their own" -}}
{{- end -}}
{{- if and $v.raft.enabled (not $v.gateway.enabled) (or $v.ingress.enabled $v.gatewayApi.enabled) -}}
{{- fail "gateway.enabled: an ingress or route to a cluster (raft.enabled) needs gateways, because members redirect clients to names inside the Kubernetes cluster" -}}
{{- end -}}
{{- if and $v.raft.enabled (or (and $v.ingress.enabled $v.ingress.grpc.enabled) (and $v.gatewayApi.enabled $v.gatewayApi.grpc.enabled)) -}}
{{- fail "grpc.enabled: gRPC from outside is for single nodes, because members of a cluster (raft.enabled) refer clients to names inside the Kubernetes cluster" -}}
{{- end -}}
{{- if and (not $v.tls.enabled) (ne $v.tls.clientAuth "none") -}}
{{- fail "tls.clientAuth: has no effect without tls.enabled" -}}
{{- end -}}
{{- if and $v.tls.enabled (not (or $v.tls.existingSecret $v.tls.certManager.enabled)) -}}
{{- fail "tls.enabled: set tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled exclude each other" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: is required" -}}
{{- end -}}
{{- $start := toDate "2006-01-02" "2000-01-01" -}}
{{- $end := dateModify $v.tls.certManager.duration $start -}}
{{- if and $v.tls.certManager.enabled (not ((dateModify $v.tls.certManager.renewBefore $start).Before $end)) -}}
{{- fail "tls.certManager.renewBefore: must be shorter than tls.certManager.duration" -}}
{{- end -}}
{{- $scaling := $v.gateway.autoscaling -}}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail "gateway.autoscaling.minReplicas: is above gateway.autoscaling.maxReplicas" -}}
{{- end -}}
{{- range $role := list "producer" "worker" -}}
{{- $auth := index $v.auth $role -}}
{{- if and (ne $auth.provider "static") (not $auth.config) -}}
{{- fail (printf "auth.%s.config: the provider %s needs a configuration" $role $auth.provider) -}}
{{- end -}}
{{- end -}}
{{- include "codeq.checkExtras" . -}}
{{- end -}}

{{/* Rejects further variables, volumes and containers that would stand next to one of the same name. Variables of Raft
are the chart's with a single node, too. */}}
{{- define "codeq.checkExtras" -}}
{{- $v := .Values -}}
{{- $variables := concat (include "codeq.serverEnv" . | fromYamlArray) (include "codeq.raftEnv" . | fromYamlArray) -}}
{{- $config := list -}}
{{- range $name, $_ := $v.config -}}
{{- $config = append $config (dict "name" $name) -}}
{{- end -}}
{{- include "codeq.checkUnique" (dict "value" "config" "key" "name" "taken" $variables "further" $config) -}}
{{- $variables = concat $variables $config -}}
{{- include "codeq.checkUnique" (dict "value" "extraEnv" "key" "name" "taken" $variables "further" $v.extraEnv) -}}
{{- $mounts := include "codeq.serverMounts" . | fromYamlArray -}}
{{- include "codeq.checkUnique" (dict "value" "extraVolumes" "key" "name" "taken" $mounts "further" $v.extraVolumes) -}}
{{- include "codeq.checkUnique" (dict "value" "extraVolumeMounts" "key" "mountPath" "taken" $mounts "further" $v.extraVolumeMounts) -}}
{{- $containers := concat (list (dict "name" "codeq")) (default list $v.extraContainers) -}}
{{- include "codeq.checkUnique" (dict "value" "extraContainers" "key" "name" "taken" list "further" $containers) -}}
{{- include "codeq.checkUnique" (dict "value" "extraInitContainers" "key" "name" "taken" $containers "further" $v.extraInitContainers) -}}
{{- end -}}

{{/* Rejects a value if an item of it (further) has the name of a taken one or of another item; key is the name's key. */}}
{{- define "codeq.checkUnique" -}}
{{- $taken := dict -}}
{{- range .taken -}}
{{- $_ := set $taken (get . $.key) true -}}
{{- end -}}
{{- range .further -}}
{{- $name := get . $.key -}}
{{- if hasKey $taken $name -}}
{{- fail (printf "%s: %s is set by the chart, or twice" $.value $name) -}}
{{- end -}}
{{- $_ := set $taken $name true -}}
{{- end -}}
{{- end -}}
