{{- /* Whether frontends ask callers who they are; empty: they don't. */}}
{{- define "tokenwire.authenticates" -}}
{{- if or .Values.tls.clientCertificates .Values.frontend.apiKeysSecret (hasKey .Values.frontend.settings "jwt.jwks") }}yes{{ end }}
{{- end }}

{{- /* What the schema of the values cannot say. */}}
{{- define "tokenwire.check" -}}
{{- $tls := .Values.tls }}
{{- if not .Values.workers }}
{{- fail "workers: at least one pool is required" }}
{{- end }}
{{- if and (eq $tls.source "none") (not .Values.insecure) }}
{{- fail "tls.source: certificates are required; `insecure: true` serves without" }}
{{- end }}
{{- if not (or .Values.insecure (include "tokenwire.authenticates" .)) }}
{{- fail "frontend.apiKeysSecret: callers must show who they are, by it, by jwt.jwks in frontend.settings, or by tls.clientCertificates; `insecure: true` serves whoever calls" }}
{{- end }}
{{- if eq $tls.source "secrets" }}
{{- range list "frontend" "worker" }}
{{- if not (get $tls.secrets .) }}
{{- fail (printf "tls.secrets.%s: required where tls.source is secrets" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $tls.clientCertificates (eq $tls.source "none") }}
{{- fail "tls.clientCertificates: requires tls.source" }}
{{- end }}
{{- $scaling := .Values.frontend.autoscaling }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
{{- fail (printf "frontend.autoscaling: minReplicas is %d, maxReplicas %d" (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- end }}
{{- end }}
