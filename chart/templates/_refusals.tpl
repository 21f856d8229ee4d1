{{/*
Values that cannot work together, each with a sentence that says what to do. values.schema.json refuses most of them
as well; these hold where the schema was skipped, or cannot tell.
*/}}
{{- define "lobu.refuse" -}}
{{- include "lobu.refuseUnknown" (dict "values" .Values "known" (.Files.Get "files/known-values.yaml" | fromYaml) "path" "") -}}
{{- range list "secretName" "database.existingSecret" "database.existingSecretKey" -}}
{{- $value := $.Values -}}
{{- range splitList "." . }}{{ $value = index $value . }}{{ end -}}
{{- if not $value }}{{ fail (printf "%s: name it; docs/kubernetes.md says how the Secrets are made" .) }}{{ end -}}
{{- end -}}
{{- range $name := list "DATABASE_URL" "DATABASE_DIRECT_URL" "JWT_SECRET" "BETTER_AUTH_SECRET" "ENCRYPTION_KEY" "ENCRYPTION_KEYS_OLD" -}}
{{- if hasKey ($.Values.app.env | default dict) $name }}{{ fail (printf "app.env.%s: a secret has no place in values; put it into the Secret that secretName or database.existingSecret names" $name) }}{{ end -}}
{{- end -}}
{{- range $name := list "PORT" "LOBU_DATA_DIR" -}}
{{- if hasKey ($.Values.app.env | default dict) $name }}{{ fail (printf "app.env.%s: the chart sets it; leave it out" $name) }}{{ end -}}
{{- end -}}
{{- if hasKey ($.Values.app.env | default dict) "METRICS_PORT" }}{{ fail "app.env.METRICS_PORT: set metrics.enabled instead, which opens the port everywhere it must be" }}{{ end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: name at least one host, or set ingress.enabled to false" -}}
{{- end -}}
{{- with .Values.app.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) }}{{ fail "app.autoscaling.maxReplicas: must not be less than minReplicas" }}{{ end -}}
{{- end -}}
{{- if and (gt (include "lobu.app.replicasMax" . | int) 1) (eq (include "lobu.app.volumeIsExclusive" .) "true") -}}
{{- fail "app.persistence: more than one replica cannot share a volume that is not ReadWriteMany; set app.persistence.accessModes to [ReadWriteMany], or app.persistence.enabled to false (production keeps nothing there)" -}}
{{- end -}}
{{- if and .Values.app.preStopSleepSeconds (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) -}}
{{- fail "app.preStopSleepSeconds: needs Kubernetes 1.30; set it to 0, and app.env.SHUTDOWN_WAIT_SECONDS to the time that is needed" -}}
{{- end -}}
{{- range $name := list "serviceMonitor" "prometheusRule" -}}
{{- if and (index $.Values.metrics $name).enabled (not $.Values.metrics.enabled) }}{{ fail (printf "metrics.%s: there is nothing to collect; set metrics.enabled to true" $name) }}{{ end -}}
{{- end -}}
{{- if and .Values.image.digest (not (regexMatch "^sha256:[a-f0-9]{64}$" .Values.image.digest)) -}}
{{- fail "image.digest: must be sha256: and 64 hexadecimal digits" -}}
{{- end -}}
{{- end -}}

{{/* A key that does not exist is one that was mistyped: what it should have set would be missed in silence. */}}
{{- define "lobu.refuseUnknown" -}}
{{- range $key, $value := .values -}}
{{- if not (hasKey $.known $key) -}}
{{- fail (printf "%s%s: there is no such value; chart/README.md lists them all" $.path $key) -}}
{{- end -}}
{{- $below := get $.known $key -}}
{{- if and (kindIs "map" $below) (kindIs "map" $value) -}}
{{- include "lobu.refuseUnknown" (dict "values" $value "known" $below "path" (printf "%s%s." $.path $key)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
