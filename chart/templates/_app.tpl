{{/* What follows from several values of the app together. */}}

{{- define "lobu.app.name" -}}
{{ include "lobu.componentName" (dict "root" . "component" "app") }}
{{- end -}}

{{/* Most pods there can be, whoever decides. */}}
{{- define "lobu.app.replicasMax" -}}
{{ .Values.app.autoscaling.enabled | ternary .Values.app.autoscaling.maxReplicas .Values.app.replicaCount | int }}
{{- end -}}

{{/* "true" when only one pod at a time can hold the app's volume. */}}
{{- define "lobu.app.volumeIsExclusive" -}}
{{- with .Values.app.persistence }}{{ and .enabled (not (has "ReadWriteMany" .accessModes)) }}{{ end -}}
{{- end -}}

{{/* A setting in seconds, from (list $ name default); a 0 is a 0, and empty is the default. */}}
{{- define "lobu.app.seconds" -}}
{{- $value := get ((index . 0).Values.app.env | default dict) (index . 1) -}}
{{- $text := kindIs "invalid" $value | ternary "" (toString $value) -}}
{{ $text | default (index . 2) | float64 | ceil | int }}
{{- end -}}

{{/*
How long a pod may take to stop: the app's own wait and grace, with the defaults it has in production, 15 s in which it
ends requests and closes what it holds, and 10 s to spare.
*/}}
{{- define "lobu.app.gracePeriodSeconds" -}}
{{- $wait := include "lobu.app.seconds" (list . "SHUTDOWN_WAIT_SECONDS" "10") | int -}}
{{- $grace := include "lobu.app.seconds" (list . "SHUTDOWN_GRACE_SECONDS" "25") | int -}}
{{ add (int .Values.app.preStopSleepSeconds) $wait $grace 15 10 }}
{{- end -}}

{{/* With `migrations.enabled` the Job is the only writer, whether or not SKIP_MIGRATIONS was thought of. */}}
{{- define "lobu.app.env" -}}
{{- $env := .Values.app.env | default dict -}}
{{- include "lobu.app.givenEnv" (dict "Values" (dict "app" (dict "env" (omit $env "PUBLIC_WEB_URL" "SKIP_MIGRATIONS")))) }}
{{- with include "lobu.publicUrl" . }}
- name: PUBLIC_WEB_URL
  value: {{ . | quote }}
{{- end }}
- name: SKIP_MIGRATIONS
  value: {{ $env.SKIP_MIGRATIONS | default (.Values.migrations.enabled | ternary "1" "") | quote }}
- name: PORT
  value: "8787"
{{- if .Values.metrics.enabled }}
- name: METRICS_PORT
  value: "9464"
{{- end }}
- name: LOBU_DATA_DIR
  value: /var/lib/lobu
{{ include "lobu.databaseEnv" (dict "secret" .Values.database.existingSecret "key" .Values.database.existingSecretKey "directKey" .Values.database.directSecretKey) }}
{{- end -}}

{{- define "lobu.app.serviceAccountName" -}}
{{- $fallback := .Values.app.serviceAccount.create | ternary (include "lobu.componentName" (dict "root" . "component" "app")) "default" -}}
{{- .Values.app.serviceAccount.name | default $fallback -}}
{{- end -}}

{{/* `app.env` as it was given. */}}
{{- define "lobu.app.givenEnv" -}}
{{- range $name, $value := .Values.app.env }}
{{- if not (kindIs "invalid" $value) }}
- name: {{ $name }}
  value: {{ include "lobu.envString" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "component" …), the one whose copy of `app.files` is meant. */}}
{{- define "lobu.app.filesMount" -}}
{{- if .root.Values.app.files -}}
- { name: files, mountPath: /etc/lobu, readOnly: true }
{{- end -}}
{{- end -}}
{{- define "lobu.app.filesVolume" -}}
{{- if .root.Values.app.files -}}
- name: files
  configMap: { name: {{ include "lobu.componentName" . }}-files }
{{- end -}}
{{- end -}}

{{/* Where a pod that comes and goes may run: where the app's pods may. */}}
{{- define "lobu.app.placement" -}}
{{- range $field := list "nodeSelector" "tolerations" }}
{{- with index $.Values.app $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
