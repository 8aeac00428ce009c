//! A record as a Lease, and a Lease that somebody else has written as a record (K-2). Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use lease_core::{BackendError, Grant, LeaseName, Lineage, Observation, Record, Revocation, Tag, WallTime};
use serde::{Deserialize, Deserializer};

/// The annotation that holds the whole record, as JSON. It counts while the Lease's holder repeats its grant.
pub const RECORD: &str = "leasehold.dev/record";

/// Has a Leasehold program ever written the Lease that this observation shows? A namespace has others, too: each
/// controller that elects a leader has one.
pub fn is_ours(seen: &Observation) -> bool {
    let lease = of_version(seen).ok();
    lease.and_then(|lease| lease.metadata.annotations).is_some_and(|kept| kept.contains_key(RECORD))
}

/// The lineage while there is no Lease, and so no uid.
pub(crate) const ABSENT: &str = "absent";

/// A Lease as the API server sends it. It accepts times that this program can't read (the last day of the year 9999);
/// they are for people, so they are left out instead of making the Lease unreadable.
#[derive(Clone, Debug)]
pub(crate) struct SentLease(pub(crate) Lease);

impl<'de> Deserialize<'de> for SentLease {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut sent = serde_json::Value::deserialize(deserializer)?;
        if let Some(spec) = sent.get_mut("spec").and_then(serde_json::Value::as_object_mut) {
            for time in ["acquireTime", "renewTime"] {
                if spec.get(time).is_some_and(|value| Option::<MicroTime>::deserialize(value).is_err()) {
                    spec.remove(time);
                }
            }
        }
        Lease::deserialize(sent).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The observation of a Lease.
///
/// The version is the Lease itself: a PUT replaces all of it, and what others have put there must survive.
pub(crate) fn observation(lease: Lease) -> Result<Observation, BackendError> {
    let mut lease = lease;
    lease.metadata.managed_fields = None;
    let uid = lease.metadata.uid.clone().ok_or_else(|| unreadable(&lease, "it has no uid"))?;
    let floor = resource_version(lease.metadata.resource_version.as_deref())?;
    let lineage = Lineage(uid);
    let record = record(&lease, &lineage)?;
    let version = serde_json::to_string(&lease).map_err(|error| unreadable(&lease, &error.to_string()))?;
    Ok(Observation { record: Some(record), lineage, floor, version })
}

/// The observation of an absent Lease, as of a list of this resourceVersion.
pub(crate) fn absence(resource_version: u64) -> Observation {
    Observation {
        record: None,
        lineage: Lineage(ABSENT.to_owned()),
        floor: resource_version,
        version: String::new(),
    }
}

/// E-1's floor: closed if it isn't a number.
pub(crate) fn resource_version(text: Option<&str>) -> Result<u64, BackendError> {
    let text = text.unwrap_or_default();
    text.parse().ok().filter(|version| *version > 0).ok_or_else(|| {
        BackendError::refused(format!(
            "the API server's resourceVersion {text:?} is not a number, so epochs are not certain to rise; this store \
             can't hold leases"
        ))
    })
}

/// The Lease that the version of an observation keeps.
pub(crate) fn of_version(expected: &Observation) -> Result<Lease, BackendError> {
    serde_json::from_str(&expected.version).map_err(|error| {
        BackendError::refused("this observation was made by another store; observe again").with_source(error)
    })
}

/// Does the version belong to the tag and the lineage beside it? The PUT compares uid and resourceVersion, which name one
/// write of the Lease and so one tag, if they are that tag's. An expectation that says otherwise is of no write that the
/// store still has.
pub(crate) fn is_as_read(expected: &Observation) -> Result<bool, BackendError> {
    if expected.record.is_none() {
        return Ok(expected.lineage.0 == ABSENT);
    }
    let read = observation(of_version(expected)?)?;
    Ok(read.tag() == expected.tag() && read.lineage == expected.lineage)
}

/// `base` with `record` in it. `before` is the record that `base` was read as.
pub(crate) fn written(
    name: &LeaseName,
    base: Lease,
    before: Option<&Record>,
    record: &Record,
) -> Result<Lease, BackendError> {
    let mut lease = base;
    let shown = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let stays = before.is_some_and(|before| before.grant.is_some() && before.grant == record.grant);
    if stays && before.map(identity).as_deref() != Some(shown) {
        return Err(BackendError::refused(format!(
            "lease {name} is held by {shown:?}, which is not a leasehold workload and answers no requests; stop that \
             program, or revoke the lease"
        )));
    }
    let text = serde_json::to_string(record)
        .map_err(|error| BackendError::refused("the record can't be written as JSON").with_source(error))?;
    lease.metadata.name = Some(name.to_string());
    lease.metadata.annotations.get_or_insert_default().insert(RECORD.to_owned(), text);
    let spec = lease.spec.get_or_insert_default();
    let is_beat = before.is_none_or(|before| (before.grant, before.beat) != (record.grant, record.beat));
    if is_beat || spec.renew_time.is_none() {
        spec.renew_time = Some(MicroTime(renewed(record, spec.renew_time.as_ref())));
    }
    spec.holder_identity = Some(identity(record));
    spec.lease_duration_seconds = Some(duration_seconds(record));
    spec.acquire_time = Some(MicroTime(timestamp(record.acquired_at)));
    spec.lease_transitions = Some(transitions(record));
    Ok(lease)
}

/// A new Lease.
pub(crate) fn new(name: &LeaseName, record: &Record) -> Result<Lease, BackendError> {
    written(name, Lease::default(), None, record)
}

/// The holder, as `kubectl get lease` shows it; empty when it is free.
fn identity(record: &Record) -> String {
    record.grant.map(|grant| format!("{}_{grant}", record.holder)).unwrap_or_default()
}

/// The time that client-go waits, so never less than our own holder may act. A final register is nobody's to take.
fn duration_seconds(record: &Record) -> i32 {
    if record.sealed.is_some() {
        return i32::MAX;
    }
    record.ttl_ms.div_ceil(1000).clamp(1, i32::MAX as u64).try_into().unwrap_or(i32::MAX)
}

fn transitions(record: &Record) -> i32 {
    record.transitions.try_into().unwrap_or(i32::MAX)
}

/// client-go compares whole seconds: a beat that isn't a second later than the last one is no beat for it.
fn renewed(record: &Record, last: Option<&MicroTime>) -> Timestamp {
    let now = timestamp(record.renewed_at);
    let later = last.and_then(|last| last.0.checked_add(SignedDuration::from_secs(1)).ok());
    later.map_or(now, |later| now.max(later))
}

fn timestamp(time: WallTime) -> Timestamp {
    let far = if time.0 < 0 { Timestamp::UNIX_EPOCH } else { Timestamp::MAX };
    Timestamp::from_millisecond(time.0).unwrap_or(far)
}

fn wall(time: Option<&MicroTime>) -> WallTime {
    WallTime(time.map_or(0, |time| time.0.as_millisecond()))
}

fn record(lease: &Lease, lineage: &Lineage) -> Result<Record, BackendError> {
    let spec = lease.spec.clone().unwrap_or_default();
    if let Some(strategy) = &spec.strategy {
        let why = format!(
            "its spec.strategy is {strategy}: coordinated leader election would give it to others; remove the field"
        );
        return Err(unreadable(lease, &why));
    }
    let shown = spec.holder_identity.clone().unwrap_or_default();
    let kept = lease.metadata.annotations.as_ref().and_then(|annotations| annotations.get(RECORD));
    let kept: Option<Record> = kept.map(|text| serde_json::from_str(text)).transpose().map_err(|error| {
        let why = format!(
            "its annotation {RECORD} is no record ({error}); delete the Lease and create it anew with init, above \
             every epoch that was used"
        );
        unreadable(lease, &why)
    })?;
    let dense = spec.lease_transitions.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    match kept {
        Some(kept) if identity(&kept) == shown => {
            Ok(Record { transitions: kept.transitions.max(dense), ..kept })
        }
        kept => foreign(lease, &spec, &shown, kept.as_ref(), lineage),
    }
}

/// A record for a Lease that somebody else has written: client-go, or a person.
fn foreign(
    lease: &Lease,
    spec: &LeaseSpec,
    shown: &str,
    kept: Option<&Record>,
    lineage: &Lineage,
) -> Result<Record, BackendError> {
    let dense = spec.lease_transitions.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    // Somebody has held it since, by the rules of client-go. Or somebody changed it by hand under our holder, who may
    // go on acting: no wait is shorter than that holder's ttl, and a holder that was removed doesn't make it free yet.
    let taken_since = kept.is_none_or(|kept| spec.lease_transitions.unwrap_or(0) > transitions(kept));
    let is_free = shown.is_empty() && taken_since;
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
    if !shown.is_empty() && seconds == 0 {
        let why = format!(
            "{shown} holds it for no stated time; set spec.leaseDurationSeconds, or empty the holder"
        );
        return Err(unreadable(lease, &why));
    }
    let ours = kept.filter(|_| !taken_since).map_or(0, |kept| kept.ttl_ms);
    let ttl_ms = (seconds * 1000).max(ours).max(1000);
    let metadata = &lease.metadata;
    let who = (&metadata.uid, shown, spec.acquire_time.as_ref().map(|time| time.0));
    let mut read = Record {
        tag: Tag(digest(&(&metadata.uid, &metadata.resource_version))),
        grant: (!is_free).then(|| Grant(digest(&who))),
        epoch: kept.map_or(0, |kept| kept.epoch),
        // Rises with each of its renewals, unless its clock goes back: then it is waited out like a restore (T-6).
        beat: spec.renew_time.as_ref().and_then(|time| time.0.as_microsecond().try_into().ok()).unwrap_or(0),
        holder: shown.to_owned(),
        ttl_ms,
        max_ttl_ms: kept.map_or(0, |kept| kept.max_ttl_ms).max(ttl_ms),
        // A restored Lease with a holder of old is as doubtful as a restored record.
        lineage: kept.map_or(lineage, |kept| &kept.lineage).clone(),
        transitions: kept.map_or(0, |kept| kept.transitions).max(dense),
        preemptible: false,
        sealed: kept.and_then(|kept| kept.sealed.clone()),
        request: None,
        answered: None,
        acquired_at: wall(spec.acquire_time.as_ref()),
        renewed_at: wall(spec.renew_time.as_ref()),
        expires_at: wall(spec.renew_time.as_ref()).plus(Duration::from_millis(ttl_ms)),
        region: String::new(),
        note: if is_free { String::new() } else { "written by another program, or by hand".to_owned() },
        extra: kept.map(|kept| kept.extra.clone()).unwrap_or_default(),
    };
    if taken_since {
        Revocation::forget(&mut read);
    }
    Ok(read)
}

/// 128 bits that are the same for the same value, in this process and others of the same build.
fn digest(value: &impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

fn unreadable(lease: &Lease, why: &str) -> BackendError {
    let name = lease.metadata.name.as_deref().unwrap_or_default();
    BackendError::not_applied(format!("Lease {name} can't be used: {why}"))
}
