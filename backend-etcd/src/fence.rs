//! Effects in etcd itself, refused once a later term has begun.

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use lease_core::fence::{self, Lowering};
use lease_core::{Grant, InvalidSettings, LeaseName, Term};

use crate::config::{EtcdConfig, check_prefix};
use crate::keys::{Keys, Part, term_value};

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
    key: String,
    value: String,
}

/// The mark of one fenced resource (F-1) in etcd, whichever store has the lease.
#[derive(Clone, Debug)]
pub struct Fence {
    key: String,
    /// The beginning of the keys of its repairs.
    lowered: String,
}

impl EtcdConfig {
    /// The guard of effects in this same etcd, while `term` of the lease `name` lasts.
    pub fn guard(&self, name: &LeaseName, term: &Term) -> TermGuard {
        TermGuard { key: self.keys.part(name, Part::Term), value: term_value(term) }
    }

    /// The fence of a resource that lives in this etcd, whichever store has the lease.
    pub fn fence(&self, resource: &str) -> Fence {
        Fence::below(&self.keys, resource)
    }
}

/// Why an effect was not made, or may not have been. etcd's own error leaves it unknown whether it was made.
pub type FenceError = fence::FenceError<etcd_client::Error>;

// === impl TermGuard ===

impl TermGuard {
    /// The compare that holds only while the term lasts.
    pub fn compare(&self) -> Compare {
        Compare::value(self.key.as_str(), CompareOp::Equal, self.value.as_str())
    }
}

// === impl Fence ===

impl Fence {
    /// The fence of `resource`, below [`EtcdConfig::PREFIX`].
    pub fn new(resource: &str) -> Self {
        Self::below(&Keys::new(EtcdConfig::PREFIX), resource)
    }

    /// The fence of `resource`, below another prefix. [`EtcdConfig::fence`] takes that of the settings.
    ///
    /// # Errors
    /// As for [`EtcdConfig::prefix`].
    pub fn in_prefix(resource: &str, prefix: &str) -> Result<Self, InvalidSettings> {
        check_prefix(prefix)?;
        Ok(Self::below(&Keys::new(prefix), resource))
    }

    fn below(keys: &Keys, resource: &str) -> Self {
        Self { key: keys.mark(resource), lowered: keys.lowered(resource) }
    }

    /// Admits `term` and makes the effects, in one atomic Txn. A term's first act on the resource must be one of
    /// these, without effects if need be, before any read that its effects depend on (F-1).
    ///
    /// Reads the mark first; starts again when another process has raised it meanwhile, which each term does once.
    ///
    /// # Errors
    /// [`FenceError::Stale`] and [`FenceError::AboveCeiling`]: the effects were not made. [`FenceError::Store`]: it is
    /// unknown whether they were, except for [`InvalidArgs`](etcd_client::Error::InvalidArgs): the mark's key holds
    /// something else, and nothing was done.
    ///
    /// # Cancel safety
    /// The effects are made or not made, all together.
    pub async fn admit(
        &self,
        client: &mut Client,
        term: &Term,
        effects: impl Into<Vec<TxnOp>>,
    ) -> Result<(), FenceError> {
        let effects = effects.into();
        loop {
            let seen = self.mark(client).await?;
            let mark = fence::admit(seen, *term).map_err(FenceError::refused)?;
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

    /// The greatest term admitted so far.
    ///
    /// # Errors
    /// etcd's; [`InvalidArgs`](etcd_client::Error::InvalidArgs) if the mark's key holds something else.
    pub async fn mark(&self, client: &mut Client) -> Result<Option<Term>, etcd_client::Error> {
        let found = client.get(self.key.as_str(), None).await?;
        let foreign = || {
            etcd_client::Error::InvalidArgs(format!(
                "the fence's key {:?} holds something that is not a mark: remove it, or use another prefix",
                self.key
            ))
        };
        found.kvs().first().map(|pair| parse(pair.value()).ok_or_else(foreign)).transpose()
    }
}

impl Fence {
    /// An operator's repair of a mark that refuses every real term; leaves a key for audits in the same Txn. Returns
    /// false, and changes nothing, if the mark is not the one that was seen.
    ///
    /// # Errors
    /// etcd's: it is unknown whether the mark was lowered.
    pub async fn lower(&self, client: &mut Client, lowering: &Lowering) -> Result<bool, etcd_client::Error> {
        let Lowering { seen, to, by, note } = lowering;
        let row = serde_json::json!({
            "from": term_value(seen), "to": term_value(to), "by": by, "note": note,
            "at": lease_core::WallTime::now(),
        });
        let unchanged = Compare::value(self.key.as_str(), CompareOp::Equal, term_value(seen));
        let writes = [
            TxnOp::put(self.key.as_str(), term_value(to), None),
            TxnOp::put(format!("{}{}", self.lowered, lease_core::Tag::random()), row.to_string(), None),
        ];
        Ok(client.txn(Txn::new().when([unchanged]).and_then(writes)).await?.succeeded())
    }
}

fn parse(value: &[u8]) -> Option<Term> {
    let (epoch, grant) = std::str::from_utf8(value).ok()?.split_once('/')?;
    Some(Term { epoch: epoch.parse().ok()?, grant: grant.parse::<Grant>().ok()? })
}
