{{/* Short enough that every name made from it fits the limits of labels and StatefulSets. */}}
{{- define "qwenserve.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/*
The templates below take (dict "root" $ "component" "gateway"); the component's values are those
under its name.
*/}}

{{- define "qwenserve.name" -}}
{{ include "qwenserve.fullname" .root }}-{{ .component }}
{{- end -}}

{{- define "qwenserve.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "qwenserve.labels" -}}
{{ include "qwenserve.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Fields of a pod that are the same for all. */}}
{{- define "qwenserve.podSettings" -}}
{{- $values := index .root.Values .component -}}
automountServiceAccountToken: false
# The variables of service links would begin with QWENSERVE_, like those of the configuration.
enableServiceLinks: false
# The drain, and time to stop after it.
terminationGracePeriodSeconds: {{ add $values.drain.delaySeconds $values.drain.timeoutSeconds 15 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Fields of a container that are the same for all. */}}
{{- define "qwenserve.containerSettings" -}}
{{- $image := .root.Values.image -}}
image: {{ with $image.registry }}{{ trimSuffix "/" . }}/{{ end }}qwenserve-{{ .component }}:{{ $image.tag | default .root.Chart.AppVersion }}
imagePullPolicy: {{ $image.pullPolicy }}
env:
  - name: POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
resources:
  {{- toYaml (index .root.Values .component).resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "qwenserve.commonArgs" -}}
{{- $values := index .root.Values .component -}}
- --ops-listen=$(POD_IP):9090
- --log-level={{ .root.Values.logLevel }}
- --drain-delay={{ $values.drain.delaySeconds }}
- --drain-timeout={{ $values.drain.timeoutSeconds }}
{{- end -}}

{{/*
"startup" is the path that ends the start. A worker's is /readyz, so that a load which hangs is
restarted; the gateway's is /livez, because its readiness waits for the workers.
*/}}
{{- define "qwenserve.probes" -}}
startupProbe:
  httpGet: {path: {{ .startup }}, port: ops}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: {{ div (add (index .root.Values .component).startupSeconds 4) 5 }}
livenessProbe:
  httpGet: {path: /livez, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{/* The templates below take the root. */}}

{{- define "qwenserve.modelArgs" -}}
- --model={{ if .Values.model.pvc.claimName }}/model{{ else }}/opt/qwenserve/models/demo{{ end }}
- --served-model-name={{ .Values.model.name }}
{{- end -}}

{{- define "qwenserve.modelMount" -}}
{{- with .Values.model.pvc -}}
{{- if .claimName -}}
- name: model
  mountPath: /model
  readOnly: true
  {{- with .subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "qwenserve.modelVolume" -}}
{{- with .Values.model.pvc.claimName -}}
- name: model
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end -}}
{{- end -}}
