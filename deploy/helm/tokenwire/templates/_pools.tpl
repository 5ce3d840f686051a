{{- /* A pool of workers with the values that it leaves out, as JSON. */}}
{{- define "tokenwire.pool" -}}
{{- $pool := include "tokenwire.overlay" (dict "under" .root.Values.workerDefaults "over" (.given | default dict)) | fromJson }}
{{- $cpu := has $pool.engine (list "openvino" "simulated") }}
{{- if not $pool.image.repository }}
{{- $_ := set $pool.image "repository" ($cpu | ternary "tokenwire-worker" (printf "tokenwire-worker-%s" ($pool.engine | replace "_" "-"))) }}
{{- end }}
{{- /* The users of the images. */}}
{{- $_ := set $pool "user" ($cpu | ternary 65534 10001) }}
{{- $_ := set $pool "name" .name }}
{{- $_ := set $pool "fullName" (printf "%s-worker-%s" (include "tokenwire.name" .root) .name) }}
{{- $_ := set $pool "grouped" (gt (int $pool.multiNode.size) 1) }}
{{- /* Its engines hand KV caches to each other. */}}
{{- $apart := ne (get $pool.settings "phases" | default "any") "any" }}
{{- $_ := set $pool "transfers" (or $apart (ne (get $pool.settings "transfer-group" | default "") "")) }}
{{- include "tokenwire.checkPool" $pool }}
{{- toJson $pool }}
{{- end }}

{{- define "tokenwire.checkPool" -}}
{{- $where := printf "workers.%s" .name }}
{{- if and (has .engine (list "vllm" "tensorrt_llm")) (not .model) }}
{{- fail (printf "%s.model: required with the engine %s" $where .engine) }}
{{- end }}
{{- if and .grouped (not .multiNode.followerCommand) }}
{{- fail (printf "%s.multiNode.followerCommand: required with multiNode.size above 1" $where) }}
{{- end }}
{{- if and (ne .autoscaling.by "none") (not .modelName) }}
{{- fail (printf "%s.modelName: required with autoscaling" $where) }}
{{- end }}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) }}
{{- fail (printf "%s.autoscaling: minReplicas is %d, maxReplicas %d" $where (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) }}
{{- end }}
{{- end }}

{{- /* `over` laid over `under`, as JSON. Unlike mergeOverwrite it takes 0, false and "" too. */}}
{{- define "tokenwire.overlay" -}}
{{- $result := deepCopy .under }}
{{- range $key, $value := .over }}
{{- $below := get $result $key }}
{{- if and (kindIs "map" $value) (kindIs "map" $below) }}
{{- $_ := set $result $key (include "tokenwire.overlay" (dict "under" $below "over" $value) | fromJson) }}
{{- else }}
{{- $_ := set $result $key $value }}
{{- end }}
{{- end }}
{{- toJson $result }}
{{- end }}

{{- define "tokenwire.poolSelector" -}}
{{ include "tokenwire.workerSelector" .root }}
tokenwire/pool: {{ .pool.name }}
{{- end }}
