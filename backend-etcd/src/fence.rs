//! Effects in etcd itself, refused once a later term has begun.

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use lease_core::fence::{Stale, admit};
use lease_core::{Grant, Term};

use crate::keys::term_value;

/// Guards effects in the etcd that has the lease, by a compare on the lease's term key, which is written only when a
/// term begins or ends: an effect's Txn succeeds only while the term lasts. Made by
/// [`EtcdConfig::guard`](crate::EtcdConfig::guard); costs no round trip.
///
/// ```no_run
/// # async fn example(config: lease_etcd::EtcdConfig, mut client: lease_etcd::etcd_client::Client,
/// #     leadership: lease_core::Leadership) -> Result<(), Box<dyn std::error::Error>> {
/// use lease_core::LeaseName;
/// use lease_etcd::etcd_client::{Txn, TxnOp};
///
/// let guard = config.guard(&LeaseName::new("outbox-forwarder")?, &leadership.term());
/// let effect = Txn::new().when([guard.compare()]).and_then([TxnOp::put("cursor", "42", None)]);
/// if !client.txn(effect).await?.succeeded() {
///     leadership.fence_refused(); // a later term has begun: this one is over (F-4)
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermGuard {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// The mark of one fenced resource (F-1) in etcd, for effects whose lease is in another store. Made by
/// [`EtcdConfig::fence`](crate::EtcdConfig::fence).
#[derive(Clone, Debug)]
pub struct Fence {
    pub(crate) key: String,
}

/// Why an effect was not made, or may not have been.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A later term has acted here: this one is over (F-4). Nothing was done.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// Something else holds the mark's key: it is no mark of ours. Nothing was done.
    #[error("the fence's key {0:?} holds something that is not a mark: remove it, or use another prefix")]
    Foreign(String),
    /// etcd did not answer; the effect may have been made.
    #[error("asking the fence: {0}")]
    Store(#[from] etcd_client::Error),
}

// === impl TermGuard ===

impl TermGuard {
    /// The compare that holds only while the term lasts.
    pub fn compare(&self) -> Compare {
        Compare::value(self.key.as_str(), CompareOp::Equal, self.value.as_str())
    }
}

// === impl Fence ===

impl Fence {
    /// Admits `term` and makes the effects, in one atomic Txn. A term's first act on the resource must be one of
    /// these, without effects if need be, before any read that its effects depend on (F-1).
    ///
    /// Reads the mark first; starts again when another process has raised it meanwhile, which each term does once.
    ///
    /// # Errors
    /// [`FenceError::Stale`]: a later term has been admitted; the effects were not made. Dropping the future leaves
    /// them made or not made, all together.
    pub async fn admit(
        &self,
        client: &mut Client,
        term: &Term,
        effects: impl Into<Vec<TxnOp>>,
    ) -> Result<(), FenceError> {
        let effects = effects.into();
        loop {
            let found = client.get(self.key.as_str(), None).await?;
            let seen = match found.kvs().first() {
                Some(pair) => Some(parse(pair.value()).ok_or_else(|| FenceError::Foreign(self.key.clone()))?),
                None => None,
            };
            let mark = admit(seen, *term)?;
            let unchanged = match seen {
                Some(seen) => Compare::value(self.key.as_str(), CompareOp::Equal, term_value(&seen)),
                None => Compare::version(self.key.as_str(), CompareOp::Equal, 0),
            };
            let mut writes = effects.clone();
            if seen != Some(mark) {
                writes.push(TxnOp::put(self.key.as_str(), term_value(&mark), None));
            }
            if client.txn(Txn::new().when([unchanged]).and_then(writes)).await?.succeeded() {
                return Ok(());
            }
        }
    }
}

fn parse(value: &[u8]) -> Option<Term> {
    let (epoch, grant) = std::str::from_utf8(value).ok()?.split_once('/')?;
    Some(Term { epoch: epoch.parse().ok()?, grant: grant.parse::<Grant>().ok()? })
}
