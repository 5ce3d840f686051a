{{- /* A pod of a pool: `root`, `pool`, `labels`; `follows`: it lends its GPUs to the first of its group. */}}
{{- define "tokenwire.workerPod" -}}
{{- $pool := .pool }}
{{- $tls := ne .root.Values.tls.source "none" }}
metadata:
  labels: {{- .labels | nindent 4 }}
    {{- if not .follows }}
    tokenwire/serves: "true"
    {{- end }}
    {{- with $pool.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with $pool.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- $revision := $pool.grouped | ternary "leaderworkerset.sigs.k8s.io/template-revision-hash" "pod-template-hash" }}
  {{- include "tokenwire.placement" (dict "root" .root "of" $pool "selector" .labels "revision" $revision) | trim | nindent 2 }}
  {{- with $pool.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  securityContext: {{- include "tokenwire.podSecurity" $pool.user | trim | nindent 4 }}
  # The drain, and the end of the engine.
  terminationGracePeriodSeconds: {{ add (ceil $pool.drainGraceS) 30 }}
  containers:
    - name: worker
      image: {{ include "tokenwire.image" (dict "root" .root "image" $pool.image) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      {{- if .follows }}
      command: {{- toYaml $pool.multiNode.followerCommand | nindent 8 }}
      {{- end }}
      securityContext: {{- include "tokenwire.containerSecurity" $pool.readOnlyRootFilesystem | trim | nindent 8 }}
      env:
        {{- include "tokenwire.env" (dict "root" .root "env" $pool.env) | nindent 8 }}
        {{- if not .follows }}
        {{- include "tokenwire.settings" (dict "service" "WORKER" "chart" (include "tokenwire.workerSettings" .) "values" $pool.settings) | trim | nindent 8 }}
        {{- end }}
      {{- if not .follows }}
      ports:
        - {name: grpc, containerPort: 50061}
        - {name: admin, containerPort: 9464}
      # It listens once its model is loaded.
      startupProbe:
        {{- include "tokenwire.welcomes" (dict "root" .root "port" 50061) | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: {{ ceil (divf $pool.loadTimeoutS 5) }}
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        {{- include "tokenwire.welcomes" (dict "root" .root "port" 50061) | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      {{- end }}
      {{- $resources := deepCopy $pool.resources }}
      {{- if $pool.gpus }}
      {{- $limits := set (get $resources "limits" | default dict) $pool.gpuResource $pool.gpus }}
      {{- $_ := set $resources "limits" $limits }}
      {{- end }}
      resources: {{- toYaml $resources | nindent 8 }}
      volumeMounts:
        - {name: scratch, mountPath: /tmp}
        {{- if $pool.gpus }}
        - {name: shared-memory, mountPath: /dev/shm}
        {{- end }}
        {{- if $pool.modelVolume }}
        - {name: models, mountPath: /models, readOnly: true}
        {{- end }}
        {{- if $tls }}
        - {name: tls, mountPath: /etc/tokenwire/tls, readOnly: true}
        {{- end }}
        {{- with $pool.volumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - {name: scratch, emptyDir: {sizeLimit: {{ $pool.scratch }}}}
    {{- if $pool.gpus }}
    - {name: shared-memory, emptyDir: {medium: Memory, sizeLimit: {{ $pool.sharedMemory }}}}
    {{- end }}
    {{- with $pool.modelVolume }}
    - name: models
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if $tls }}
    - {name: tls, secret: {secretName: {{ include "tokenwire.tlsSecret" (dict "root" .root "kind" "worker") }}}}
    {{- end }}
    {{- with $pool.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{- define "tokenwire.workerSettings" -}}
listen: 0.0.0.0:50061
admin-listen: 0.0.0.0:9464
worker-name: $(POD_NAME)
engine: {{ .pool.engine }}
drain-grace-s: {{ .pool.drainGraceS }}
load-timeout-s: {{ .pool.loadTimeoutS }}
{{- with .pool.model }}
model: {{ . }}
{{- end }}
{{- with .pool.modelName }}
model-name: {{ . }}
{{- end }}
{{- /* Where the engines of other pods fetch KV caches. */}}
{{- $address := dict "vllm" "vllm.nixl-host" "simulated" "simulated.transfer-host" }}
{{- with get $address .pool.engine }}
{{- if and $.pool.transfers (not (hasKey $.pool.settings .)) }}
{{ . }}: $(POD_IP)
{{- end }}
{{- end }}
{{- if eq .root.Values.tls.source "none" }}
insecure: true
{{- else }}
tls.certificate: /etc/tokenwire/tls/tls.crt
tls.key: /etc/tokenwire/tls/tls.key
tls.ca: /etc/tokenwire/tls/ca.crt
{{- /* Of the certificates of this authority only the frontends'. */}}
tls.client-names: [{{ include "tokenwire.host" (dict "root" .root "name" "frontend") }}]
{{- end }}
{{- end }}
