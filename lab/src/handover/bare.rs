//! A register that a bare client writes: the commits of a hand-over, and nothing else.

use anyhow::{bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client as KubeClient, Config};
use lease_core::{LeaseName, Record, Tag, Term};
use lease_etcd::etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use lease_stores::Place;
use lease_stores::etcd::EtcdPlace;
use lease_stores::k8s::K8sPlace;
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;

pub(super) enum Register {
    Postgres { connection: PgConnection, tag: Tag },
    Etcd(Box<BareKeys>),
    K8s(Box<Object>),
}

/// A term key and a beat key, as the backend has them.
pub(super) struct BareKeys {
    client: Client,
    record: Record,
    term: String,
}

/// A Lease with the record in an annotation, as the backend has it.
pub(super) struct Object {
    api: Api<Lease>,
    record: Record,
    lease: Lease,
}

impl Register {
    pub(super) async fn prepare(place: &Place) -> anyhow::Result<Self> {
        let backend = place.connect().await?;
        let seen = backend.observe(&LeaseName::new("handed-over")?).await?;
        let record = seen.record.ok_or_else(|| anyhow::anyhow!("the arena has made no register"))?;
        match place {
            Place::Etcd(place) => Ok(Self::Etcd(Box::new(BareKeys::prepare(place, record).await?))),
            Place::K8s(place) => Ok(Self::K8s(Box::new(Object::prepare(place, record).await?))),
            Place::Postgres(place) => {
                let mut connection = place.client().await?;
                sqlx::raw_sql(
                    "CREATE TABLE bare_leases (LIKE coordination_leases INCLUDING ALL);
                     INSERT INTO bare_leases SELECT * FROM coordination_leases",
                )
                .execute(&mut connection)
                .await?;
                Ok(Self::Postgres { connection, tag: record.tag })
            }
            other => bail!("there is no bare client for mode {}", other.mode().as_str()),
        }
    }

    /// Release, or acquisition: one commit with a compare.
    pub(super) async fn update(&mut self, epoch: u64, term: Option<Term>) -> anyhow::Result<()> {
        match self {
            Self::Postgres { connection, tag } => {
                let new = Tag::random();
                let updated = sqlx::query(
                    "UPDATE bare_leases SET tag = $1, grant_id = $2, epoch = $3, beat = beat + 1, renewed_at = now()
                     WHERE lease_name = 'handed-over' AND tag = $4",
                )
                .bind(Uuid::from_u128(new.0))
                .bind(term.map(|term| Uuid::from_u128(term.grant.0)))
                .bind(epoch as i64)
                .bind(Uuid::from_u128(tag.0))
                .execute(connection)
                .await?;
                ensure!(updated.rows_affected() == 1, "the bare client's row was changed by somebody else");
                *tag = new;
                Ok(())
            }
            Self::Etcd(keys) => keys.update(epoch, term).await,
            Self::K8s(object) => object.update(epoch, term).await,
        }
    }
}

impl BareKeys {
    const TERM: &str = "/bare/term";
    const BEAT: &str = "/bare/beat";

    async fn prepare(place: &EtcdPlace, record: Record) -> anyhow::Result<Self> {
        let mut client = place.client().await?;
        client.put(Self::TERM, "", None).await?;
        client.put(Self::BEAT, serde_json::to_string(&record)?, None).await?;
        Ok(Self { client, record, term: String::new() })
    }

    async fn update(&mut self, epoch: u64, term: Option<Term>) -> anyhow::Result<()> {
        let old = serde_json::to_string(&self.record)?;
        let compares = [
            Compare::value(Self::TERM, CompareOp::Equal, self.term.as_str()),
            Compare::value(Self::BEAT, CompareOp::Equal, old.as_str()),
        ];
        let grant = term.map(|term| term.grant);
        self.record = Record { tag: Tag::random(), grant, epoch, ..self.record.clone() };
        self.term = grant.map_or_else(|| format!("{epoch}/free"), |grant| format!("{epoch}/{grant}"));
        let new = serde_json::to_string(&self.record)?;
        let puts = [
            TxnOp::put(Self::BEAT, new.as_str(), None),
            TxnOp::put(Self::TERM, self.term.as_str(), None),
            TxnOp::put(format!("/bare/history/{epoch}-{}", self.record.tag), new.as_str(), None),
        ];
        let done = self.client.txn(Txn::new().when(compares).and_then(puts)).await?;
        ensure!(done.succeeded(), "the bare client's keys were changed by somebody else");
        Ok(())
    }
}

impl Object {
    const NAME: &str = "bare";

    async fn prepare(place: &K8sPlace, record: Record) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read_from(place.kubeconfig())?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let api = Api::default_namespaced(KubeClient::try_from(config)?);
        let metadata = ObjectMeta { name: Some(Self::NAME.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, ..api.get("handed-over").await? };
        let lease = api.create(&PostParams::default(), &lease).await?;
        Ok(Self { api, record, lease })
    }

    async fn update(&mut self, epoch: u64, term: Option<Term>) -> anyhow::Result<()> {
        let grant = term.map(|term| term.grant);
        self.record = Record { tag: Tag::random(), grant, epoch, ..self.record.clone() };
        let text = serde_json::to_string(&self.record)?;
        self.lease.metadata.annotations.get_or_insert_default().insert(lease_k8s::RECORD.to_owned(), text);
        self.lease.spec.get_or_insert_default().holder_identity =
            Some(grant.map(|grant| format!("bare_{grant}")).unwrap_or_default());
        self.lease = self.api.replace(Self::NAME, &PostParams::default(), &self.lease).await?;
        Ok(())
    }
}
