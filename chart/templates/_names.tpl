{{/*
Names, labels and images. A component is a Deployment with what belongs to it: `app` today. Helpers that need to know
which one take (dict "root" $ "component" "app").
*/}}

{{- define "lobu.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "lobu.componentName" -}}
{{ include "lobu.fullname" .root }}-{{ .component }}
{{- end -}}

{{/* What selects a component's pods. May never change: a Deployment's selector cannot. */}}
{{- define "lobu.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The chart's own version is not among them: a chart that renders the same pods restarts none. */}}
{{- define "lobu.podLabels" -}}
{{ include "lobu.selectorLabels" . }}
app.kubernetes.io/version: {{ include "lobu.imageVersion" .root | quote }}
{{- end -}}

{{- define "lobu.labels" -}}
{{ include "lobu.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* As a label can hold it; of a digest without a tag its first letters. */}}
{{- define "lobu.imageVersion" -}}
{{- $digest := .Values.image.digest | trimPrefix "sha256:" | trunc 12 -}}
{{ .Values.image.tag | default $digest | default .Chart.AppVersion | toString | trunc 63 | trimAll "-_." }}
{{- end -}}

{{- define "lobu.image" -}}
{{- $image := .Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end -}}

{{/* Under which address clients reach the app; empty when nobody said. */}}
{{- define "lobu.publicUrl" -}}
{{- $given := (.Values.app.env).PUBLIC_WEB_URL -}}
{{- if $given -}}
{{ $given }}
{{- else if .Values.ingress.enabled -}}
{{- range .Values.ingress.hosts -}}
{{- if not (hasPrefix "*" .) }}{{ printf "https://%s" . }}{{ break }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
