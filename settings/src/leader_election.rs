//! `leaderElection`: how a worker campaigns. The arithmetic is the core's; the names are the operators'.

use lease_core::{Connector, Elector, ElectorBuilder, InvalidSettings, LeaseName, WorkloadId, printable};
use serde::Deserialize;

use crate::{BadSetting, Block, Millis, Section, Setting, SettingFault, Settings, ValueKind, Workload};

/// The shared settings of every role that campaigns.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaderElection {
    /// The kind of lease store: a name in the registry of modes.
    pub mode: String,
    /// The lease; each role has its own default.
    pub lease_name: Option<LeaseName>,
    /// This workload's region, for people.
    pub region: Option<String>,
    /// The length of a term without an acknowledged renewal.
    pub ttl_ms: Millis,
    /// The greatest ttl of any candidate of this lease.
    pub max_ttl_ms: Option<Millis>,
    /// A leader's renewal interval.
    pub renew_interval_ms: Option<Millis>,
    /// A candidate's polling interval, and the pause after a failure.
    pub retry_interval_ms: Option<Millis>,
    /// The time from the order to stop until the deadline.
    pub stop_grace_ms: Option<Millis>,
    /// The longest time for the work to drain after shutdown.
    pub stop_budget_ms: Millis,
    /// The longest time in which the work may report no progress (H-4).
    pub max_silence_ms: Option<Millis>,
    /// The mode that the lease is moved from before campaigning (M-1).
    pub migrate_from: Option<String>,
}

/// A day: a longer time is a mistake in the unit.
const DAY_MS: i64 = 86_400_000;

impl Block for LeaderElection {
    const SECTION: Section = Section {
        name: "leaderElection",
        about: "how workers campaign for their lease",
        settings: &[
            Setting::new("mode", "SPENDGUARD_LEADER_ELECTION_MODE", ValueKind::Text, "the kind of lease store: disabled, sqlite, postgres, etcd, k8s")
                .default("sqlite")
                .flag("mode"),
            Setting::new(
                "leaseName",
                "SPENDGUARD_LEADER_LEASE_NAME",
                ValueKind::Checked {
                    check: |text| LeaseName::new(text).is_ok(),
                    allowed: "use 1 to 253 characters of a-z, 0-9, '-' and '.', each dot-separated part beginning \
                              and ending with a letter or digit, for example outbox-forwarder",
                },
                "the lease that candidates of one kind share",
            )
            .unset("the role's own name")
            .flag("lease"),
            Setting::new("region", "SPENDGUARD_LEADER_REGION", ValueKind::Text, "where this instance runs, for people")
                .flag("region"),
            Setting::new(
                "ttlMs",
                "SPENDGUARD_LEADER_LEASE_TTL_MS",
                ValueKind::Millis { min: 100, max: DAY_MS },
                "how long a term lasts without an acknowledged renewal",
            )
            .default("15000")
            .flag("ttl"),
            Setting::new(
                "renewIntervalMs",
                "SPENDGUARD_LEADER_RENEW_INTERVAL_MS",
                ValueKind::Millis { min: 1, max: DAY_MS },
                "how often a leader renews",
            )
            .unset("ttlMs/3")
            .flag("renew-interval"),
            Setting::new(
                "retryIntervalMs",
                "SPENDGUARD_LEADER_RETRY_INTERVAL_MS",
                ValueKind::Millis { min: 1, max: DAY_MS },
                "how often a candidate looks, and how long anybody pauses after a failure",
            )
            .unset("ttlMs/15")
            .flag("retry-interval"),
            Setting::new(
                "maxTtlMs",
                "SPENDGUARD_LEADER_MAX_TTL_MS",
                ValueKind::Millis { min: 100, max: DAY_MS },
                "the greatest ttl that any candidate of the lease uses",
            )
            .unset("ttlMs")
            .flag("max-ttl"),
            Setting::new(
                "stopGraceMs",
                "SPENDGUARD_LEADER_STOP_GRACE_MS",
                ValueKind::Millis { min: 0, max: DAY_MS },
                "how long before its deadline the work is told to stop",
            )
            .unset("ttlMs/5")
            .flag("stop-grace"),
            Setting::new(
                "stopBudgetMs",
                "SPENDGUARD_LEADER_STOP_BUDGET_MS",
                ValueKind::Millis { min: 0, max: DAY_MS },
                "how long the work may drain after SIGTERM or SIGINT",
            )
            .default("20000")
            .flag("stop-budget"),
            Setting::new(
                "maxSilenceMs",
                "SPENDGUARD_LEADER_MAX_SILENCE_MS",
                ValueKind::Millis { min: 100, max: DAY_MS },
                "how long a worker's work may make no progress before it is told to stop and its lease runs out; use \
                 more than the role's callTimeoutMs",
            )
            .unset("hung work keeps its lease")
            .flag("max-silence"),
            Setting::new(
                "migrateFrom",
                "SPENDGUARD_LEADER_MIGRATE_FROM",
                ValueKind::Text,
                "the mode that the lease lives in until now: it is moved from there before this instance campaigns",
            )
            .unset("nothing is moved")
            .flag("migrate-from"),
        ],
    };
}

impl Settings {
    /// The shared settings of every role that campaigns, checked also against each other.
    pub fn leader_election(&self) -> Result<LeaderElection, BadSetting> {
        let this = self.block::<LeaderElection>()?;
        if this.migrate_from.as_ref() == Some(&this.mode) {
            let why =
                "the lease can't be moved to where it is: name the mode that it comes from, or remove this";
            return Err(self.refuse::<LeaderElection>("migrateFrom", why));
        }
        // The arithmetic needs neither the store nor the lease's real name.
        let nobody = || async { Err(lease_core::BackendError::refused("never connected")) };
        let name = LeaseName::new("check").expect("a valid name");
        let _checked = self.build(&this, Elector::builder(nobody, name, self.workload_id()?))?;
        Ok(this)
    }

    /// This instance's name.
    pub fn workload_id(&self) -> Result<WorkloadId, BadSetting> {
        if let Some(name) = self.block::<Workload>()?.instance_id {
            return WorkloadId::new(name).map_err(|error| self.refuse::<Workload>("instanceId", error.why));
        }
        WorkloadId::from_env().map_err(|error| BadSetting {
            // The core takes the first of these that is set.
            setting: ["POD_NAME", "HOSTNAME"]
                .into_iter()
                .find(|key| std::env::var(key).is_ok())
                .unwrap_or("the host's name")
                .to_owned(),
            fault: SettingFault::NotAllowed(error.value),
            why: format!("{}; or set LEASEHOLD_WORKLOAD_ID", error.why),
        })
    }

    /// The operator's name in records, for people: the user and this instance.
    pub fn operator(&self) -> Result<String, BadSetting> {
        let user = ["USER", "LOGNAME"].into_iter().find_map(|key| std::env::var(key).ok());
        let user = user.as_deref().unwrap_or("operator");
        Ok(format!("{}@{}", printable(user), self.workload_id()?))
    }

    /// An elector for the lease that is set, or else for `default_lease`.
    pub fn elector(
        &self,
        connector: impl Connector,
        default_lease: Option<&str>,
        refine: impl FnOnce(ElectorBuilder) -> ElectorBuilder,
    ) -> Result<Elector, BadSetting> {
        let election = self.leader_election()?;
        let default = default_lease.and_then(|name| LeaseName::new(name).ok());
        let name =
            self.required::<LeaderElection, _>("leaseName", election.lease_name.clone().or(default))?;
        let builder = Elector::builder(connector, name, self.workload_id()?);
        self.build(&election, refine(builder))
    }

    fn build(&self, election: &LeaderElection, mut builder: ElectorBuilder) -> Result<Elector, BadSetting> {
        builder = builder.ttl(election.ttl_ms.into()).stop_budget(election.stop_budget_ms.into());
        if let Some(max_ttl) = election.max_ttl_ms {
            builder = builder.max_ttl(max_ttl.into());
        }
        if let Some(every) = election.renew_interval_ms {
            builder = builder.renew_every(every.into());
        }
        if let Some(every) = election.retry_interval_ms {
            builder = builder.retry_every(every.into());
        }
        if let Some(grace) = election.stop_grace_ms {
            builder = builder.stop_grace(grace.into());
        }
        if let Some(region) = &election.region {
            builder = builder.region(region);
        }
        builder.build().map_err(|error| self.in_operators_words(&error))
    }

    fn in_operators_words(&self, error: &InvalidSettings) -> BadSetting {
        const WORDS: [(&str, &str); 5] = [
            ("max_ttl", "maxTtlMs"),
            ("renew_every", "renewIntervalMs"),
            ("retry_every", "retryIntervalMs"),
            ("stop_grace", "stopGraceMs"),
            ("ttl", "ttlMs"),
        ];
        let key =
            WORDS.iter().find(|(core, _)| *core == error.setting).map_or(error.setting, |(_, ours)| ours);
        let why = WORDS[..4].iter().fold(error.why.clone(), |why, (core, ours)| why.replace(core, ours));
        self.refuse::<LeaderElection>(key, why)
    }
}
