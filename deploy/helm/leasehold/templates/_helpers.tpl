{{- define "leasehold.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* The hash keeps two names apart that are alike once they are cut, or have no dots any more. */ -}}
{{- define "leasehold.fullname" -}}
{{- $name := include "leasehold.name" . -}}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $wanted := default $default .Values.fullnameOverride -}}
{{- $full := $wanted | replace "." "-" -}}
{{- if or (ne $full $wanted) (gt (len $full) 39) -}}
{{- $full = printf "%s-%s" ($full | trunc 30 | trimSuffix "-") (sha256sum $wanted | trunc 8) -}}
{{- end -}}
{{- $full -}}
{{- end }}

{{- define "leasehold.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{- define "leasehold.image" -}}
{{- $image := .Values.image -}}
{{- $registry := default $image.registry (get (default dict .Values.global) "imageRegistry") -}}
{{- $at := ternary (printf "@%s" $image.digest) (printf ":%s" (default .Chart.AppVersion $image.tag)) (not (empty $image.digest)) -}}
{{- with $registry }}{{ . }}/{{ end }}{{ $image.repository }}{{ $at -}}
{{- end }}

{{- /* As a list of objects. Other charts also write names in `global`. */ -}}
{{- define "leasehold.pullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (default list (get (default dict .Values.global) "imagePullSecrets")) .Values.imagePullSecrets -}}
{{- $secrets = append $secrets (ternary . (dict "name" .) (kindIs "map" .)) -}}
{{- end -}}
{{- toYaml (uniq $secrets) -}}
{{- end }}

{{- /* The roles by name, and the key of each one's values. */ -}}
{{- define "leasehold.roles" -}}
outbox-forwarder: outboxForwarder
ttl-sweeper: ttlSweeper
ledger: ledger
canonical-ingest: canonicalIngest
sidecar: sidecar
{{- end }}

{{- /* The labels of everything in this release. */ -}}
{{- define "leasehold.release" -}}
app.kubernetes.io/name: {{ include "leasehold.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The labels that select a role's pods: .root, .role. */ -}}
{{- define "leasehold.selector" -}}
{{ include "leasehold.release" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- /* The labels of a role's pods: .root, .role, .values. None names the chart's version, which must restart no pod. */ -}}
{{- define "leasehold.podLabels" -}}
{{ include "leasehold.selector" . }}
{{- with merge dict .values.podLabels .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /*
An object's metadata: .root, .role; optional: .suffix (the name's end, instead of the role), .name (all of it),
.namespace, .labels, .annotations.
*/ -}}
{{- define "leasehold.metadata" -}}
name: {{ default (printf "%s-%s" (include "leasehold.fullname" .root) (default .role .suffix)) .name }}
namespace: {{ default (include "leasehold.namespace" .root) .namespace }}
labels:
  {{- include "leasehold.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
  {{- with merge dict (default dict .labels) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The name of a role's account: .root, .role, .values. */ -}}
{{- define "leasehold.account" -}}
{{- default (printf "%s-%s" (include "leasehold.fullname" .root) .role) .values.serviceAccount.name -}}
{{- end }}

{{- /* The leases of the roles that run. */ -}}
{{- define "leasehold.leases" -}}
{{- range list .Values.outboxForwarder .Values.ttlSweeper }}
{{- if .enabled }}
- {{ .leaseName }}
{{- end }}
{{- end }}
{{- end }}

{{- /* "true" if the pods that campaign use this kind of store: .root, .mode. */ -}}
{{- define "leasehold.uses" -}}
{{- $election := .root.Values.leaderElection -}}
{{- /* Nothing is moved into mode disabled. */ -}}
{{- has .mode (ternary (list "disabled") (list $election.mode $election.migrateFrom) (eq $election.mode "disabled")) -}}
{{- end }}

{{- /* "true" where one pod may run. */ -}}
{{- define "leasehold.onePod" -}}
{{- or (eq .Values.leaderElection.mode "disabled") (eq (include "leasehold.uses" (dict "root" . "mode" "sqlite")) "true") -}}
{{- end }}

{{- /* The seconds that a pod gets to stop: its stop budget, and time for the rest of its shutdown. */ -}}
{{- define "leasehold.neededGrace" -}}
{{- add 10 (div (add (int64 .Values.leaderElection.stopBudgetMs) 999) 1000) -}}
{{- end }}

{{- define "leasehold.ledgerUrl" -}}
{{- $scheme := ternary "https" "http" (not (empty .Values.ledger.tls.secretName)) -}}
{{- default (printf "%s://%s-ledger:50051" $scheme (include "leasehold.fullname" .)) .Values.sidecar.ledgerUrl -}}
{{- end }}

{{- define "leasehold.ingestUrl" -}}
{{- $scheme := ternary "https" "http" (not (empty .Values.canonicalIngest.tls.secretName)) -}}
{{- default (printf "%s://%s-canonical-ingest:8080/v1/events" $scheme (include "leasehold.fullname" .)) .Values.outboxForwarder.ingestUrl -}}
{{- end }}

{{- /* Access to the lease store: variables, and Secrets by the folder that they are mounted at. */ -}}
{{- define "leasehold.store" -}}
{{- $election := .Values.leaderElection -}}
env:
  SPENDGUARD_LEADER_ELECTION_MODE: {{ $election.mode | quote }}
  SPENDGUARD_LEADER_REGION: {{ $election.region | quote }}
  SPENDGUARD_LEADER_MIGRATE_FROM: {{ $election.migrateFrom | quote }}
  {{- range $name, $value := dict
    "LEASE_TTL_MS" $election.ttlMs
    "RENEW_INTERVAL_MS" $election.renewIntervalMs
    "RETRY_INTERVAL_MS" $election.retryIntervalMs
    "MAX_TTL_MS" $election.maxTtlMs
    "MAX_SILENCE_MS" $election.maxSilenceMs
    "STOP_GRACE_MS" $election.stopGraceMs }}
  SPENDGUARD_LEADER_{{ $name }}: {{ kindIs "invalid" $value | ternary "" (int64 $value | toString) | quote }}
  {{- end }}
  {{- if eq (include "leasehold.uses" (dict "root" . "mode" "postgres")) "true" }}
  {{- with $election.postgres }}
  SPENDGUARD_LEADER_POSTGRES_URL_FILE: /etc/leasehold/postgres/{{ .urlKey }}
  SPENDGUARD_LEADER_POSTGRES_SCHEMA: {{ .schema | quote }}
  SPENDGUARD_LEADER_POSTGRES_LISTEN_URL_FILE: {{ with .listenUrlKey }}/etc/leasehold/postgres/{{ . }}{{ else }}""{{ end }}
  {{- end }}
  {{- end }}
  {{- if eq (include "leasehold.uses" (dict "root" . "mode" "etcd")) "true" }}
  {{- with $election.etcd }}
  SPENDGUARD_LEADER_ETCD_ENDPOINTS: {{ join "," .endpoints | quote }}
  SPENDGUARD_LEADER_ETCD_PREFIX: {{ .prefix | quote }}
  SPENDGUARD_LEADER_ETCD_USER: {{ .user | quote }}
  {{- range $name, $key := dict "PASSWORD" .passwordKey "CA" .caKey "CERT" .certKey "KEY" .keyKey }}
  SPENDGUARD_LEADER_ETCD_{{ $name }}_FILE: {{ with $key }}/etc/leasehold/etcd/{{ . }}{{ else }}""{{ end }}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- if eq (include "leasehold.uses" (dict "root" . "mode" "k8s")) "true" }}
  SPENDGUARD_LEADER_K8S_NAMESPACE: {{ default (include "leasehold.namespace" .) $election.k8s.namespace | quote }}
  {{- end }}
secrets:
  {{- range $mode, $secret := dict "postgres" $election.postgres.secretName "etcd" $election.etcd.secretName }}
  {{- if and $secret (eq (include "leasehold.uses" (dict "root" $ "mode" $mode)) "true") }}
  {{ $mode }}: {{ $secret }}
  {{- end }}
  {{- end }}
{{- end }}

{{- /* The variables and Secrets of each role, in the same form. */ -}}
{{- define "leasehold.role.outbox-forwarder" -}}
{{- $folder := ternary "outbox" "ledger" (not (empty .Values.databases.outbox.secretName)) -}}
{{- $database := get .Values.databases $folder -}}
env:
  LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL_FILE: /etc/leasehold/{{ $folder }}/{{ $database.urlKey }}
  LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL: {{ include "leasehold.ingestUrl" . | quote }}
  {{- with .Values.outboxForwarder.ingestTls }}
  {{- if .secretName }}
  {{- range $name, $key := dict "CA" .caKey "CERT" .certKey "KEY" .keyKey }}
  LEASEHOLD_OUTBOX_FORWARDER_INGEST_{{ $name }}_FILE: {{ with $key }}/etc/leasehold/forwarder-tls/{{ . }}{{ else }}""{{ end }}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- with .Values.outboxForwarder.ingestToken }}
  LEASEHOLD_OUTBOX_FORWARDER_INGEST_TOKEN_FILE: {{ if .secretName }}/etc/leasehold/forwarder-token/{{ .key }}{{ else }}""{{ end }}
  {{- end }}
secrets:
  {{ $folder }}: {{ $database.secretName }}
  {{- with .Values.outboxForwarder.ingestTls.secretName }}
  forwarder-tls: {{ . }}
  {{- end }}
  {{- with .Values.outboxForwarder.ingestToken.secretName }}
  forwarder-token: {{ . }}
  {{- end }}
{{- end }}

{{- define "leasehold.role.ttl-sweeper" -}}
{{- $folder := ternary "sweeper" "ledger" (not (empty .Values.databases.sweeper.secretName)) -}}
{{- $database := get .Values.databases $folder -}}
env:
  LEASEHOLD_TTL_SWEEPER_LEDGER_DATABASE_URL_FILE: /etc/leasehold/{{ $folder }}/{{ $database.urlKey }}
secrets:
  {{ $folder }}: {{ $database.secretName }}
{{- end }}

{{- define "leasehold.role.ledger" -}}
env:
  LEASEHOLD_LEDGER_DATABASE_URL_FILE: /etc/leasehold/ledger/{{ .Values.databases.ledger.urlKey }}
  LEASEHOLD_LEDGER_LISTEN: "0.0.0.0:50051"
  {{- with .Values.ledger.tls }}
  {{- if .secretName }}
  LEASEHOLD_LEDGER_TLS_CERT_FILE: /etc/leasehold/ledger-tls/{{ .certKey }}
  LEASEHOLD_LEDGER_TLS_KEY_FILE: /etc/leasehold/ledger-tls/{{ .keyKey }}
  LEASEHOLD_LEDGER_TLS_CLIENT_CA_FILE: {{ with .clientCaKey }}/etc/leasehold/ledger-tls/{{ . }}{{ else }}""{{ end }}
  {{- end }}
  {{- end }}
  {{- with .Values.ledger.access }}
  LEASEHOLD_LEDGER_ACCESS_FILE: {{ if .secretName }}/etc/leasehold/ledger-access/{{ .fileKey }}{{ else }}""{{ end }}
  LEASEHOLD_LEDGER_LISTEN_WITHOUT_AUTHENTICATION: {{ .withoutAuthentication | quote }}
  {{- end }}
secrets:
  ledger: {{ .Values.databases.ledger.secretName }}
  {{- with .Values.ledger.access.secretName }}
  ledger-access: {{ . }}
  {{- end }}
  {{- with .Values.ledger.tls.secretName }}
  ledger-tls: {{ . }}
  {{- end }}
{{- end }}

{{- define "leasehold.role.canonical-ingest" -}}
env:
  LEASEHOLD_CANONICAL_INGEST_DATABASE_URL_FILE: /etc/leasehold/canonical/{{ .Values.databases.canonical.urlKey }}
  {{- with .Values.canonicalIngest.tls }}
  {{- if .secretName }}
  LEASEHOLD_CANONICAL_INGEST_TLS_CERT_FILE: /etc/leasehold/ingest-tls/{{ .certKey }}
  LEASEHOLD_CANONICAL_INGEST_TLS_KEY_FILE: /etc/leasehold/ingest-tls/{{ .keyKey }}
  LEASEHOLD_CANONICAL_INGEST_TLS_CLIENT_CA_FILE: {{ with .clientCaKey }}/etc/leasehold/ingest-tls/{{ . }}{{ else }}""{{ end }}
  {{- end }}
  {{- end }}
  {{- with .Values.canonicalIngest.access }}
  LEASEHOLD_CANONICAL_INGEST_ACCESS_FILE: {{ if .secretName }}/etc/leasehold/ingest-access/{{ .fileKey }}{{ else }}""{{ end }}
  LEASEHOLD_CANONICAL_INGEST_LISTEN_WITHOUT_AUTHENTICATION: {{ .withoutAuthentication | quote }}
  {{- end }}
secrets:
  canonical: {{ .Values.databases.canonical.secretName }}
  {{- with .Values.canonicalIngest.tls.secretName }}
  ingest-tls: {{ . }}
  {{- end }}
  {{- with .Values.canonicalIngest.access.secretName }}
  ingest-access: {{ . }}
  {{- end }}
{{- end }}

{{- define "leasehold.role.sidecar" -}}
env:
  LEASEHOLD_SIDECAR_LEDGER_URL: {{ include "leasehold.ledgerUrl" . | quote }}
  {{- with .Values.sidecar }}
  LEASEHOLD_SIDECAR_FENCING_SCOPE_ID: {{ .fencingScopeId | quote }}
  LEASEHOLD_SIDECAR_FENCING_SCOPE_MODE: {{ .fencingScopeMode }}
  LEASEHOLD_SIDECAR_TENANT_ID: {{ .tenantId | quote }}
  LEASEHOLD_SIDECAR_STANDBY: {{ .standby | quote }}
  LEASEHOLD_SIDECAR_SOCKET_PATH: /run/spendguard/sidecar.sock
  SPENDGUARD_SIDECAR_FENCING_TTL_SECONDS: {{ int64 .fencingTtlSeconds | quote }}
  {{- with .ledgerTls }}
  {{- if .secretName }}
  LEASEHOLD_SIDECAR_LEDGER_SERVER_NAME: {{ .serverName | quote }}
  {{- range $name, $key := dict "CA" .caKey "CERT" .certKey "KEY" .keyKey }}
  LEASEHOLD_SIDECAR_LEDGER_{{ $name }}_FILE: {{ with $key }}/etc/leasehold/sidecar-tls/{{ . }}{{ else }}""{{ end }}
  {{- end }}
  {{- end }}
  {{- end }}
  LEASEHOLD_SIDECAR_LEDGER_TOKEN_FILE: {{ with .ledgerToken }}{{ if .secretName }}/etc/leasehold/sidecar-token/{{ .key }}{{ else }}""{{ end }}{{ end }}
  {{- end }}
secrets:
  {{- with .Values.sidecar.ledgerTls.secretName }}
  sidecar-tls: {{ . }}
  {{- end }}
  {{- with .Values.sidecar.ledgerToken.secretName }}
  sidecar-token: {{ . }}
  {{- end }}
{{- end }}

{{- /* The resources of a container: .root, .values (of its role). */ -}}
{{- define "leasehold.resources" -}}
{{- toYaml (default .root.Values.resources .values.resources) -}}
{{- end }}

{{- /*
A container: .root, .values (of its role), .name, .args, .env, .secrets; optional: .fields (downward API), .mounts, .more,
.extra (true: with what the values add).
*/ -}}
{{- define "leasehold.container" -}}
{{- $values := ternary .values dict (default false .extra) -}}
- name: {{ .name }}
  image: {{ include "leasehold.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    {{- toYaml .args | nindent 4 }}
  {{- with $values.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  env:
    {{- range $name, $field := merge (dict "POD_NAME" "metadata.name") (default dict .fields) }}
    - name: {{ $name }}
      valueFrom:
        fieldRef:
          fieldPath: {{ $field }}
    {{- end }}
    {{- range $name, $value := .env }}
    {{- if ne $value "" }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
    {{- end }}
    {{- with $values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .root.Values.containerSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- include "leasehold.resources" . | nindent 4 }}
  {{- if or .secrets .mounts $values.extraVolumeMounts }}
  volumeMounts:
    {{- range $folder, $_ := .secrets }}
    - name: {{ $folder }}
      mountPath: /etc/leasehold/{{ $folder }}
      readOnly: true
    {{- end }}
    {{- range $volume, $path := .mounts }}
    - name: {{ $volume }}
      mountPath: {{ $path }}
    {{- end }}
    {{- with $values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with .more }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* Volumes of Secrets, by their folders. Readable by any user in the pod, since only our containers mount them. */ -}}
{{- define "leasehold.secretVolumes" -}}
{{- range $folder, $secret := . }}
- name: {{ $folder }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 292 # 0444
{{- end }}
{{- end }}

{{- /* Fields of every pod: .root, .values (of its role); optional: .group (instead of the pods' own). */ -}}
{{- define "leasehold.podBasics" -}}
# Otherwise our Services would put variables into every pod that look like our settings.
enableServiceLinks: false
{{- with include "leasehold.pullSecrets" .root | fromYamlArray }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $context := deepCopy (default dict .root.Values.podSecurityContext) }}
{{- with .group }}
{{- $_ := set $context "runAsGroup" . }}
{{- if hasKey $context "fsGroup" }}
{{- $_ := set $context "fsGroup" . }}
{{- end }}
{{- end }}
{{- with $context }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "priorityClassName" "nodeSelector" "affinity" }}
{{- with get $.values $key }}
{{ toYaml (dict $key .) }}
{{- end }}
{{- end }}
{{- end }}
