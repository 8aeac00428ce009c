//! The effects of a run: rows that are written in the same transaction as their term's admission (F-1), and the
//! sabotage of that admission, which must show.

pub(crate) mod etcd;
mod postgres;
mod sqlite;

use lease_core::Term;

use crate::judge::{EffectRow, Incarnation};
use crate::store::{Mode, Store};
use crate::trace::{Nanos, Outcome};

/// One effect that is to be written on `resource`.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) resource: String,
    pub(crate) term: Term,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    pub(crate) before: Nanos,
}

/// One connection to the store of the effects.
pub(crate) enum Effects {
    Sqlite(sqlite::Effects),
    Postgres(postgres::Effects),
    Etcd(Box<etcd::Effects>),
}

impl Effects {
    /// Connects, and has every statement of [`write`](Self::write) prepared.
    pub(crate) async fn connect(store: &Store) -> anyhow::Result<Self> {
        Ok(match store.mode {
            Mode::Sqlite | Mode::K8s => Self::Sqlite(sqlite::Effects::connect(&store.effects).await?),
            Mode::Postgres => Self::Postgres(postgres::Effects::connect(&store.effects).await?),
            Mode::Etcd => Self::Etcd(Box::new(etcd::Effects::connect(&store.effects).await?)),
        })
    }

    /// Makes the table and the fence.
    pub(crate) async fn create(store: &Store) -> anyhow::Result<()> {
        match store.mode {
            Mode::Sqlite | Mode::K8s => sqlite::create(&store.effects).await,
            Mode::Postgres => postgres::create(&store.effects).await,
            Mode::Etcd => Ok(()),
        }
    }

    /// Replaces the schema's admission by one that always admits.
    pub(crate) async fn sabotage(store: &Store) -> anyhow::Result<()> {
        match store.mode {
            Mode::Sqlite | Mode::K8s => sqlite::sabotage(&store.effects).await,
            Mode::Postgres => postgres::sabotage(&store.effects).await,
            Mode::Etcd => etcd::sabotage(&store.effects).await,
        }
    }

    /// As [`sabotage`](Self::sabotage), in a worker's database by its URL.
    pub(crate) async fn admit_everybody(database: &str) -> anyhow::Result<()> {
        match database.strip_prefix("sqlite:") {
            Some(file) => sqlite::sabotage(file).await,
            None => postgres::sabotage(database).await,
        }
    }

    /// Admits the term and writes the row, in one transaction. Nothing is retried. After a failure, or when dropped
    /// at an await, the connection is of no more use.
    pub(crate) async fn write(&mut self, effect: &Effect) -> Outcome {
        match self {
            Self::Sqlite(effects) => effects.write(effect, true).await,
            Self::Postgres(effects) => effects.write(effect, true).await,
            Self::Etcd(effects) => effects.write(effect, true).await,
        }
    }

    /// All effects on `resource`, in the store's own order.
    pub(crate) async fn all(&mut self, resource: &str) -> anyhow::Result<Vec<EffectRow>> {
        match self {
            Self::Sqlite(effects) => effects.all(resource).await,
            Self::Postgres(effects) => effects.all(resource).await,
            Self::Etcd(effects) => effects.all(resource).await,
        }
    }
}

/// What is written, rolled back, so that every statement is prepared.
fn warm_up() -> Effect {
    let term = Term { epoch: 1, grant: lease_core::Grant::random() };
    Effect { resource: "warm-up".into(), term, incarnation: 0, number: 0, before: 0 }
}
