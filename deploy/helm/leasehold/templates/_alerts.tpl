{{- /* The series of one role of this release, by its Service's name, which a ServiceMonitor uses as the job. */ -}}
{{- define "leasehold.of" -}}
namespace="{{ include "leasehold.namespace" .root }}",job="{{ include "leasehold.fullname" .root }}-{{ .role }}"
{{- end }}

{{- /* A counter's increase in an hour. A new pod has no earlier sample, so its present value is the increase. */ -}}
{{- define "leasehold.hourly" -}}
({{ . }} unless {{ . }} offset 1h) or increase({{ . }}[1h])
{{- end }}

{{- define "leasehold.alerts" -}}
{{- $forwarder := include "leasehold.of" (dict "root" . "role" "outbox-forwarder") -}}
{{- $sweeper := include "leasehold.of" (dict "root" . "role" "ttl-sweeper") -}}
{{- $ledger := include "leasehold.of" (dict "root" . "role" "ledger") -}}
{{- $sidecar := include "leasehold.of" (dict "root" . "role" "sidecar") -}}
{{- $campaigning := printf `spendguard_lease_takeovers_total{namespace="%s",job=~"%s-(outbox-forwarder|ttl-sweeper)"}` (include "leasehold.namespace" .) (include "leasehold.fullname" .) -}}
- alert: SpendGuardLeaseFlapping
  expr: sum by (lease) ({{ include "leasehold.hourly" $campaigning }}) > 1
  labels:
    severity: warning
  annotations:
    summary: lease {{ "{{ $labels.lease }}" }} was taken over more than once within an hour
{{- if .Values.outboxForwarder.enabled }}
- alert: SpendGuardOutboxNoLeader
  expr: (sum(spendguard_outbox_forwarder_is_leader{ {{- $forwarder -}} }) or vector(0)) != 1
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: for 5 minutes not exactly one outbox-forwarder has led
- alert: SpendGuardOutboxLagHigh
  expr: max(spendguard_outbox_pending_oldest_age_seconds{ {{- $forwarder -}} }) > 60
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: the oldest pending outbox row has waited for more than 60 s
{{- $age := printf "spendguard_outbox_pending_oldest_age_seconds{%s}" $forwarder }}
- alert: SpendGuardOutboxAgeUnknown
  # NaN, which is the one value that differs from itself.
  expr: {{ $age }} != {{ $age }}
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: for 5 minutes an outbox-forwarder has not been able to tell how old the oldest pending outbox row is
{{- end }}
{{- if .Values.ttlSweeper.enabled }}
- alert: SpendGuardSweeperNoLeader
  expr: (sum(spendguard_ttl_sweeper_is_leader{ {{- $sweeper -}} }) or vector(0)) != 1
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: for 5 minutes not exactly one ttl-sweeper has led
- alert: SpendGuardSweepLagHigh
  expr: max(spendguard_reservations_expired_oldest_age_seconds{ {{- $sweeper -}} }) > 60
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: the oldest expired reservation has waited for more than 60 s to be released
{{- $age := printf "spendguard_reservations_expired_oldest_age_seconds{%s}" $sweeper }}
- alert: SpendGuardSweepAgeUnknown
  expr: {{ $age }} != {{ $age }}
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: for 5 minutes a ttl-sweeper has not been able to tell how old the oldest expired reservation is
{{- end }}
{{- if .Values.ledger.enabled }}
{{- /* The ledger's count, not the sidecars': a sidecar that has just started has no earlier sample. */}}
- alert: SpendGuardSidecarTakeoverStorm
  expr: sum({{ include "leasehold.hourly" (printf `spendguard_ledger_fencing_action_total{%s,action="takeover"}` $ledger) }}) > 1
  labels:
    severity: warning
  annotations:
    summary: fencing scopes changed their sidecar by takeover (promote) more than once within an hour
{{- end }}
{{- if .Values.sidecar.enabled }}
- alert: SpendGuardSidecarNotAcquiring
  {{- if eq .Values.sidecar.fencingScopeMode "shared" }}
  expr: (max(spendguard_sidecar_fencing_epoch{ {{- $sidecar -}} }) or vector(0)) == 0
  {{- else }}
  expr: spendguard_sidecar_fencing_epoch{ {{- $sidecar -}} } == 0
  {{- end }}
  for: 5m
  labels:
    severity: critical
  annotations:
    summary: for 5 minutes a sidecar has not acquired its fencing lease
{{- end }}
{{- end }}
