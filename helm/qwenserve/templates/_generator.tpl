{{/* A LeaderWorkerSet makes a Service of its own name for the names of its pods. */}}
{{- define "qwenserve.generatorService" -}}
{{- include "qwenserve.name" . -}}
{{- if gt (int .model.generator.nodes) 1 -}}-leaders{{- end -}}
{{- end -}}

{{/* Time to read the checkpoint at the rate given, and a minute. */}}
{{- define "qwenserve.generatorStartup" -}}
{{- $g := .generator -}}
{{- if $g.startupSeconds -}}
{{- int64 $g.startupSeconds -}}
{{- else if .sizeGiB -}}
{{- add 60 (ceil (divf (mulf .sizeGiB 1024) $g.loadMiBPerSecond)) | int64 -}}
{{- else -}}
1800
{{- end -}}
{{- end -}}

{{/* Takes the usual dict, and for a replica on several nodes "node": leader or worker. */}}
{{- define "qwenserve.generatorPod" -}}
{{- $model := .model -}}
{{- $g := $model.generator -}}
{{- $labels := merge (dict "root" .root "component" "generator" "values" $g "model" $model) . -}}
metadata:
  {{- include "qwenserve.podMetadata" $labels | nindent 2 }}
spec:
  {{- include "qwenserve.podSettings" $labels | nindent 2 }}
  {{- with $g.resourceClaims }}
  resourceClaims:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "qwenserve.modelInitContainers" $labels }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: generator
      {{- include "qwenserve.containerSettings" $labels | nindent 6 }}
      args:
        - --listen=$(POD_IP):50071
        {{- include "qwenserve.commonArgs" $labels | nindent 8 }}
        {{- include "qwenserve.modelArgs" $model | nindent 8 }}
        - --device={{ $g.device }}
        - --tp={{ $g.tensorParallel }}
        - --tp-mode={{ $g.tensorParallelMode }}
        {{- if .node }}
        - --num-nodes={{ $g.nodes }}
        - --node-rank=$(LWS_WORKER_INDEX)
        - --leader={{ ternary "$(POD_IP)" "$(LWS_LEADER_ADDRESS)" (eq .node "leader") }}:50081
        {{- end }}
        {{- with include "qwenserve.workerTlsArgs" .root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "qwenserve.flags" $g.flags | trim }}
        {{- . | nindent 8 }}
        {{- end }}
      ports:
        - {name: grpc, containerPort: 50071}
        {{- if .node }}
        - {name: nodes, containerPort: 50081}
        {{- end }}
        - {name: ops, containerPort: 9090}
      {{- include "qwenserve.probes" (dict "startup" "/readyz" "startupSeconds" (include "qwenserve.generatorStartup" $model)) | nindent 6 }}
      volumeMounts:
        - name: shm
          mountPath: /dev/shm
        {{- with include "qwenserve.modelMounts" $model }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "qwenserve.workerTlsMounts" .root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "qwenserve.collectorMounts" .root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with include "qwenserve.extraMounts" $g }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: shm
      emptyDir:
        medium: Memory
        sizeLimit: {{ $g.sharedMemory }}
    {{- with include "qwenserve.modelVolumes" $labels }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with include "qwenserve.workerTlsVolumes" .root }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with include "qwenserve.collectorVolumes" .root }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with include "qwenserve.extraVolumes" $g }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end -}}
