{{/* "true" if a server, `postgres` or `rabbitmq`, is reached over TLS. (root, server) */}}
{{- define "nameko-hw.tls" -}}
{{- $has := eq .server "postgres" | ternary "true" (include "nameko-hw.hasBroker" .root) -}}
{{- if and (get .root.Values.tls .server).enabled $has }}true{{ end -}}
{{- end }}

{{/*
The Secret with `ca.crt`, and `tls.crt` and `tls.key` of a server that is installed. Empty for a server elsewhere that is
known to whom the image trusts. (root, server)
*/}}
{{- define "nameko-hw.tlsSecret" -}}
{{- $installed := get .root.Values .server | dig "enabled" false -}}
{{- with (get .root.Values.tls .server).existingSecret -}}
{{- . -}}
{{- else -}}
{{- if and $installed .root.Values.tls.certManager.enabled -}}
{{- include "nameko-hw.fullname" .root }}-{{ .server }}-tls
{{- else if $installed -}}
{{- fail (printf "tls.%s.existingSecret: name a Secret with ca.crt, tls.crt and tls.key, or let cert-manager make it with tls.certManager.enabled" .server) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Environment with how PostgreSQL is reached, as libpq reads it where a URL says nothing else. */}}
{{- define "nameko-hw.databaseTlsEnv" -}}
{{- if include "nameko-hw.tls" (dict "root" . "server" "postgres") }}
{{- $secret := include "nameko-hw.tlsSecret" (dict "root" . "server" "postgres") }}
- {name: PGSSLMODE, value: verify-full}
- {name: PGSSLROOTCERT, value: {{ $secret | empty | ternary "/etc/ssl/certs/ca-certificates.crt" "/tls/postgres/ca.crt" }}}
{{- if .Values.tls.postgres.clientSecret }}
- {name: PGSSLCERT, value: /tls/postgres/tls.crt}
- {name: PGSSLKEY, value: /tls/postgres/tls.key}
{{- end }}
{{- end }}
{{- end }}

{{/* Environment with how RabbitMQ is reached, besides its URI. */}}
{{- define "nameko-hw.brokerTlsEnv" -}}
{{- if include "nameko-hw.tls" (dict "root" . "server" "rabbitmq") }}
{{- if include "nameko-hw.tlsSecret" (dict "root" . "server" "rabbitmq") }}
- {name: AMQP_CA_FILE, value: /tls/rabbitmq/ca.crt}
{{- end }}
{{- if .Values.tls.rabbitmq.clientSecret }}
- {name: AMQP_CERT_FILE, value: /tls/rabbitmq/tls.crt}
- {name: AMQP_KEY_FILE, value: /tls/rabbitmq/tls.key}
{{- end }}
{{- end }}
{{- end }}

{{/* The servers from which a client has files of TLS, as a list in JSON. (root, servers) */}}
{{- define "nameko-hw.tlsServers" -}}
{{- $with := list -}}
{{- range $server := .servers -}}
{{- $of := dict "root" $.root "server" $server -}}
{{- if include "nameko-hw.tls" $of -}}
{{- if or (include "nameko-hw.tlsSecret" $of) (get $.root.Values.tls $server).clientSecret -}}
{{- $with = append $with $server -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $with -}}
{{- end }}

{{/* The mounts of these files. (root, servers) */}}
{{- define "nameko-hw.tlsMounts" -}}
{{- range include "nameko-hw.tlsServers" . | fromJsonArray }}
- {name: {{ . }}-tls, mountPath: /tls/{{ . }}, readOnly: true}
{{- end }}
{{- end }}

{{/* ... and their volumes; the key of the server is not among them. (root, servers) */}}
{{- define "nameko-hw.tlsVolumes" -}}
{{- range $server := include "nameko-hw.tlsServers" . | fromJsonArray }}
- name: {{ $server }}-tls
  projected:
    defaultMode: 0440
    sources:
      {{- with include "nameko-hw.tlsSecret" (dict "root" $.root "server" $server) }}
      - secret:
          name: {{ . }}
          items: [{key: ca.crt, path: ca.crt}]
      {{- end }}
      {{- with (get $.root.Values.tls $server).clientSecret }}
      - secret:
          name: {{ . }}
          items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
      {{- end }}
{{- end }}
{{- end }}

{{/* The name of RabbitMQ's port, which is that of the scheme of its URIs. */}}
{{- define "nameko-hw.amqp" -}}
{{- include "nameko-hw.tls" (dict "root" . "server" "rabbitmq") | eq "true" | ternary "amqps" "amqp" -}}
{{- end }}

{{/* ... and its number. */}}
{{- define "nameko-hw.amqpPort" -}}
{{- include "nameko-hw.amqp" . | eq "amqps" | ternary 5671 5672 -}}
{{- end }}
