//! Checks of a request before the database is asked.

use lease_core::{Change, Grant, Record, Tag, Term};
use lease_worker_common::quoted::quoted;
use sqlx::types::Uuid;

use super::store::{Acquisition, LedgerRefusal, ScopeTerm, SeenScope};
use crate::rpc::ledger::v1;

/// The longest name of anything but a scope.
const LONGEST: usize = 253;
/// `<scope>/<node>`, of which a sidecar accepts up to 200 and 253 bytes.
const LONGEST_SCOPE: usize = 200 + 1 + 253;

fn invalid(message: String) -> LedgerRefusal {
    LedgerRefusal { code: "INVALID_ARGUMENT".to_owned(), message }
}

/// A name: not empty, not long, nothing that a terminal would act upon.
pub(super) fn name(field: &str, text: &str) -> Result<String, LedgerRefusal> {
    short(field, text, LONGEST)
}

fn short(field: &str, text: &str, longest: usize) -> Result<String, LedgerRefusal> {
    if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
        return Err(invalid(format!("{field}: use 1 to {longest} bytes without control characters")));
    }
    Ok(text.to_owned())
}

/// A fencing scope's name.
pub(super) fn scope(text: &str) -> Result<String, LedgerRefusal> {
    short("fencing_scope_id", text, LONGEST_SCOPE)
}

/// As [`name`], but may be empty.
pub(super) fn remark(field: &str, text: &str) -> Result<String, LedgerRefusal> {
    if text.is_empty() { Ok(String::new()) } else { name(field, text) }
}

/// Part of an event's id, whose parts are separated by `/`.
fn instance(text: &str) -> Result<String, LedgerRefusal> {
    if text.contains('/') {
        return Err(invalid(
            "workload_instance_id: use a name without '/', for example the pod's".to_owned(),
        ));
    }
    name("workload_instance_id", text)
}

fn grant(bytes: &[u8]) -> Result<Grant, LedgerRefusal> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| invalid("grant: use the 16 bytes that AcquireFencingLease returned".to_owned()))?;
    Ok(Grant(u128::from_be_bytes(bytes)))
}

fn seconds(given: u32, most: u32) -> Result<i32, LedgerRefusal> {
    match i32::try_from(given) {
        Ok(seconds) if (1..=most).contains(&given) => Ok(seconds),
        _ => Err(invalid(format!("ttl_seconds = {given}: use 1 to {most}"))),
    }
}

pub(super) fn acquisition(asked: &v1::AcquireFencingLeaseRequest) -> Result<Acquisition, LedgerRefusal> {
    let held = if asked.grant.is_empty() { None } else { Some(grant(&asked.grant)?) };
    if asked.force && held.is_some() {
        return Err(invalid("force: a renewal needs none; leave one of force and grant out".to_owned()));
    }
    Ok(Acquisition {
        scope: scope(&asked.fencing_scope_id)?,
        tenant: name("tenant_id", &asked.tenant_id)?,
        instance: instance(&asked.workload_instance_id)?,
        ttl_seconds: seconds(asked.ttl_seconds, 3_600)?,
        force: asked.force,
        attempt: Some(remark("audit_event_id", &asked.audit_event_id)?).filter(|attempt| !attempt.is_empty()),
        grant: held,
    })
}

/// The longest ttl of a scope's record: a day, as for every lease.
const LONGEST_TTL_MS: u64 = 86_400_000;

/// A write of a scope's register.
pub(super) struct ScopeWrite {
    pub(super) expected: Option<Tag>,
    pub(super) record: Record,
    pub(super) change: Change,
}

pub(super) fn scope_write(asked: &v1::PutFencingScopeRequest) -> Result<ScopeWrite, LedgerRefusal> {
    scope_and_tenant(&asked.fencing_scope_id, &asked.tenant_id)?;
    let record: Record = serde_json::from_str(&asked.record)
        .map_err(|error| invalid(format!("record: use a lease record as JSON: {error}")))?;
    let change = serde_json::from_value(asked.change.clone().into());
    if !record.holder.is_empty() {
        instance(&record.holder)?;
    }
    if record.ttl_ms > LONGEST_TTL_MS || record.epoch > Term::MAX_EPOCH {
        let max = Term::MAX_EPOCH;
        return Err(invalid(format!("record: use a ttl_ms up to {LONGEST_TTL_MS} and an epoch up to {max}")));
    }
    let change =
        change.map_err(|_| invalid(format!("change = {}: use the change's name", quoted(&asked.change))))?;
    Ok(ScopeWrite { expected: tag("expected_tag", &asked.expected_tag)?, record, change })
}

/// A scope's name and its tenant's.
pub(super) fn scope_and_tenant(name_of_scope: &str, tenant: &str) -> Result<(), LedgerRefusal> {
    scope(name_of_scope)?;
    name("tenant_id", tenant).map(drop)
}

/// 16 bytes, or none.
pub(super) fn tag(field: &str, bytes: &[u8]) -> Result<Option<Tag>, LedgerRefusal> {
    match bytes.try_into() {
        Ok(bytes) => Ok(Some(Tag::from_bytes(bytes))),
        Err(_) if bytes.is_empty() => Ok(None),
        Err(_) => Err(invalid(format!("{field}: use the 16 bytes of a record's tag, or none"))),
    }
}

/// How the caller of AwaitFencingScope has seen the scope.
pub(super) fn seen(asked: &v1::AwaitFencingScopeRequest) -> Result<Option<SeenScope>, LedgerRefusal> {
    scope_and_tenant(&asked.fencing_scope_id, &asked.tenant_id)?;
    let free = tag("seen_tag", &asked.seen_tag)?;
    let held =
        match asked.seen_grant.as_slice() {
            [] => None,
            bytes => Some(bytes.try_into().map(Grant::from_bytes).map_err(|_| {
                invalid("seen_grant: use the 16 bytes of a record's grant, or none".to_owned())
            })?),
        };
    match (free, held) {
        (Some(_), Some(_)) => {
            Err(invalid("seen_tag and seen_grant: the scope was free or held, send one".to_owned()))
        }
        (free, held) => Ok(free.map(SeenScope::Free).or(held.map(SeenScope::Held))),
    }
}

pub(super) fn fence(given: Option<&v1::Fence>) -> Result<ScopeTerm, LedgerRefusal> {
    let given = given.ok_or_else(|| invalid("fence: every write speaks for a term; send it".to_owned()))?;
    let epoch = Some(given.epoch).filter(|epoch| (1..=Term::MAX_EPOCH).contains(epoch));
    let allowed = || invalid(format!("epoch = {}: use 1 to {}", given.epoch, Term::MAX_EPOCH));
    Ok(ScopeTerm {
        scope: scope(&given.fencing_scope_id)?,
        tenant: name("tenant_id", &given.tenant_id)?,
        instance: instance(&given.workload_instance_id)?,
        epoch: epoch.ok_or_else(allowed)? as i64,
        grant: grant(&given.grant)?,
    })
}

/// The part of a reservation beside its fence and its key.
pub(super) struct Amount {
    pub(super) minor: i64,
    pub(super) currency: String,
    pub(super) ttl_seconds: i32,
}

pub(super) fn amount(asked: &v1::ReserveRequest) -> Result<Amount, LedgerRefusal> {
    if asked.amount_minor <= 0 {
        return Err(invalid(format!("amount_minor = {}: use more than 0", asked.amount_minor)));
    }
    currency(&asked.currency)?;
    Ok(Amount {
        minor: asked.amount_minor,
        currency: asked.currency.clone(),
        ttl_seconds: seconds(asked.ttl_seconds, 86_400)?,
    })
}

pub(super) fn currency(code: &str) -> Result<(), LedgerRefusal> {
    if code.len() != 3 || !code.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Err(invalid("currency: use the three capitals of ISO 4217, for example EUR".to_owned()));
    }
    Ok(())
}

pub(super) fn reservation(id: &str) -> Result<Uuid, LedgerRefusal> {
    id.parse().map_err(|_| invalid("reservation_id: use the one that Reserve returned".to_owned()))
}

/// Reads each request from bytes and checks it, as its call does before it asks the database: for this project's
/// fuzzing. Returns the records that would be written to a scope.
pub(crate) fn read_all(bytes: &[u8]) -> Vec<Record> {
    use prost::Message;

    if let Ok(asked) = v1::AcquireFencingLeaseRequest::decode(bytes) {
        let _ = acquisition(&asked);
    }
    if let Ok(asked) = v1::AwaitFencingScopeRequest::decode(bytes) {
        let _ = seen(&asked);
    }
    if let Ok(asked) = v1::ReserveRequest::decode(bytes) {
        let _ = (fence(asked.fence.as_ref()), amount(&asked));
    }
    let asked = v1::PutFencingScopeRequest::decode(bytes).ok();
    asked.and_then(|asked| scope_write(&asked).ok()).map(|write| write.record).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_printable() {
        assert!(name("x", "payments/node-1").is_ok());
        for bad in ["", "a\0b", "a\nb", &"x".repeat(254)] {
            assert!(name("x", bad).is_err_and(|refusal| refusal.code == "INVALID_ARGUMENT"), "{bad:?}");
        }
        assert!(instance("a/b").is_err());
    }

    #[test]
    fn a_renewal_cannot_be_forced() {
        let asked = v1::AcquireFencingLeaseRequest {
            fencing_scope_id: "s".into(),
            tenant_id: "t".into(),
            workload_instance_id: "w".into(),
            ttl_seconds: 30,
            force: true,
            audit_event_id: String::new(),
            grant: vec![7; 16],
        };
        assert!(acquisition(&asked).is_err());
        assert!(acquisition(&v1::AcquireFencingLeaseRequest { force: false, ..asked.clone() }).is_ok());
        assert!(acquisition(&v1::AcquireFencingLeaseRequest { grant: Vec::new(), ..asked }).is_ok());
    }
}
