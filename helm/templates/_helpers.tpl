{{/* The prefix of all names: the release's, with the chart's if it is not in it. */}}
{{- define "nameko-hw.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $name := contains $chart .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $chart) -}}
{{- default $name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* "true" if the style has a broker, else empty: the style http has none. */}}
{{- define "nameko-hw.hasBroker" -}}
{{- if ne .Values.style "http" }}true{{ end -}}
{{- end }}

{{/* "true" if RabbitMQ is installed by this chart. */}}
{{- define "nameko-hw.installsBroker" -}}
{{- if and (ne .Values.style "http") .Values.rabbitmq.enabled }}true{{ end -}}
{{- end }}

{{/* What finds the pods of a component. (root, component) */}}
{{- define "nameko-hw.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels of an object of a component. (root, component) */}}
{{- define "nameko-hw.labels" -}}
{{ include "nameko-hw.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Finds the pods of all services in a NetworkPolicy. */}}
{{- define "nameko-hw.allServices" -}}
matchLabels:
  app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: {{ keys .Values.services | sortAlpha | toJson }}
{{- end }}

{{/* Where to find an image. (image, tag: where the image names none) */}}
{{- define "nameko-hw.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .tag .image.tag }}
{{- end -}}
{{- end }}

{{/* The values of one service: `defaults`, and on top what `services` says of it. (root, name) */}}
{{- define "nameko-hw.service" -}}
{{- mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy (get .root.Values.services .name)) | toYaml -}}
{{- end }}

{{/*
How many pods a Deployment asks for. An autoscaler decides that by itself: it keeps what the cluster has, as without a
number Kubernetes would fall back to one pod. Empty if nothing is there yet. (root, name, service)
*/}}
{{- define "nameko-hw.replicas" -}}
{{- if .service.autoscaling.enabled -}}
{{- $deployment := printf "%s-%s" (include "nameko-hw.fullname" .root) .name -}}
{{- with lookup "apps/v1" "Deployment" .root.Release.Namespace $deployment -}}
{{- max .spec.replicas $.service.autoscaling.minReplicas -}}{{/* at 0, an autoscaler would stay off */}}
{{- end -}}
{{- else -}}
{{- .service.replicas -}}
{{- end -}}
{{- end }}

{{/* "true" if RabbitMQ is installed with several nodes. */}}
{{- define "nameko-hw.clustersBroker" -}}
{{- if and (include "nameko-hw.installsBroker" .) (gt (int .Values.rabbitmq.replicas) 1) }}true{{ end -}}
{{- end }}

{{/* The names of the pods of RabbitMQ, as a list in JSON. Each pod has a Service of its own, which is called like it. */}}
{{- define "nameko-hw.brokerNodes" -}}
{{- $names := list -}}
{{- range untilStep 0 (int .Values.rabbitmq.replicas) 1 -}}
{{- $names = append $names (printf "%s-rabbitmq-%d" (include "nameko-hw.fullname" $) .) -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{/* The settings of one service, as a service reads them from its environment. (root, service) */}}
{{- define "nameko-hw.settings" -}}
{{- $queues := include "nameko-hw.clustersBroker" .root | eq "true" | ternary (dict "QUEUE_TYPE" "quorum") dict -}}
{{- $settings := mergeOverwrite $queues (deepCopy .root.Values.config) .service.config -}}
{{- $_ := set $settings "TRUSTED_PROXIES" (default list .root.Values.trustedProxies) -}}
{{- $_ := set $settings "DRAIN_TIMEOUT_S" .root.Values.drain.timeoutSeconds -}}
{{- range $name, $value := $settings }}
{{ $name }}: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{/* What every pod here has in common, by the "restricted" Pod Security Standard. (root, uid, serviceAccount) */}}
{{- define "nameko-hw.pod" -}}
serviceAccountName: {{ .serviceAccount }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid }}
  runAsGroup: {{ .uid }}
  fsGroup: {{ .uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* ... and every container. */}}
{{- define "nameko-hw.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Where a pod may run. (values with nodeSelector, tolerations, affinity) */}}
{{- define "nameko-hw.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The user id of our own image; the Dockerfile names the same. */}}
{{- define "nameko-hw.uid" -}}
10001
{{- end }}

{{/* The Secret with the passwords of PostgreSQL, or with the URLs of databases elsewhere. */}}
{{- define "nameko-hw.databaseSecret" -}}
{{- if .Values.postgres.enabled -}}
{{ default (printf "%s-postgres" (include "nameko-hw.fullname" .)) .Values.postgres.existingSecret }}
{{- else -}}
{{ required "externalDatabase.existingSecret: name the Secret with the URLs, as postgres.enabled is false" .Values.externalDatabase.existingSecret }}
{{- end -}}
{{- end }}

{{/* The Secret with the passwords of RabbitMQ, or with the URIs of a broker elsewhere. */}}
{{- define "nameko-hw.brokerSecret" -}}
{{- if .Values.rabbitmq.enabled -}}
{{ default (printf "%s-rabbitmq" (include "nameko-hw.fullname" .)) .Values.rabbitmq.existingSecret }}
{{- else -}}
{{ required "externalBroker.existingSecret: name the Secret with the URIs, as rabbitmq.enabled is false" .Values.externalBroker.existingSecret }}
{{- end -}}
{{- end }}

{{/* Environment with the URL of a service's own database; `direct` goes past a pooler. (root, name, direct) */}}
{{- define "nameko-hw.databaseEnv" -}}
{{- $url := printf "%s_DATABASE_URL" (upper .name) -}}
{{- $secret := include "nameko-hw.databaseSecret" .root -}}
{{- if .root.Values.postgres.enabled -}}
{{- $password := printf "%s_DATABASE_PASSWORD" (upper .name) -}}
- name: {{ $password }}
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .name }}-password}
- name: {{ $url }}
  value: postgresql+psycopg2://{{ .name }}:$({{ $password }})@{{ include "nameko-hw.fullname" .root }}-postgres:5432/{{ .name }}
{{- else -}}
- name: {{ $url }}
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .name }}{{ if and .direct .root.Values.externalDatabase.pooler }}-direct{{ end }}-url}
{{- if and .root.Values.externalDatabase.pooler (not .direct) }}
- {name: DB_BEHIND_POOLER, value: "true"}
{{- end }}
{{- end }}
{{- end }}

{{/* Environment with the URI of the broker, for the user of a service. (root, name) */}}
{{- define "nameko-hw.brokerEnv" -}}
{{- $secret := include "nameko-hw.brokerSecret" .root -}}
{{- if .root.Values.rabbitmq.enabled -}}
- name: AMQP_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .name }}-password}
- name: AMQP_URI
  {{- $hosts := list (printf "%s-rabbitmq" (include "nameko-hw.fullname" .root)) }}
  {{- if include "nameko-hw.clustersBroker" .root }}
  {{- $hosts = include "nameko-hw.brokerNodes" .root | fromJsonArray }}
  {{- end }}
  {{- $scheme := include "nameko-hw.amqp" .root }}
  {{- $port := include "nameko-hw.amqpPort" .root }}
  {{- $uris := list }}
  {{- range $hosts }}
  {{- $uris = append $uris (printf "%s://%s:$(AMQP_PASSWORD)@%s:%s/nameko-hw" $scheme $.name . $port) }}
  {{- end }}
  value: {{ join ";" $uris }}
{{- else -}}
- name: AMQP_URI
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ .name }}-uri}
{{- end }}
{{- with include "nameko-hw.brokerTlsEnv" .root }}
{{ trim . }}
{{- end }}
{{- end }}

{{/* Environment with what carries messages between the services: the broker, or their own addresses. (root, name) */}}
{{- define "nameko-hw.messagingEnv" -}}
- name: STYLE
  value: {{ .root.Values.style }}
{{- if include "nameko-hw.hasBroker" .root }}
{{ include "nameko-hw.brokerEnv" . }}
{{- else }}
{{- range list "users" "billing" "notifications" }}
- name: {{ upper . }}_URL
  value: http://{{ include "nameko-hw.fullname" $.root }}-{{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The Secret of what services need to know who sends a request. */}}
{{- define "nameko-hw.authSecret" -}}
{{ default (printf "%s-auth" (include "nameko-hw.fullname" .)) .Values.auth.existingSecret }}
{{- end }}

{{/* "true" if services need a secret by which they know each other: they speak HTTP, and users have tokens. */}}
{{- define "nameko-hw.hasInternalToken" -}}
{{- if and (eq .Values.auth.mode "jwt") (eq .Values.style "http") }}true{{ end -}}
{{- end }}

{{- define "nameko-hw.authPasswords" -}}
{{- include "nameko-hw.passwords" (dict "root" . "secret" (include "nameko-hw.authSecret" .) "users" (list "internal")) -}}
{{- end }}

{{/* Changes when the secret between services does, so that all pods get the new one. */}}
{{- define "nameko-hw.authChecksum" -}}
{{- if .Values.auth.existingSecret -}}
{{ dig "metadata" "resourceVersion" "unknown" (lookup "v1" "Secret" .Release.Namespace .Values.auth.existingSecret) | quote }}
{{- else if include "nameko-hw.hasInternalToken" . -}}
{{ include "nameko-hw.authPasswords" . | sha256sum }}
{{- end -}}
{{- end }}

{{/* Environment with whose tokens are taken; empty if none are asked for. */}}
{{- define "nameko-hw.authEnv" -}}
{{- if eq .Values.auth.mode "jwt" }}
- {name: AUTH, value: jwt}
- {name: AUTH_ISSUER, value: {{ required "auth.issuer: say who signs the tokens, as auth.mode is jwt" .Values.auth.issuer | quote }}}
- {name: AUTH_AUDIENCE, value: {{ required "auth.audience: say for whom the tokens are, as auth.mode is jwt" .Values.auth.audience | quote }}}
- {name: AUTH_ALGORITHMS, value: {{ toJson .Values.auth.algorithms | quote }}}
{{- if .Values.auth.jwks }}
- {name: AUTH_JWKS, value: {{ .Values.auth.jwks | quote }}}
{{- else }}
- name: AUTH_KEY
  valueFrom:
    secretKeyRef: {name: {{ required "auth.jwks: say where the keys are, or name a Secret with the key in auth.existingSecret" .Values.auth.existingSecret }}, key: auth-key}
{{- end }}
{{- if include "nameko-hw.hasInternalToken" . }}
- name: INTERNAL_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "nameko-hw.authSecret" . }}, key: internal-password}
{{- end }}
{{- end }}
{{- end }}

{{/* Environment with where the spans of a service go; empty if they go nowhere. */}}
{{- define "nameko-hw.tracingEnv" -}}
{{- if .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .Values.tracing.endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .Values.tracing.sampler }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .Values.tracing.samplerArg | toJson | quote }}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME)
{{- end }}
{{- end }}

{{/* Environment with the passwords that a server needs to make its users. (root, secret, names) */}}
{{- define "nameko-hw.passwordsEnv" -}}
{{- range .names }}
- name: {{ upper . }}_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $.secret }}, key: {{ . }}-password}
{{- end }}
{{- end }}

{{/*
The data of a Secret of ours: what the cluster has of it already, and for the rest new passwords.
It is kept in the values, so that all templates of one rendering see the same. (root, secret, users)
*/}}
{{- define "nameko-hw.passwords" -}}
{{- if not (hasKey .root.Values "passwords") -}}
{{- $_ := set .root.Values "passwords" dict -}}
{{- end -}}
{{- if not (hasKey .root.Values.passwords .secret) -}}
{{- $old := (lookup "v1" "Secret" .root.Release.Namespace .secret).data | default dict -}}
{{- $data := dict -}}
{{- range .users -}}
{{- $key := printf "%s-password" . -}}
{{- $_ := set $data $key (get $old $key | default (randAlphaNum 32 | b64enc)) -}}
{{- end -}}
{{- $_ := set .root.Values.passwords .secret $data -}}
{{- end -}}
{{- get .root.Values.passwords .secret | toYaml -}}
{{- end }}

{{- define "nameko-hw.databasePasswords" -}}
{{- $users := concat (list "postgres") (keys .Values.services | sortAlpha) -}}
{{- include "nameko-hw.passwords" (dict "root" . "secret" (include "nameko-hw.databaseSecret" .) "users" $users) -}}
{{- end }}

{{/* Whose passwords RabbitMQ has to know; the one of `cluster` is the cookie of Erlang, by which nodes trust each other. */}}
{{- define "nameko-hw.brokerUsers" -}}
{{- $clustered := include "nameko-hw.clustersBroker" . | eq "true" | ternary (list "cluster") list -}}
{{- concat (list "admin") $clustered (keys .Values.services | sortAlpha) | toJson -}}
{{- end }}

{{- define "nameko-hw.brokerPasswords" -}}
{{- $users := include "nameko-hw.brokerUsers" . | fromJsonArray -}}
{{- include "nameko-hw.passwords" (dict "root" . "secret" (include "nameko-hw.brokerSecret" .) "users" $users) -}}
{{- end }}

{{/* Changes when the database's passwords do. Of a Secret that is not ours, only its version is looked at. */}}
{{- define "nameko-hw.databaseChecksum" -}}
{{- if and .Values.postgres.enabled (not .Values.postgres.existingSecret) -}}
{{ include "nameko-hw.databasePasswords" . | sha256sum }}
{{- else -}}
{{ dig "metadata" "resourceVersion" "unknown" (lookup "v1" "Secret" .Release.Namespace (include "nameko-hw.databaseSecret" .)) | quote }}
{{- end -}}
{{- end }}

{{/* Changes when the broker's passwords do. */}}
{{- define "nameko-hw.brokerChecksum" -}}
{{- if and .Values.rabbitmq.enabled (not .Values.rabbitmq.existingSecret) -}}
{{ include "nameko-hw.brokerPasswords" . | sha256sum }}
{{- else -}}
{{ dig "metadata" "resourceVersion" "unknown" (lookup "v1" "Secret" .Release.Namespace (include "nameko-hw.brokerSecret" .)) | quote }}
{{- end -}}
{{- end }}

{{/*
The connections that PostgreSQL takes: as given, or as many as the services may open, in hundreds so that a further pod
does not restart the server. Stops with a clear message when those that are given are too few.
*/}}
{{- define "nameko-hw.maxConnections" -}}
{{- $needed := 12 -}}{{/* for migrations, audits and people */}}
{{- range $name, $_ := .Values.services -}}
{{- $service := include "nameko-hw.service" (dict "root" $ "name" $name) | fromYaml -}}
{{- $settings := include "nameko-hw.settings" (dict "root" $ "service" $service) | fromYaml -}}
{{- $pods := $service.autoscaling.enabled | ternary $service.autoscaling.maxReplicas $service.replicas | int -}}
{{- $each := add 4 (get $settings "DB_CONNECTIONS" | default 20 | int) -}}
{{- $needed = add $needed (mul $each (add 1 $pods)) -}}{{/* one more while they are rolled */}}
{{- end -}}
{{- if not .Values.postgres.maxConnections -}}
{{- mul 100 (max 3 (ceil (divf $needed 100))) -}}
{{- else if gt (int $needed) (int .Values.postgres.maxConnections) -}}
{{- fail (printf "postgres.maxConnections: %d is too low, the services may open %d: raise it, or lower replicas, autoscaling.maxReplicas or config.DB_CONNECTIONS" (int .Values.postgres.maxConnections) (int $needed)) -}}
{{- else -}}
{{- .Values.postgres.maxConnections | int -}}
{{- end -}}
{{- end }}

{{/* The volume of a server; what is in it outlives the release. (persistence, component) */}}
{{- define "nameko-hw.volumeClaim" -}}
{{- if .persistence.enabled -}}
volumeClaimTemplates:
  - metadata:
      name: data
      labels:
        {{- include "nameko-hw.selectorLabels" .component | nindent 8 }}
    spec:
      accessModes: [ReadWriteOnce]
      {{- with .persistence.storageClass }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests:
          storage: {{ .persistence.size }}
{{- end }}
{{- end }}
