{{/* Names, labels and the spelling of flags. */}}

{{/* At most 26 characters; what is longer keeps its beginning and is told from others by a hash. */}}
{{- define "qwenserve.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- with .Values.fullnameOverride -}}{{- $name = . -}}{{- end -}}
{{- if gt (len $name) 26 -}}
{{- printf "%s-%s" ($name | trunc 19 | trimSuffix "-") (sha256sum $name | trunc 6) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/*
Most templates take (dict "root" $ "component" "generator" "values" VALUES "model" MODEL): VALUES are
those of the component, MODEL is one of "qwenserve.models", or absent for what all models share.
*/}}

{{/* At most 48 characters: a StatefulSet's pods carry its name and 11 more in a label of at most 63. */}}
{{- define "qwenserve.name" -}}
{{- $name := printf "%s-%s" (include "qwenserve.fullname" .root) .component -}}
{{- with .model -}}{{- $name = printf "%s-%s" $name .key -}}{{- end -}}
{{- if gt (len $name) 48 -}}
{{- printf "%s-%s" ($name | trunc 39 | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .model }}
qwenserve/model: {{ .key }}
{{- end }}
{{- end -}}

{{/* Labels that selectors, rules and dashboards go by, so that nobody else may set them. */}}
{{- define "qwenserve.checkLabels" -}}
{{- $labels := index . 1 -}}
{{- range $key := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart" "qwenserve/model" "qwenserve/node" -}}
{{- if hasKey $labels $key -}}
{{- fail (printf "%s: the chart itself sets the label %s: leave it out" (index $ 0) $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.commonLabels" -}}
{{- include "qwenserve.checkLabels" (list "commonLabels" .Values.commonLabels) -}}
{{- with .Values.commonLabels -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{/* Of objects that belong to the release as a whole. */}}
{{- define "qwenserve.releaseLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- with include "qwenserve.commonLabels" . }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "qwenserve.labels" -}}
{{ include "qwenserve.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with include "qwenserve.commonLabels" .root }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "qwenserve.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "qwenserve-%s" .component -}}
{{- if eq .component "generator" -}}{{- $name = printf "%s-%s" $name .values.device -}}{{- end -}}
{{- .values.image | default (printf "%s%s:%s" (ternary (printf "%s/" (trimSuffix "/" $image.registry)) "" (ne $image.registry "")) $name ($image.tag | default .root.Chart.AppVersion)) -}}
{{- end -}}

{{/* Numbers come out of Helm as floats, whose text would be 1e+06. */}}
{{- define "qwenserve.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- int64 . -}}{{- else -}}{{- . -}}{{- end -}}
{{- end -}}

{{/*
A map of flags by their own names as arguments. A list is joined by commas; true and false, as which
YAML also reads an unquoted on and off, become what the flag takes.
*/}}
{{- define "qwenserve.flags" -}}
{{- range $name, $value := . -}}
{{- if kindIs "bool" $value }}
- --{{ $name }}={{ ternary $value (ternary "on" "off" $value) (eq $name "no-ui") }}
{{- else if kindIs "slice" $value }}
- {{ printf "--%s=%s" $name (join "," $value) | quote }}
{{- else if not (kindIs "invalid" $value) }}
- {{ printf "--%s=%s" $name (include "qwenserve.scalar" $value) | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes (list ROOT API/VERSION VALUE WHAT): ends the rendering where the cluster lacks the API. */}}
{{- define "qwenserve.requireApi" -}}
{{- $root := index . 0 -}}
{{- if not ($root.Capabilities.APIVersions.Has (index . 1)) -}}
{{- fail (printf "%s needs %s, and the cluster has no %s: install it first, or leave the value out (helm template: add --api-versions %s)" (index . 2) (index . 3) (index . 1) (index . 1)) -}}
{{- end -}}
{{- end -}}

{{/* Takes (list ROOT VERSION VALUE). */}}
{{- define "qwenserve.requireKubernetes" -}}
{{- $root := index . 0 -}}
{{- if semverCompare (printf "<%s.0-0" (index . 1)) $root.Capabilities.KubeVersion.Version -}}
{{- fail (printf "%s needs Kubernetes %s or newer, and this is %s" (index . 2) (index . 1) $root.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
