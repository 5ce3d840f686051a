{{- /* Short enough for the host names of an engine's pods, NAME-worker-POOL-12-3: 63 characters. */}}
{{- define "tokenwire.name" -}}
{{- contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) | trunc 26 | trimSuffix "-" }}
{{- end }}

{{- /* Labels of everything that the chart makes. */}}
{{- define "tokenwire.labels" -}}
{{ include "tokenwire.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tokenwire.selector" -}}
app.kubernetes.io/name: tokenwire
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tokenwire.frontendSelector" -}}
{{ include "tokenwire.selector" . }}
app.kubernetes.io/component: frontend
{{- end }}

{{- define "tokenwire.workerSelector" -}}
{{ include "tokenwire.selector" . }}
app.kubernetes.io/component: worker
{{- end }}

{{- /* Name of a Service as certificates and peers have it; `name` follows the release's. */}}
{{- define "tokenwire.host" -}}
{{ include "tokenwire.name" .root }}-{{ .name }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end }}

{{- /* Secret with the certificate of `kind`, frontend or worker. */}}
{{- define "tokenwire.tlsSecret" -}}
{{- if eq .root.Values.tls.source "certManager" -}}
{{ include "tokenwire.name" .root }}-{{ .kind }}-tls
{{- else -}}
{{ get .root.Values.tls.secrets .kind }}
{{- end }}
{{- end }}

{{- define "tokenwire.fleetKeySecret" -}}
{{ .Values.frontend.resume.fleetKeySecret | default (printf "%s-fleet-key" (include "tokenwire.name" .)) }}
{{- end }}

{{- define "tokenwire.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}
{{- .image.repository }}:{{ .image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- /* Tells gateways and meshes that a plain-text port speaks HTTP/2. */}}
{{- define "tokenwire.appProtocol" -}}
{{- if eq .Values.tls.source "none" }}, appProtocol: kubernetes.io/h2c{{ end }}
{{- end }}
