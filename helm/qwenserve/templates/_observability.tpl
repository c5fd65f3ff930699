{{/* files/rules.yaml from "groups:" on, with what the values say in place of each ${word}. */}}
{{- define "qwenserve.rules" -}}
{{- $values := .Values.prometheusRule -}}
{{- $scope := printf "namespace=%q,release=%q" .Release.Namespace .Release.Name -}}
{{- if $values.everyRelease -}}{{- $scope = "release!=\"\"" -}}{{- end -}}
{{- $words := dict "scope" $scope "runbookUrl" .Values.runbookUrl "errorCodes" (join "|" $values.slo.errorCodes) -}}
{{- $words = merge $words $values.severities $values.thresholds (omit $values.slo "errorCodes") -}}
{{- if not $values.thresholds.notReady -}}{{- $_ := set $words "notReady" (include "qwenserve.notReady" $) -}}{{- end -}}
{{- $rules := printf "groups:%s" (index (splitList "\ngroups:" (.Files.Get "files/rules.yaml")) 1) -}}
{{- range $word, $value := $words -}}
{{- $rules = replace (printf "${%s}" $word) (include "qwenserve.scalar" $value) $rules -}}
{{- end -}}
{{- $rules -}}
{{- end -}}

{{/* In minutes, for an alert about a load that takes longer than any should. */}}
{{- define "qwenserve.notReady" -}}
{{- $seconds := 0 -}}
{{- range include "qwenserve.models" $ | fromJson -}}
{{- $seconds = max $seconds (include "qwenserve.generatorStartup" . | int64) -}}
{{- end -}}
{{- printf "%dm" (add 15 (ceil (divf $seconds 60)) | int64) -}}
{{- end -}}

{{/* Takes (list ROOT PATH): the dashboard with the release's objectives as its constants. */}}
{{- define "qwenserve.dashboard" -}}
{{- $root := index . 0 -}}
{{- $slo := $root.Values.prometheusRule.slo -}}
{{- $text := $root.Files.Get (index . 1) | replace "docs/runbooks.md" $root.Values.runbookUrl -}}
{{- /* First to marks: a value may be the default of another one. */ -}}
{{- range $word, $default := dict "availability" "0.999" "firstToken" "0.95" "firstTokenSeconds" "2.5" -}}
{{- $text = replace (printf "%q" $default) (printf "<%s>" $word) $text -}}
{{- end -}}
{{- range $word, $value := omit $slo "errorCodes" -}}
{{- $text = replace (printf "<%s>" $word) (printf "%q" (include "qwenserve.scalar" $value)) $text -}}
{{- end -}}
{{- $text -}}
{{- end -}}
