{{/*
The models of the release as JSON, {KEY: MODEL}: what was given, with "key", "name" (by which clients
ask), and "tokenizer" and "generator" as the release's defaults with the model's own values over them.
Every template that needs a model comes through here, so this is where contradictions are refused.
*/}}
{{- define "qwenserve.models" -}}
{{- $demo := dict "demo" (dict "source" (dict "builtin" "demo")) -}}
{{- $models := dict -}}
{{- $names := dict -}}
{{- range $key, $given := (.Values.models | default $demo) -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$" $key) -}}
{{- fail (printf "models: the key %q becomes part of object names, so it may have at most 20 of a-z, 0-9 and -, a letter first; what clients ask for goes into its name" $key) -}}
{{- end -}}
{{- $model := deepCopy $given -}}
{{- $_ := set $model "key" $key -}}
{{- $_ := set $model "name" ($given.name | default $key) -}}
{{- range $component := list "tokenizer" "generator" -}}
{{- $over := get $given $component | default dict -}}
{{- $_ := set $model $component (include "qwenserve.merge" (list (get $.Values $component) $over) | fromJson) -}}
{{- end -}}
{{- if hasKey $names $model.name -}}
{{- fail (printf "models.%s and models.%s are both served as %q: give them different names" (get $names $model.name) $key $model.name) -}}
{{- end -}}
{{- $_ := set $names $model.name $key -}}
{{- include "qwenserve.checkSource" $model -}}
{{- include "qwenserve.checkGenerator" (dict "root" $ "model" $model) -}}
{{- include "qwenserve.checkReplicas" (dict "root" $ "values" $model.tokenizer "path" (printf "models.%s.tokenizer" $key)) -}}
{{- $_ := set $models $key $model -}}
{{- end -}}
{{- $models | toJson -}}
{{- end -}}

{{/*
Takes (list BASE OVER), gives JSON: maps are merged, everything else is replaced; "resources" too, for
half of one machine's and half of another's fit nowhere.
*/}}
{{- define "qwenserve.merge" -}}
{{- $result := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $result $key)) (ne $key "resources") -}}
{{- $_ := set $result $key (include "qwenserve.merge" (list (get $result $key) $value) | fromJson) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- $result | toJson -}}
{{- end -}}

{{- define "qwenserve.checkSource" -}}
{{- $path := printf "models.%s.source" .key -}}
{{- $kinds := list "builtin" "pvc" "hostPath" "image" "copy" -}}
{{- $given := list -}}
{{- range $kind := $kinds -}}
{{- if get ($.source | default dict) $kind -}}{{- $given = append $given $kind -}}{{- end -}}
{{- end -}}
{{- if ne (len $given) 1 -}}
{{- fail (printf "%s: say where the checkpoint is, by exactly one of %s; given: %s" $path (join ", " $kinds) (join ", " $given | default "none")) -}}
{{- end -}}
{{- if and (eq .name "demo") (ne (first $given) "builtin") -}}
{{- fail (printf "models.%s.name: a model of your own needs another name than demo, so that nobody takes it for the demo" .key) -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.checkGenerator" -}}
{{- $model := .model -}}
{{- $g := $model.generator -}}
{{- $path := printf "models.%s.generator" $model.key -}}
{{- $tp := int $g.tensorParallel -}}
{{- $nodes := int $g.nodes -}}
{{- if ne (mod $tp $nodes) 0 -}}
{{- fail (printf "%s: nodes (%d) must cut tensorParallel (%d) into equal parts" $path $nodes $tp) -}}
{{- end -}}
{{- $ranks := div $tp $nodes -}}
{{- /* The demo's are known. */ -}}
{{- with $model.queryHeads | default (ternary 4 0 (eq (toString $model.source.builtin) "demo")) -}}
{{- if gt $tp (int .) -}}
{{- fail (printf "%s.tensorParallel is %d, but the model has %d query heads and each rank needs one: lower it" $path $tp (int .)) -}}
{{- end -}}
{{- end -}}
{{- with $g.gpusPerPod -}}
{{- if ne $g.device "cuda" -}}
{{- fail (printf "%s.gpusPerPod needs device: cuda" $path) -}}
{{- end -}}
{{- if gt $ranks (int64 .) -}}
{{- fail (printf "%s: tensorParallel %d on %d node(s) puts %d ranks into a pod, but gpusPerPod is %d: each rank needs a GPU, so lower tensorParallel or raise nodes" $path $tp $nodes $ranks (int .)) -}}
{{- end -}}
{{- end -}}
{{- if not $g.resources -}}
{{- if not $model.source.builtin -}}
{{- fail (printf "%s.resources: say what the model needs, at least a memory limit: weights (without GPUs), KV cache and 1Gi" $path) -}}
{{- end -}}
{{- $_ := set $g "resources" (dict "requests" (dict "cpu" "2" "memory" "1Gi") "limits" (dict "cpu" "2" "memory" "2Gi")) -}}
{{- end -}}
{{- if not (dig "limits" "memory" "" $g.resources) -}}
{{- fail (printf "%s.resources.limits.memory: say how much memory the model may take: weights (without GPUs), KV cache and 1Gi; without a limit it would plan with all of the node's" $path) -}}
{{- end -}}
{{- range $list := list "requests" "limits" -}}
{{- if hasKey (get $g.resources $list | default dict) $g.gpuResource -}}
{{- fail (printf "%s.resources.%s: leave %s out, the chart asks for one a rank; gpusPerPod asks for more" $path $list $g.gpuResource) -}}
{{- end -}}
{{- end -}}
{{- if and (eq (toString (get $g.flags "engine")) "sim") (gt $tp 1) -}}
{{- fail (printf "%s: flags.engine sim has one rank, so tensorParallel must be 1" $path) -}}
{{- end -}}
{{- if and (eq (toString $g.workload) "StatefulSet") (gt $nodes 1) -}}
{{- fail (printf "%s: workload StatefulSet keeps a replica on one node, and nodes is %d: set nodes to 1, or leave workload to the chart" $path $nodes) -}}
{{- end -}}
{{- if and (eq (toString $g.workload) "LeaderWorkerSet") (eq $nodes 1) -}}
{{- fail (printf "%s: workload LeaderWorkerSet is for replicas on several nodes, and nodes is 1: raise nodes, or leave workload to the chart" $path) -}}
{{- end -}}
{{- if gt $nodes 1 -}}
{{- include "qwenserve.requireApi" (list .root "leaderworkerset.x-k8s.io/v1" (printf "%s.nodes above 1" $path) "LeaderWorkerSet") -}}
{{- end -}}
{{- if $g.resourceClaims -}}
{{- include "qwenserve.requireKubernetes" (list .root "1.34" (printf "%s.resourceClaims" $path)) -}}
{{- end -}}
{{- if $model.source.image -}}
{{- include "qwenserve.requireKubernetes" (list .root "1.33" (printf "models.%s.source.image" $model.key)) -}}
{{- end -}}
{{- include "qwenserve.checkReplicas" (dict "root" .root "values" $g "path" $path) -}}
{{- if $g.autoscaling.enabled -}}
{{- include "qwenserve.requireApi" (list .root "keda.sh/v1alpha1" (printf "%s.autoscaling" $path) "KEDA") -}}
{{- if not .root.Values.prometheusAddress -}}
{{- fail (printf "%s.autoscaling needs prometheusAddress, the URL of the Prometheus that scrapes the gateways" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.checkReplicas" -}}
{{- with .values.autoscaling -}}
{{- if .enabled -}}
{{- if not (kindIs "invalid" $.values.replicas) -}}
{{- fail (printf "%s: replicas (%d) and autoscaling are both set: leave replicas null and use autoscaling.minReplicas" $.path (int $.values.replicas)) -}}
{{- end -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "%s.autoscaling: minReplicas (%d) is above maxReplicas (%d)" $.path (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The line "replicas: N", or nothing where an autoscaler decides. */}}
{{- define "qwenserve.replicas" -}}
{{- if not (and .values.autoscaling .values.autoscaling.enabled) -}}
replicas: {{ ternary 1 .values.replicas (kindIs "invalid" .values.replicas) }}
{{- end -}}
{{- end -}}

{{/* The checkpoint: arguments, volumes, mounts and the init container that copies it. */}}

{{- define "qwenserve.modelArgs" -}}
- --model={{ with .source.builtin }}/opt/qwenserve/models/{{ . }}{{ else }}/model{{ end }}
- --served-model-name={{ .name }}
{{- end -}}

{{- define "qwenserve.modelMounts" -}}
{{- if not .source.builtin -}}
- name: model
  mountPath: /model
  readOnly: true
  {{- with (dig "pvc" "subPath" "" .source | default (dig "image" "subPath" "" .source)) }}
  subPath: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Takes the usual dict. */}}
{{- define "qwenserve.modelVolumes" -}}
{{- with .model.source.pvc -}}
- name: model
  persistentVolumeClaim:
    claimName: {{ .claimName }}
    readOnly: true
{{- end -}}
{{- with .model.source.hostPath -}}
- name: model
  hostPath:
    path: {{ .path }}
    type: Directory
{{- end -}}
{{- with .model.source.image -}}
- name: model
  image:
    reference: {{ .reference }}
    pullPolicy: {{ .pullPolicy | default "IfNotPresent" }}
{{- end -}}
{{- with .model.source.copy -}}
- name: model
  emptyDir:
    sizeLimit: {{ include "qwenserve.copySize" $ }}
{{- with .claimName }}
- name: source
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- end -}}
{{- end -}}

{{/* A tokenizer has no weights, and need not be on a node with room for them. */}}
{{- define "qwenserve.copySize" -}}
{{- ternary "1Gi" .model.source.copy.sizeLimit (eq .component "tokenizer") -}}
{{- end -}}

{{/*
Copies what the list of checksums names, and nothing else; the list itself is pinned by its own
checksum. A tokenizer needs no weights.
*/}}
{{- define "qwenserve.modelInitContainers" -}}
{{- with .model.source.copy -}}
- name: copy-model
  image: {{ .image }}
  imagePullPolicy: {{ $.root.Values.image.pullPolicy }}
  command: [sh, -euc]
  args:
    - |
      {{- $.root.Files.Get "files/copy_model.sh" | trim | nindent 6 }}
  env:
    - {name: SOURCE, value: {{ ternary (printf "/source/%s" .path) .path (ne (default "" .claimName) "") | quote }}}
    - {name: LIST, value: {{ .list | default "SHA256SUMS" | quote }}}
    - {name: LIST_SHA256, value: {{ .sha256 | quote }}}
    - {name: SKIP, value: {{ ternary "*.safetensors *.bin *.pt *.pth *.gguf *.h5 *.msgpack *.onnx" "" (eq $.component "tokenizer") | quote }}}
  resources:
    requests: {cpu: 100m, memory: 64Mi, ephemeral-storage: {{ include "qwenserve.copySize" $ }}}
    limits: {memory: 1Gi}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
  volumeMounts:
    - name: model
      mountPath: /model
    {{- if .claimName }}
    - name: source
      mountPath: /source
      readOnly: true
    {{- end }}
{{- end -}}
{{- end -}}
