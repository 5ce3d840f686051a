{{- /* Settings as environment variables. `service` is FRONTEND or WORKER; `chart` and `values` have them by
their names, and never the same ones. */}}
{{- define "tokenwire.settings" -}}
{{- $service := .service }}
{{- range $name, $value := merge (fromYaml .chart) .values }}
- name: TOKENWIRE_{{ $service }}_{{ $name | replace "." "__" | replace "-" "_" | upper }}
  value: {{ if kindIs "string" $value }}{{ quote $value }}{{ else }}{{ toJson $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{- /* Environment beside the settings. Others may refer to who the pod is. `root`; `env` of the workload. */}}
{{- define "tokenwire.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- /* Nothing but /tmp can be written to. */}}
{{- $env := dict "HOME" "/tmp" "OTEL_RESOURCE_ATTRIBUTES" "k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME)" }}
{{- range list .root.Values.env .env }}
{{- range $name, $value := . }}
{{- $_ := set $env $name (toString $value) }}
{{- end }}
{{- end }}
{{- range $name, $value := $env }}
- name: {{ $name }}
  value: {{ quote $value }}
{{- end }}
{{- end }}

{{- /* Where a pod runs. `root`, `of` with the values, `selector`, `revision`: label of a version's pods. */}}
{{- define "tokenwire.placement" -}}
automountServiceAccountToken: false
{{- /* Variables of Services would look like settings. */}}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $constraints := list }}
{{- $keys := dict "zones" "topology.kubernetes.io/zone" "nodes" "kubernetes.io/hostname" }}
{{- $selector := .selector }}
{{- $revision := .revision }}
{{- range $domain, $when := .root.Values.topologySpread }}
{{- if $when }}
{{- $each := dict "maxSkew" 1 "topologyKey" (get $keys $domain) "whenUnsatisfiable" $when "labelSelector" (dict "matchLabels" (fromYaml $selector)) "matchLabelKeys" (list $revision) }}
{{- $constraints = append $constraints $each }}
{{- end }}
{{- end }}
{{- with $constraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tokenwire.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tokenwire.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ . }}
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Whether a service welcomes work: its gRPC health. The kubelet asks in plain text only, so with TLS
the admin port answers the same. `root`, `port`. */}}
{{- define "tokenwire.welcomes" -}}
{{- if eq .root.Values.tls.source "none" -}}
grpc: {port: {{ .port }}}
{{- else -}}
httpGet: {path: /readyz, port: admin}
{{- end }}
{{- end }}
