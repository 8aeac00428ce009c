{{- /* Each gate's message has the setting, the allowed values, and a remedy. The schema checks types and unknown keys. */ -}}
{{- define "leasehold.gates" -}}
{{- $values := .Values -}}
{{- $election := .Values.leaderElection -}}
{{- $modes := list "postgres" "etcd" "k8s" "sqlite" "disabled" -}}

{{- include "leasehold.gates.renamed" . -}}

{{- if not (has $election.mode $modes) -}}
{{- fail (printf "leaderElection.mode is %q: use one of %s" $election.mode (join ", " $modes)) -}}
{{- end -}}

{{- with $election.migrateFrom -}}
{{- if eq . $election.mode -}}
{{- fail (printf "leaderElection.migrateFrom is %q, as is leaderElection.mode: the leases can't be moved to where they are; name the mode that they come from, or remove it" .) -}}
{{- end -}}
{{- if not (has . $modes) -}}
{{- fail (printf "leaderElection.migrateFrom is %q: use one of %s, the mode until now" . (join ", " $modes)) -}}
{{- end -}}
{{- end -}}

{{- if eq (include "leasehold.onePod" .) "true" -}}
{{- $why := ternary (printf "leaderElection.mode is %q" $election.mode) (printf "leaderElection.migrateFrom is %q" $election.migrateFrom) (has $election.mode (list "disabled" "sqlite")) -}}
{{- range $key := list "outboxForwarder" "ttlSweeper" -}}
{{- $role := get $values $key -}}
{{- if and $role.enabled (gt (int64 $role.replicas) 1) -}}
{{- fail (printf "%s.replicas is %d, and %s, which serves one pod only: use replicas 1, or mode postgres, etcd or k8s" $key (int64 $role.replicas) $why) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and $values.sidecar.enabled (not $values.sidecar.acknowledgeMultiPod) -}}
{{- fail "sidecar.enabled is true: the sidecar is a DaemonSet, so several nodes mean several pods, of which one serves a shared fencing scope and the others wait (fencingScopeMode perPod gives each node its own): set sidecar.acknowledgeMultiPod=true once that is what you want" -}}
{{- end -}}

{{- with $values.workloadInstanceIdOverride -}}
{{- range $key := list "outboxForwarder" "ttlSweeper" -}}
{{- $role := get $values $key -}}
{{- if and $role.enabled (gt (int64 $role.replicas) 1) -}}
{{- fail (printf "workloadInstanceIdOverride would give all %d pods of %s one name, and nobody could tell who leads: remove it (pods are called by their own names), or use %s.replicas 1" (int64 $role.replicas) $key $key) -}}
{{- end -}}
{{- end -}}
{{- if $values.sidecar.enabled -}}
{{- fail "workloadInstanceIdOverride would give the sidecars of all nodes one name, by which the ledger takes one for the other: remove it (pods are called by their own names), or disable the sidecar" -}}
{{- end -}}
{{- end -}}

{{- if and $values.outboxForwarder.enabled $values.ttlSweeper.enabled (eq $values.outboxForwarder.leaseName $values.ttlSweeper.leaseName) -}}
{{- fail (printf "outboxForwarder.leaseName and ttlSweeper.leaseName are both %q: one lease is for one role, and the other would never lead; give each a name of its own" $values.ttlSweeper.leaseName) -}}
{{- end -}}

{{- $accounts := dict -}}
{{- range $key := list "outboxForwarder" "ttlSweeper" "ledger" "canonicalIngest" "sidecar" "hooks" -}}
{{- with (get $values $key).serviceAccount -}}
{{- if and .create .name -}}
{{- if hasKey $accounts .name -}}
{{- fail (printf "%s.serviceAccount.name and %s.serviceAccount.name are both %q, and each would be created: set create=false for both and make the account yourself, or give them names of their own" (get $accounts .name) $key .name) -}}
{{- end -}}
{{- $_ := set $accounts .name $key -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $key := list "outboxForwarder" "ttlSweeper" "ledger" "canonicalIngest" "sidecar" "hooks" -}}
{{- $account := (get $values $key).serviceAccount -}}
{{- if not (or $account.create $account.name) -}}
{{- fail (printf "%s.serviceAccount.create is false and its name is empty: name the account that the pods use, or let the chart create one" $key) -}}
{{- end -}}
{{- with get $values $key -}}
{{- include "leasehold.gates.labels" (dict "where" (printf "%s.podLabels" $key) "labels" .podLabels) -}}
{{- end -}}
{{- end -}}
{{- include "leasehold.gates.labels" (dict "where" "commonLabels" "labels" $values.commonLabels) -}}

{{- include "leasehold.gates.times" . -}}
{{- include "leasehold.gates.secrets" . -}}
{{- include "leasehold.gates.monitoring" . -}}

{{- if and $values.outboxForwarder.enabled (not $values.canonicalIngest.enabled) (not $values.outboxForwarder.ingestUrl) -}}
{{- fail "outboxForwarder.ingestUrl is empty and canonicalIngest.enabled is false: name where events go, or enable canonicalIngest" -}}
{{- end -}}
{{- if $values.sidecar.enabled -}}
{{- range $key := list "fencingScopeId" "tenantId" -}}
{{- if not (get $values.sidecar $key) -}}
{{- fail (printf "sidecar.%s is empty: name the fencing scope that the sidecar serves, and the tenant that owns it" $key) -}}
{{- end -}}
{{- end -}}
{{- if and (not $values.ledger.enabled) (not $values.sidecar.ledgerUrl) -}}
{{- fail "sidecar.ledgerUrl is empty and ledger.enabled is false: name the ledger, or enable it" -}}
{{- end -}}
{{- end -}}

{{- if not (kindIs "invalid" $values.terminationGracePeriodSeconds) -}}
{{- $needed := int64 (include "leasehold.neededGrace" .) -}}
{{- if lt (int64 $values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, and a pod needs %d with leaderElection.stopBudgetMs %d, else it is killed while it drains: use at least that, a shorter stop budget, or remove it to have it computed" (int64 $values.terminationGracePeriodSeconds) $needed (int64 $election.stopBudgetMs)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The arithmetic of lease-core's ElectorBuilder::build, in nanoseconds as there. */ -}}
{{- define "leasehold.gates.times" -}}
{{- $election := .Values.leaderElection -}}
{{- $day := 86400000 -}}
{{- range $key, $least := dict "ttlMs" 100 "maxTtlMs" 100 "renewIntervalMs" 1 "retryIntervalMs" 1 "stopGraceMs" 0 "stopBudgetMs" 0 "maxSilenceMs" 100 -}}
{{- $value := index $election $key -}}
{{- if not (kindIs "invalid" $value) -}}
{{- if or (lt (int64 $value) (int64 $least)) (gt (int64 $value) (int64 $day)) -}}
{{- fail (printf "leaderElection.%s is %d: use a whole number of milliseconds from %d to %d" $key (int64 $value) $least $day) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- $ttlMs := int64 $election.ttlMs -}}
{{- $ttl := mul $ttlMs 1000000 -}}
{{- $renew := div $ttl 3 -}}
{{- if not (kindIs "invalid" $election.renewIntervalMs) -}}{{- $renew = mul (int64 $election.renewIntervalMs) 1000000 -}}{{- end -}}
{{- $retry := div $ttl 15 -}}
{{- if not (kindIs "invalid" $election.retryIntervalMs) -}}{{- $retry = mul (int64 $election.retryIntervalMs) 1000000 -}}{{- end -}}
{{- $grace := div $ttl 5 -}}
{{- if not (kindIs "invalid" $election.stopGraceMs) -}}{{- $grace = mul (int64 $election.stopGraceMs) 1000000 -}}{{- end -}}

{{- if not (kindIs "invalid" $election.maxTtlMs) -}}
{{- if lt (int64 $election.maxTtlMs) $ttlMs -}}
{{- fail (printf "leaderElection.maxTtlMs is %d, less than ttlMs %d: it is the greatest ttl that any candidate uses, so use at least ttlMs" (int64 $election.maxTtlMs) $ttlMs) -}}
{{- end -}}
{{- end -}}
{{- if gt $renew (div $ttl 3) -}}
{{- fail (printf "leaderElection.renewIntervalMs is %d: use at most ttlMs/3 = %d, so that two renewals may fail, or null for that" (int64 $election.renewIntervalMs) (div $ttlMs 3)) -}}
{{- end -}}
{{- if gt $retry $renew -}}
{{- fail (printf "leaderElection.retryIntervalMs is %d: use at most renewIntervalMs = %d" (div $retry 1000000) (div $renew 1000000)) -}}
{{- end -}}
{{- $room := max 0 (sub (sub $ttl (div $ttl 500)) (mul 2 $renew)) -}}
{{- if gt $grace $room -}}
{{- fail (printf "leaderElection.stopGraceMs is %d: ttlMs·(1−1/500) − 2·renewIntervalMs leaves %d, so use at most that, or a longer ttlMs, so that one late renewal doesn't stop the work" (div $grace 1000000) (div $room 1000000)) -}}
{{- end -}}
{{- if and (eq $election.mode "k8s") (ne (mod $ttlMs 1000) 0) -}}
{{- fail (printf "leaderElection.ttlMs is %d, and a Kubernetes Lease keeps whole seconds: use a multiple of 1000" $ttlMs) -}}
{{- end -}}
{{- end }}

{{- define "leasehold.gates.secrets" -}}
{{- $election := .Values.leaderElection -}}
{{- if and (eq (include "leasehold.uses" (dict "root" . "mode" "postgres")) "true") (not $election.postgres.secretName) -}}
{{- fail "leaderElection.postgres.secretName is empty, and the leases are in Postgres (mode or migrateFrom): make a Secret with the database's URL (kubectl create secret generic leases --from-literal=url=postgres://…) and name it here" -}}
{{- end -}}
{{- if eq (include "leasehold.uses" (dict "root" . "mode" "etcd")) "true" -}}
{{- with $election.etcd -}}
{{- if not .endpoints -}}
{{- fail "leaderElection.etcd.endpoints is empty, and the leases are in etcd (mode or migrateFrom): name the nodes' URLs, for example [https://etcd-0:2379]" -}}
{{- end -}}
{{- if and .user (not .passwordKey) -}}
{{- fail "leaderElection.etcd.user is set without passwordKey: name the key of the Secret that holds the user's password" -}}
{{- end -}}
{{- $secured := or .user .passwordKey .caKey .certKey .keyKey (contains "https://" (join " " .endpoints)) -}}
{{- if and $secured (not .secretName) -}}
{{- fail "leaderElection.etcd.secretName is empty, and etcd asks for certificates or a password: make a Secret that holds them (kubectl create secret generic etcd --from-file=ca.crt …) and name it and its keys here" -}}
{{- end -}}
{{- if ne (empty .certKey) (empty .keyKey) -}}
{{- fail "leaderElection.etcd.certKey and keyKey belong together: name both keys of the Secret, or none" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- $ledger := or .Values.ledger.enabled (and .Values.ttlSweeper.enabled (not .Values.databases.sweeper.secretName)) (and .Values.outboxForwarder.enabled (not .Values.databases.outbox.secretName)) -}}
{{- range $name, $needed := dict "ledger" $ledger "canonical" .Values.canonicalIngest.enabled -}}
{{- if and $needed (not (get $.Values.databases $name).secretName) -}}
{{- fail (printf "databases.%s.secretName is empty: make a Secret with the database's URL (kubectl create secret generic %s --from-literal=url=postgres://…) and name it here" $name $name) -}}
{{- end -}}
{{- end -}}

{{- range $name, $of := dict "databases.ledger" .Values.databases.ledger "databases.outbox" .Values.databases.outbox "databases.canonical" .Values.databases.canonical "leaderElection.postgres" $election.postgres -}}
{{- if and $of.migration.secretName (not $of.secretName) -}}
{{- fail (printf "%s.migration.secretName is %q and %s.secretName is empty: name the Secret with the workers' URL too, or remove this" $name $of.migration.secretName $name) -}}
{{- end -}}
{{- end -}}

{{- range $key, $role := dict "ledger" "ledger" "canonicalIngest" "canonical-ingest" -}}
{{- $values := get $.Values $key -}}
{{- $known := or $values.access.secretName (and $values.tls.secretName $values.tls.clientCaKey) -}}
{{- if and $values.enabled (not $known) (not $values.access.withoutAuthentication) -}}
{{- fail (printf "%s.access.secretName is empty, so anybody who reaches %s could write in any tenant's name: make a Secret with the file that names its callers (kubectl create secret generic %s-access --from-file=access.toml; docs/access.md has one) and name it here, or ask for certificates by %s.tls.clientCaKey, or set %s.access.withoutAuthentication=true" $key $role $role $key $key) -}}
{{- end -}}
{{- end -}}

{{- if .Values.outboxForwarder.enabled -}}
{{- $https := hasPrefix "https://" (include "leasehold.ingestUrl" .) -}}
{{- if and (not $https) .Values.outboxForwarder.ingestTls.secretName -}}
{{- fail (printf "outboxForwarder.ingestTls.secretName is %q, and canonical-ingest is at %s: certificates are for https only, so remove it, or set canonicalIngest.tls.secretName" .Values.outboxForwarder.ingestTls.secretName (include "leasehold.ingestUrl" .)) -}}
{{- end -}}
{{- end -}}

{{- if .Values.sidecar.enabled -}}
{{- $https := hasPrefix "https://" (include "leasehold.ledgerUrl" .) -}}
{{- if ne $https (not (empty .Values.sidecar.ledgerTls.secretName)) -}}
{{- fail (printf "sidecar.ledgerTls.secretName is %q, and the ledger is at %s: a ledger at https needs a Secret with its authority, one at http takes none" .Values.sidecar.ledgerTls.secretName (include "leasehold.ledgerUrl" .)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Labels that people add: .where, .labels. */ -}}
{{- define "leasehold.gates.labels" -}}
{{- range $name := keys .labels | sortAlpha -}}
{{- if has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart") -}}
{{- fail (printf "%s has %s, which the chart sets itself: use another label, or nameOverride for app.kubernetes.io/name" $.where $name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Values under names that an earlier version of the chart had: the schema lets them through to here. */ -}}
{{- define "leasehold.gates.renamed" -}}
{{- range $old, $of := dict
  "runAsUser" (list .Values.runAsUser "podSecurityContext.runAsUser, runAsGroup and fsGroup")
  "image.pullSecrets" (list .Values.image.pullSecrets "imagePullSecrets") -}}
{{- if not (kindIs "invalid" (first $of)) -}}
{{- fail (printf "%s was renamed, and its value %s would have no effect: give the value to %s, and remove %s from your values" $old (first $of | toJson) (last $of) $old) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Volumes that people add: .where, .values (with extraVolumes), .taken (names that the chart uses in these pods). */ -}}
{{- define "leasehold.gates.volumes" -}}
{{- range $volume := .values.extraVolumes -}}
{{- if has $volume.name $.taken -}}
{{- fail (printf "%s.extraVolumes has a volume %q, which the chart makes itself in these pods: give yours another name (taken: %s)" $.where $volume.name (join ", " (sortAlpha $.taken))) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Variables that people add: .where, .values (with env and extraEnv), .taken (variables that the chart sets). */ -}}
{{- define "leasehold.gates.variables" -}}
{{- $where := .where -}}
{{- $taken := .taken -}}
{{- $added := dict -}}
{{- range $name, $value := default dict .values.env -}}
{{- $added = set $added $name (dict "at" (printf "%s.env.%s" $where $name) "value" $value) -}}
{{- end -}}
{{- range $variable := .values.extraEnv -}}
{{- $at := printf "%s.extraEnv: %s" $where $variable.name -}}
{{- if hasKey $added $variable.name -}}
{{- fail (printf "%s is set twice: remove one" $at) -}}
{{- end -}}
{{- $added = set $added $variable.name (dict "at" $at "value" (default "" $variable.value)) -}}
{{- end -}}
{{- range $name, $of := $added -}}
{{- if and $of.value (or (regexMatch "(_URL|PASSWORD|TOKEN|SECRET|ACCESS_KEY)$" $name) (regexMatch "://[^/]*@" $of.value)) -}}
{{- fail (printf "%s may hold a secret, which would be plain in the manifest: use the values that name a Secret, the setting that names a file, or valueFrom" $of.at) -}}
{{- end -}}
{{- if or (hasKey $taken $name) (hasKey $taken (printf "%s_FILE" $name)) (eq $name "POD_NAME") -}}
{{- fail (printf "%s is set by the chart itself: use the value that stands for it (README.md lists them), and remove this" $of.at) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "leasehold.gates.monitoring" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor.enabled and podMonitor.enabled are both true: every pod would be scraped twice, and alerts would count two leaders: enable one of them" -}}
{{- end -}}
{{- range $key := list "serviceMonitor" "podMonitor" -}}
{{- $secret := (get $.Values $key).ingestTls.secretName -}}
{{- if and $secret (not $.Values.canonicalIngest.tls.secretName) -}}
{{- fail (printf "%s.ingestTls.secretName is %q, and canonical-ingest's pages are at http: certificates are for https only, so remove it, or set canonicalIngest.tls.secretName" $key $secret) -}}
{{- end -}}
{{- end -}}
{{- end }}
