{{/*
Rules of network policies. A rule without peers would be one for everybody, so where nobody is named there is no rule.
*/}}

{{- define "lobu.egress.dns" -}}
{{- with .Values.networkPolicy.dnsTo }}
- ports:
    {{- range $port := list 53 5353 }}
    - { port: {{ $port }}, protocol: UDP }
    - { port: {{ $port }}, protocol: TCP }
    {{- end }}
  to:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Only here is nobody everybody: most databases have no address that could be known beforehand. */}}
{{- define "lobu.egress.database" -}}
{{- with .Values.networkPolicy.databasePorts }}
- ports:
    {{- range . }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
  {{- with $.Values.networkPolicy.databaseTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "lobu.egress.https" -}}
{{- with .Values.networkPolicy }}
{{- if and .httpsPorts .httpsTo }}
- ports:
    {{- range .httpsPorts }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
  to:
    {{- toYaml .httpsTo | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}
