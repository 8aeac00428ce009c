//! SpendGuard's roles for `leasehold worker`, one folder each.
//!
//! [`forwarder`] leads or waits: the leader polls the [`outbox`] and sends what it finds to [`ingest`], which keeps it
//! in the [`canonical`] store. Each of the two stores is a fenced resource of its own (F-1).

pub mod canonical;
pub mod cloudevents;
pub mod forwarder;
pub mod ingest;
#[doc(hidden)]
pub mod internal;
#[cfg(feature = "ledger")]
pub mod ledger;
pub mod outbox;
#[cfg(feature = "ledger")]
pub mod rpc;
#[cfg(feature = "ledger")]
pub mod sidecar;
#[cfg(feature = "ledger")]
pub mod sweeper;

use lease_settings::ValueKind;
use lease_worker_common::Roles;

/// Adds the roles of this package.
pub fn add_to(roles: &mut Roles) {
    roles.add(forwarder::OutboxForwarder);
    roles.add(ingest::CanonicalIngest);
    #[cfg(feature = "ledger")]
    {
        roles.add(ledger::LedgerRole);
        roles.add(sidecar::Sidecar);
        roles.add(sweeper::TtlSweeper);
    }
}

/// For how long rows are kept: up to a hundred years, or 0 for ever.
const DAYS: ValueKind = ValueKind::Integer { min: 0, max: 36_500 };
