//! Random sequences of operations: every store answers them as the reference backend does.

use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use lease_core::internal::writes::{self, Fresh};
use lease_core::{
    Change, Grant, LeaseBackend, LeaseName, Lineage, Memory, Observation, PutOutcome, Record, RequestId,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::case::cases;
use crate::context::{Cx, candidate};

cases! { "properties":
    answers_random_operations_as_the_reference_does,
}

/// An operation on one of two leases, and the age of the observation that it compares (0: the newest).
#[derive(Clone, Debug)]
struct Op {
    lease: usize,
    age: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Observe,
    Init { closed: bool },
    Acquire { holder: &'static str },
    Renew,
    Release,
    Revoke { free: bool },
    Request { answered: bool },
    Seal,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let what = prop_oneof![
        2 => Just(What::Observe),
        2 => any::<bool>().prop_map(|closed| What::Init { closed }),
        4 => prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(|holder| What::Acquire { holder }),
        6 => Just(What::Renew),
        3 => Just(What::Release),
        1 => any::<bool>().prop_map(|free| What::Revoke { free }),
        2 => any::<bool>().prop_map(|answered| What::Request { answered }),
        1 => Just(What::Seal),
    ];
    // Mostly on the newest observation, sometimes on a stale one.
    let age = prop_oneof![5 => Just(0_usize), 2 => 1..4_usize];
    let op = (0..2_usize, age, what).prop_map(|(lease, age, what)| Op { lease, age, what });
    prop::collection::vec(op, 1..30)
}

/// One store under the same operations: its leases, and what was seen of each.
struct Side {
    backend: Arc<dyn LeaseBackend>,
    leases: [LeaseName; 2],
    seen: [Vec<Observation>; 2],
}

impl Side {
    async fn new(backend: Arc<dyn LeaseBackend>, leases: [LeaseName; 2]) -> anyhow::Result<Self> {
        let mut seen = [Vec::new(), Vec::new()];
        for (lease, seen) in leases.iter().zip(&mut seen) {
            seen.push(backend.observe(lease).await?);
        }
        Ok(Self { backend, leases, seen })
    }

    async fn apply(&mut self, op: &Op, cx: &Cx, fresh: &Fresh) -> anyhow::Result<Told> {
        let (lease, seen) = (&self.leases[op.lease], &mut self.seen[op.lease]);
        let expected = seen[seen.len().saturating_sub(1 + op.age)].clone();
        let Some((record, change)) = write(op, &expected, cx, fresh) else {
            let now = self.backend.observe(lease).await?;
            seen.push(now.clone());
            return Ok(Told { kind: "seen", record: now.record.map(comparable) });
        };
        let (kind, now) = match self.backend.put_if(lease, &expected, &record, change).await? {
            PutOutcome::Written(now) => ("written", now),
            PutOutcome::Conflict(now) => ("conflict", now),
        };
        let granted = record.grant != expected.grant() && record.grant.is_some();
        if kind == "written" && granted && matches!(change, Change::Acquire) {
            ensure!(now.floor >= record.epoch, "the floor {} is below epoch {}", now.floor, record.epoch);
            let earlier =
                seen.iter().filter_map(|seen| seen.record.as_ref()).map(|record| record.epoch).max();
            ensure!(
                earlier.is_none_or(|earlier| record.epoch > earlier),
                "{} after {earlier:?}",
                record.epoch
            );
        }
        seen.push(now.clone());
        Ok(Told { kind, record: now.record.map(comparable) })
    }
}

/// An answer, reduced to the parts that must be equal on both sides.
#[derive(Debug, PartialEq)]
struct Told {
    kind: &'static str,
    record: Option<Record>,
}

/// Epochs come from each store's own floor, and each store has a lineage of its own.
fn comparable(mut record: Record) -> Record {
    if let Some(revoked) = record.extra.get_mut("revoked") {
        revoked["epoch"] = 0.into();
    }
    Record { epoch: 0, lineage: Lineage(String::new()), ..record }
}

/// The write that `op` means on `expected`; `None` for a read, or if there is nothing to write to.
fn write(op: &Op, expected: &Observation, cx: &Cx, fresh: &Fresh) -> Option<(Record, Change)> {
    let before = expected.record.as_ref();
    Some(match &op.what {
        What::Observe => return None,
        // The core creates registers only where there is none.
        What::Init { .. } if before.is_some() => return None,
        What::Init { closed } => {
            (writes::init(expected, cx.ttl(), 0, closed.then_some(fresh.grant), fresh), Change::Init)
        }
        What::Acquire { holder } => {
            let who = candidate(holder, cx.ttl());
            (writes::acquire(expected, before?, &who, fresh.grant, fresh), Change::Acquire)
        }
        What::Renew => (writes::renew(expected, before?, fresh), Change::Renew),
        What::Release => (writes::release(expected, before?, fresh), Change::Release),
        What::Revoke { free } => {
            (writes::revoke(expected, before?, 0, *free, "by hand", fresh), Change::Revoke)
        }
        What::Request { answered } => {
            let grant = if *answered { before?.grant? } else { Grant(7) };
            (writes::request(before?, grant, RequestId(fresh.grant.0), "somebody", fresh), Change::Request)
        }
        What::Seal => {
            let sealed = Some("elsewhere".to_owned());
            // The epoch stays: no store's floor goes along with a seal.
            let record = Record { tag: fresh.tag, grant: Some(fresh.grant), sealed, ..before?.clone() };
            (record, Change::Seal)
        }
    })
}

async fn agrees(cx: &Cx, round: &str, ops: &[Op]) -> anyhow::Result<()> {
    let leases = [cx.lease_named(&format!("{round}-x")), cx.lease_named(&format!("{round}-y"))];
    let mut model = Side::new(Arc::new(Memory::new()), leases.clone()).await?;
    let mut real = Side::new(cx.harness.connect().await?, leases.clone()).await?;
    for (index, op) in ops.iter().enumerate() {
        let fresh = Fresh::random();
        let expected = model.apply(op, cx, &fresh).await.context("the reference")?;
        let told = real.apply(op, cx, &fresh).await.with_context(|| format!("operation {index}, {op:?}"))?;
        ensure!(told == expected, "operation {index}, {op:?}: told {told:?}, the reference {expected:?}");
    }
    if real.backend.capabilities().history {
        for lease in &leases {
            let mut rows = Vec::new();
            for backend in [&model.backend, &real.backend] {
                let history = backend.history(lease, 100).await?.into_iter();
                rows.push(
                    history
                        .map(|row| (row.event_type, row.holder_workload_id, row.transition_count, row.note))
                        .collect::<Vec<_>>(),
                );
            }
            ensure!(rows[0] == rows[1], "rows {:?}, the reference {:?}", rows[1], rows[0]);
        }
    }
    Ok(())
}

async fn answers_random_operations_as_the_reference_does(cx: Arc<Cx>) -> anyhow::Result<()> {
    let seed = match std::env::var("LEASEHOLD_SEED") {
        Ok(text) => text.parse().context("LEASEHOLD_SEED must be a number")?,
        Err(_) => rand::random::<u64>(),
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for round in 0..30 {
        let mut tree = ops().new_tree(&mut runner).map_err(|why| anyhow::anyhow!("no operations: {why}"))?;
        let Err(mut failure) = agrees(&cx, &format!("{round}"), &tree.current()).await else { continue };
        // The shortest sequence that still differs tells most.
        let mut smallest = tree.current();
        for attempt in 0..200 {
            let simpler = if attempt == 0 { tree.simplify() } else { true };
            if !simpler {
                break;
            }
            match agrees(&cx, &format!("{round}-{attempt}"), &tree.current()).await {
                Err(again) => {
                    (failure, smallest) = (again, tree.current());
                    if !tree.simplify() {
                        break;
                    }
                }
                Ok(()) => {
                    if !tree.complicate() {
                        break;
                    }
                }
            }
        }
        bail!("LEASEHOLD_SEED={seed} round {round}: {failure:#}\nafter {smallest:#?}");
    }
    Ok(())
}
