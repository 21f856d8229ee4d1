{{/* What every pod of this chart has in common, whichever component, Job or test it belongs to. */}}

{{/* The `restricted` Pod Security standard, with a user by number, so that the kubelet can tell that it is not root. */}}
{{- define "lobu.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "lobu.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* No pod talks to Kubernetes, and none needs the addresses of its neighbours in its environment. */}}
{{- define "lobu.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "lobu.podSecurityContext" . | nindent 2 }}
{{- end -}}

{{- define "lobu.containerDefaults" -}}
image: {{ include "lobu.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "lobu.containerSecurityContext" . | nindent 2 }}
{{- end -}}

{{/*
A value as the string that the person meant: `toString` alone would make 1.048576e+06 of 1048576, because numbers of YAML
are floats here.
*/}}
{{- define "lobu.envString" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{ int64 . }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end -}}

{{/* Takes (dict "secret" … "key" … "directKey" …): the database, and nothing else. */}}
{{- define "lobu.databaseEnv" -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef: { name: {{ .secret | quote }}, key: {{ .key | quote }} }
{{- with .directKey }}
- name: DATABASE_DIRECT_URL
  valueFrom:
    secretKeyRef: { name: {{ $.secret | quote }}, key: {{ . | quote }} }
{{- end }}
{{- end -}}
