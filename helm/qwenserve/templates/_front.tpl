{{/* The Service that clients call. */}}
{{- define "qwenserve.entry" -}}
{{- include "qwenserve.name" (dict "root" . "component" (ternary "front" "gateway" .Values.front.enabled)) -}}
{{- end -}}

{{- define "qwenserve.entryPort" -}}
{{- $root := index . 0 -}}
{{- get (ternary $root.Values.front $root.Values.gateway $root.Values.front.enabled).service (index . 1) -}}
{{- end -}}

{{/* Of the haproxy before the gateways. */}}
{{- define "qwenserve.frontConfig" -}}
{{- $front := .Values.front -}}
{{- $gateways := printf "%s-pods.%s.svc.%s" (include "qwenserve.name" (dict "root" . "component" "gateway")) .Release.Namespace $front.clusterDomain -}}
{{- $bind := "" -}}
{{- if $front.tlsSecret -}}{{- $bind = " ssl crt /etc/qwenserve/tls/tls.crt alpn" -}}{{- end -}}
global
  log stdout format raw local0
  maxconn {{ $front.maxConnections }}
  # tls.key belongs to tls.crt.
  ssl-load-extra-del-ext
  ssl-default-bind-options ssl-min-ver TLSv1.2
  # On SIGUSR1: accept while endpoints change, then finish what runs.
  grace {{ $front.drain.delaySeconds }}s
  hard-stop-after {{ add $front.drain.delaySeconds $front.drain.timeoutSeconds }}s

defaults
  mode http
  log global
  # Addresses, times, status and path; no content.
  option httplog
  option dontlognull
  timeout connect 5s
  timeout http-request 30s
  timeout http-keep-alive 120s
  timeout queue 10s
  # As long as the gateway lets a request take: it is silent while a prompt waits.
  timeout client {{ add .Values.gateway.maxRequestSeconds 30 }}s
  timeout server {{ add .Values.gateway.maxRequestSeconds 30 }}s
  # A call of which no byte has been answered may be sent to another gateway: it costs work, no more.
  retries 2
  option redispatch 1
  retry-on conn-failure empty-response
  # A connection to a gateway for each call: one that several share goes on taking calls when its place
  # in the list has long been given to another gateway, until the old one ends. "never" is for those of
  # other clients; that a client's next calls have new ones too is "max-reuse 0" below.
  http-reuse never

resolvers cluster
  parse-resolv-conf
  accepted_payload_size 8192
  hold valid 1s
  # A gateway that drains leaves the list at once, and its streams go on.
  hold obsolete 1s

frontend grpc
  bind "${POD_IP}:50051"{{ if $bind }}{{ $bind }} h2{{ else }} proto h2{{ end }}
  {{- with $front.connectionsPerAddress }}
  stick-table type ipv6 size 100k expire 60s store conn_cur
  tcp-request connection track-sc0 src
  tcp-request connection reject if { sc0_conn_cur gt {{ . }} }
  {{- end }}
  default_backend grpc
{{- if .Values.gateway.http.enabled }}

frontend http
  bind "${POD_IP}:8080"{{ if $bind }}{{ $bind }} http/1.1{{ end }}
  {{- with $front.connectionsPerAddress }}
  stick-table type ipv6 size 100k expire 60s store conn_cur
  tcp-request connection track-sc0 src
  tcp-request connection reject if { sc0_conn_cur gt {{ . }} }
  {{- end }}
  option forwardfor
  default_backend http
{{- end }}

frontend ops
  bind "${POD_IP}:9090"
  option dontlog-normal
  acl serving nbsrv(grpc) gt 0
  http-request use-service prometheus-exporter if { path /metrics }
  http-request return status 200 content-type text/plain string ok if { path /livez }
  http-request return status 200 content-type text/plain string ok if { path /readyz } serving
  http-request return status 503 content-type text/plain string "no gateway is ready" if { path /readyz }
  http-request deny deny_status 404

# One call at a time finds its gateway, not one connection. A gateway that is not ready gets none.
backend grpc
  balance leastconn
  option httpchk GET /readyz
  # No server-template: haproxy 2.6 forgets check-proto for all but the first of one.
  {{- range $number := untilStep 1 (int (add1 $front.maxGateways)) 1 }}
  server gateway{{ $number }} {{ $gateways }}:50051 resolvers cluster init-addr none proto h2 max-reuse 0 check port 9090 check-proto h1 inter 2s fall 2 rise 1
  {{- end }}
{{- if .Values.gateway.http.enabled }}

backend http
  balance leastconn
  option httpchk GET /readyz
  server-template gateway {{ $front.maxGateways }} {{ $gateways }}:8080 resolvers cluster init-addr none check port 9090 inter 2s fall 2 rise 1
{{- end }}
{{- end -}}
