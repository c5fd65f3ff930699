{{/* Fields of pods and containers that are alike in all workloads. */}}

{{- define "qwenserve.serviceAccountName" -}}
{{- with .Values.serviceAccount -}}
{{- .name | default (ternary (include "qwenserve.fullname" $) "" .create) -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  {{- with .Values.podSecurityContext }}
  {{- include "qwenserve.numbers" . | trim | nindent 2 }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* A map without its numbers becoming 1.00065e+09. */}}
{{- define "qwenserve.numbers" -}}
{{- range $name, $value := . }}
{{- if kindIs "slice" $value }}
{{- with $value }}
{{ $name }}:
  {{- range . }}
  - {{ include "qwenserve.scalar" . }}
  {{- end }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
{{ $name }}: {{ include "qwenserve.scalar" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "qwenserve.podSettings" -}}
{{- $values := .values -}}
automountServiceAccountToken: false
{{- with include "qwenserve.serviceAccountName" .root }}
serviceAccountName: {{ . }}
{{- end }}
# The variables of service links would begin with QWENSERVE_, like those of the configuration.
enableServiceLinks: false
# The drain, and time to stop after it.
terminationGracePeriodSeconds: {{ add $values.drain.delaySeconds $values.drain.timeoutSeconds 15 }}
{{ include "qwenserve.podSecurity" .root }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with ($values.priorityClassName | default (ternary (include "qwenserve.priorityClassName" .) "" .root.Values.priorityClasses.create)) }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $values.tolerations -}}
{{- if eq (toString $values.device) "cuda" -}}
{{- /* Nodes are tainted so even where their GPUs are given out in parts, by other names. */ -}}
{{- range $key := list "nvidia.com/gpu" $values.gpuResource | uniq -}}
{{- $tolerations = append $tolerations (dict "key" $key "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- end -}}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.topologySpread }}
{{- if and .enabled (not $.node) }}
# Nodes that these pods may not use count as no empty place{{ if ne $.component "generator" }}, and pods of the old version, which are
# about to leave, not as neighbours{{ end }}.
topologySpreadConstraints:
  {{- range .topologyKeys }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: {{ $.root.Values.topologySpread.whenUnsatisfiable }}
    nodeTaintsPolicy: Honor
    {{- if ne $.component "generator" }}
    matchLabelKeys: [pod-template-hash]
    {{- end }}
    labelSelector:
      matchLabels:
        {{- include "qwenserve.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "qwenserve.priorityClassName" -}}
{{ printf "%s-%s-%s" .root.Release.Namespace (include "qwenserve.fullname" .root) .component | trunc 253 }}
{{- end -}}

{{- define "qwenserve.engineType" -}}
{{ ternary "vllm" "qwenserve" (eq (get .Values.gateway.flags "metrics-compat") "vllm") }}
{{- end -}}

{{- define "qwenserve.podMetadata" -}}
# Not the chart's version: a new chart with the same pods must not restart them.
labels:
  {{- include "qwenserve.selectorLabels" . | nindent 2 }}
  {{- with .node }}
  qwenserve/node: {{ . }}
  {{- end }}
  {{- if and (eq .component "gateway") .root.Values.inferencePool.enabled }}
  # By these endpoint pickers know whose names the metrics have.
  inference.networking.k8s.io/engine-type: {{ include "qwenserve.engineType" .root }}
  llm-d.ai/engine-type: {{ include "qwenserve.engineType" .root }}
  {{- end }}
  {{- include "qwenserve.checkLabels" (list (printf "%s.podLabels" .component) .values.podLabels) }}
  {{- with merge (deepCopy .values.podLabels) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "qwenserve.containerSettings" -}}
image: {{ include "qwenserve.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
env:
  - name: POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
  {{- range $name, $value := .values.env }}
  {{- if eq $name "POD_IP" }}
  {{- fail (printf "%s.env: the chart itself sets POD_IP: leave it out" $.component) }}
  {{- end }}
  - name: {{ $name }}
    {{- if kindIs "map" $value }}
    valueFrom:
      {{- toYaml $value | nindent 6 }}
    {{- else }}
    value: {{ $value | quote }}
    {{- end }}
  {{- end }}
{{- $resources := deepCopy .values.resources -}}
{{- if eq (toString .values.device) "cuda" -}}
{{- if .values.resourceClaims -}}
{{- $names := list -}}
{{- range .values.resourceClaims -}}{{- $names = append $names (dict "name" .name) -}}{{- end -}}
{{- $_ := set $resources "claims" $names -}}
{{- else -}}
{{- $gpus := .values.gpusPerPod | default (div (int .values.tensorParallel) (int .values.nodes)) | int -}}
{{- $_ := set $resources "limits" (set ($resources.limits | default dict) .values.gpuResource $gpus) -}}
{{- end -}}
{{- end }}
resources:
  {{- toYaml $resources | nindent 2 }}
# What a process says on stderr before it exits is the message of its pod.
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: {{ include "qwenserve.readOnlyRoot" .values }}
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* The container toolkit of NVIDIA writes into the root file system of a pod with GPUs. */}}
{{- define "qwenserve.readOnlyRoot" -}}
{{- if kindIs "bool" .readOnlyRootFilesystem -}}
{{- .readOnlyRootFilesystem -}}
{{- else -}}
{{- ne (toString .device) "cuda" -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.commonArgs" -}}
- --ops-listen=0.0.0.0:9090
- --log-level={{ .root.Values.logLevel }}
- --log-format={{ .root.Values.logFormat }}
{{- with int .root.Values.adminPort }}
{{- if has . (list 50051 50061 50071 50081 8080 9090) }}
{{- fail (printf "adminPort: %d is a port that a pod has already; take another one, or 0 for none" .) }}
{{- end }}
- --admin-listen=127.0.0.1:{{ . }}
{{- end }}
- --drain-delay={{ .values.drain.delaySeconds }}
- --drain-timeout={{ .values.drain.timeoutSeconds }}
{{- with .root.Values.tracing }}
{{- if .enabled }}
- --otlp-endpoint={{ .endpoint }}
- --otlp-sample-ratio={{ .sampleRatio }}
{{- if .tls.secretName }}
- --otlp-tls-ca=/etc/qwenserve/collector-tls/ca.crt
{{- if .tls.clientCertificate }}
- --otlp-tls-cert=/etc/qwenserve/collector-tls/tls.crt
- --otlp-tls-key=/etc/qwenserve/collector-tls/tls.key
{{- end }}
{{- with .tls.collectorNames }}
- {{ printf "--otlp-tls-names=%s" (join "," .) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
"startup" is the path that ends the start. A worker's is /readyz, so that a load which hangs is
restarted; the gateway's is /livez, because its readiness waits for the workers.
*/}}
{{- define "qwenserve.probes" -}}
startupProbe:
  httpGet: {path: {{ .startup }}, port: ops}
  periodSeconds: 1
  timeoutSeconds: 1
  failureThreshold: {{ int64 .startupSeconds }}
  terminationGracePeriodSeconds: 15
livenessProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
  # What does not answer does not drain either.
  terminationGracePeriodSeconds: 15
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end -}}

{{/* TLS between gateway and workers: who each side is. */}}

{{- define "qwenserve.internalSecret" -}}
{{- $side := .side -}}
{{- get .root.Values.tls.internal (printf "%sSecret" $side) | default (printf "%s-%s-internal-tls" (include "qwenserve.fullname" .root) $side) -}}
{{- end -}}

{{- define "qwenserve.internalName" -}}
{{- printf "%s-%s.%s.svc" (include "qwenserve.fullname" .root) .side .root.Release.Namespace -}}
{{- end -}}

{{- define "qwenserve.workerTlsArgs" -}}
{{- with .Values.tls.internal -}}
{{- if .enabled -}}
- --tls-cert=/etc/qwenserve/tls/tls.crt
- --tls-key=/etc/qwenserve/tls/tls.key
- --tls-client-ca=/etc/qwenserve/tls/ca.crt
{{- $gateways := .gatewayNames | default (list (include "qwenserve.internalName" (dict "root" $ "side" "gateway"))) }}
- {{ printf "--tls-client-names=%s" (join "," (concat $gateways .adminNames | uniq)) | quote }}
{{- with .adminNames }}
- {{ printf "--admin-client-names=%s" (join "," .) | quote }}
{{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.workerTlsMounts" -}}
{{- if .Values.tls.internal.enabled -}}
- name: tls
  mountPath: /etc/qwenserve/tls
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "qwenserve.workerTlsVolumes" -}}
{{- if .Values.tls.internal.enabled -}}
- name: tls
  secret:
    secretName: {{ include "qwenserve.internalSecret" (dict "root" . "side" "worker") }}
{{- end -}}
{{- end -}}

{{- define "qwenserve.collectorSecret" -}}
{{- with .Values.tracing }}{{ ternary .tls.secretName "" .enabled }}{{ end -}}
{{- end -}}

{{- define "qwenserve.collectorMounts" -}}
{{- if include "qwenserve.collectorSecret" . -}}
- name: collector-tls
  mountPath: /etc/qwenserve/collector-tls
  readOnly: true
{{- end -}}
{{- end -}}

{{- define "qwenserve.collectorVolumes" -}}
{{- with include "qwenserve.collectorSecret" . -}}
- name: collector-tls
  secret:
    secretName: {{ . }}
{{- end -}}
{{- end -}}

{{/* Takes VALUES of a component; text as YAML lists, or empty. */}}
{{- define "qwenserve.extraMounts" -}}
{{- with .extraVolumeMounts }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "qwenserve.extraVolumes" -}}
{{- with .extraVolumes }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* The strategy of a Deployment. Takes VALUES and their path. */}}
{{- define "qwenserve.strategy" -}}
{{- $values := index . 0 -}}
{{- with $values.rollingUpdate -}}
{{- if and (has (toString .maxSurge) (list "0" "0%")) (has (toString .maxUnavailable) (list "0" "0%")) -}}
{{- fail (printf "%s.rollingUpdate: with maxSurge and maxUnavailable both 0 no pod could ever be replaced: raise one" (index $ 1)) -}}
{{- end -}}
strategy:
  rollingUpdate:
    maxSurge: {{ .maxSurge }}
    maxUnavailable: {{ .maxUnavailable }}
{{- end -}}
{{- end -}}

{{/* The fields of a Service that its type decides on. Takes SERVICE and its path. */}}
{{- define "qwenserve.serviceType" -}}
{{- $path := index . 1 -}}
{{- with index . 0 -}}
{{- if and .externalTrafficPolicy (eq .type "ClusterIP") -}}
{{- fail (printf "%s.externalTrafficPolicy is for what comes from outside, and type is ClusterIP: set type to LoadBalancer or NodePort, or leave it null" $path) -}}
{{- end -}}
{{- if and (or .loadBalancerSourceRanges .loadBalancerClass) (ne .type "LoadBalancer") -}}
{{- fail (printf "%s: loadBalancerSourceRanges and loadBalancerClass need type LoadBalancer, and type is %s" $path .type) -}}
{{- end -}}
type: {{ .type }}
{{- with .loadBalancerClass }}
loadBalancerClass: {{ . }}
{{- end }}
{{- with .loadBalancerSourceRanges }}
loadBalancerSourceRanges:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .externalTrafficPolicy }}
externalTrafficPolicy: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Takes a list of texts, each a YAML list or empty; gives "FIELD:" and all of them, or nothing. */}}
{{- define "qwenserve.listOf" -}}
{{- $items := list -}}
{{- range index . 1 -}}{{- with trim . -}}{{- $items = append $items . -}}{{- end -}}{{- end -}}
{{- with $items -}}
{{ index $ 0 }}:
  {{- join "\n" . | nindent 2 }}
{{- end -}}
{{- end -}}
