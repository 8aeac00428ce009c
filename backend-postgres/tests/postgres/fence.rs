//! F-1 in Postgres: admission in the caller's own transaction.

use crate::common::*;
use lease_core::fence::Lowering;
use lease_core::{Grant, Term, fence};
use lease_postgres::{Fence, FenceError};
use lease_testbed::wait_until;
use sqlx::{Connection, PgConnection};

/// A database that is not a lease store, with a fence and a table of effects.
struct Effects {
    schema: String,
    url: String,
}

async fn effects() -> anyhow::Result<Effects> {
    let url = server().await.url();
    let schema = fresh_schema();
    server()
        .await
        .psql(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.effects (epoch bigint)"))
        .await?;
    Fence::in_schema("any", &schema)?.install(&mut session(&url).await?).await?;
    Ok(Effects { schema, url })
}

impl Effects {
    fn fence(&self, resource: &str) -> Fence {
        Fence::in_schema(resource, &self.schema).expect("a valid schema")
    }

    async fn session(&self) -> sqlx::Result<PgConnection> {
        session(&self.url).await
    }

    /// Waits until some admission waits behind a lock.
    async fn somebody_waits(&self) -> anyhow::Result<()> {
        self.so_many_wait(1).await
    }

    async fn so_many_wait(&self, count: usize) -> anyhow::Result<()> {
        let waiting = format!(
            "SELECT count(*) >= {count} FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
            self.schema
        );
        wait_until("an admission waits", LIMIT, async || {
            server().await.psql(&waiting).await.is_ok_and(|waits| waits == "t")
        })
        .await
    }
}

fn term(epoch: u64, grant: u128) -> Term {
    Term { epoch, grant: Grant(grant) }
}

fn is_stale(result: Result<(), FenceError>) -> bool {
    matches!(result, Err(FenceError::Stale(_)))
}

#[tokio::test]
async fn admits_exactly_what_the_pure_rule_admits() -> anyhow::Result<()> {
    let effects = effects().await?;
    let mut connection = effects.session().await?;
    let terms: Vec<_> = [0, 1, 2, Term::MAX_EPOCH, Term::MAX_EPOCH + 1, u64::MAX]
        .iter()
        .flat_map(|e| [term(*e, 1), term(*e, u128::MAX)])
        .collect();
    for (i, first) in terms.iter().enumerate() {
        for (j, second) in terms.iter().enumerate() {
            let fence = effects.fence(&format!("{i}-{j}"));
            let mut mark = None;
            for term in [first, second, first] {
                let admitted = fence.admit(&mut connection, term).await;
                match fence::admit(mark, *term) {
                    Ok(raised) => {
                        admitted?;
                        mark = Some(raised);
                    }
                    Err(refused) => {
                        let Err(error) = admitted else { panic!("{term} after {mark:?}") };
                        assert_eq!(error.to_string(), refused.to_string());
                    }
                }
                assert_eq!(fence.mark(&mut connection).await?, mark);
            }
        }
    }
    Ok(())
}

/// A program in another language asks the function itself.
#[tokio::test]
async fn the_function_itself_refuses_an_epoch_above_the_ceiling() -> anyhow::Result<()> {
    let effects = effects().await?;
    let mut connection = effects.session().await?;
    let admit = format!("SELECT {}.leasehold_admit('outbox', $1, gen_random_uuid())", effects.schema);
    for epoch in [Term::MAX_EPOCH as i64 + 1, i64::MAX] {
        let by_hand =
            sqlx::query(sqlx::AssertSqlSafe(admit.clone())).bind(epoch).execute(&mut connection).await;
        let refused = Fence::refusal(&term(epoch as u64, 1), by_hand.unwrap_err());
        assert!(matches!(refused, FenceError::AboveCeiling(_)), "{refused}");
        assert!(
            refused.to_string().contains(&Term::MAX_EPOCH.to_string()),
            "it names the ceiling: {refused}"
        );
    }
    assert_eq!(effects.fence("outbox").mark(&mut connection).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_poisoned_mark_is_set_back_once_and_by_nobody_else_meanwhile() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let mut connection = effects.session().await?;
    let poison = term(Term::MAX_EPOCH, 9);
    fence.admit(&mut connection, &poison).await?;
    assert!(is_stale(fence.admit(&mut connection, &term(8, 8)).await));
    let lowering = Lowering { seen: poison, to: term(7, 7), by: "op".into(), note: "INC-1".into() };
    let other = Lowering { seen: term(5, 5), ..lowering.clone() };
    assert!(!fence.lower(&mut connection, &other).await?, "the mark is another one");
    assert!(fence.lower(&mut connection, &lowering).await?);
    fence.admit(&mut connection, &term(8, 8)).await?;
    assert!(!fence.lower(&mut connection, &lowering).await?, "it has moved since");
    assert_eq!(fence.mark(&mut connection).await?, Some(term(8, 8)));
    assert!(is_stale(fence.admit(&mut connection, &term(6, 6)).await), "below what was issued");
    let told = "SELECT resource, from_epoch, to_epoch, lowered_by, note FROM {s}.leasehold_fence_lowerings";
    let told = server().await.psql(&told.replace("{s}", &effects.schema)).await?;
    assert_eq!(told, format!("outbox|{}|7|op|INC-1", Term::MAX_EPOCH));
    Ok(())
}

#[tokio::test]
async fn refused_effects_roll_back_with_their_transaction() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let mut connection = effects.session().await?;
    fence.admit(&mut connection, &term(6, 6)).await?;
    let mut tx = connection.begin().await?;
    let refused = fence.admit(&mut tx, &term(5, 5)).await.unwrap_err();
    assert!(refused.to_string().starts_with("FENCING_EPOCH_STALE"), "{refused}");
    let insert = format!("INSERT INTO {}.effects VALUES (5)", effects.schema);
    let late = sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut *tx).await;
    assert!(late.is_err(), "the transaction can only be rolled back");
    Ok(())
}

#[tokio::test]
async fn a_later_term_waits_for_the_effects_of_the_earlier_and_then_ends_it() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let (mut old, mut new) = (effects.session().await?, effects.session().await?);
    fence.admit(&mut old, &term(5, 5)).await?;
    let mut slow = old.begin().await?;
    fence.admit(&mut slow, &term(5, 5)).await?;

    let successor = async { fence.admit(&mut new, &term(6, 6)).await };
    let earlier = async {
        effects.somebody_waits().await?;
        let insert = format!("INSERT INTO {}.effects VALUES (5)", effects.schema);
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut *slow).await?;
        slow.commit().await?;
        anyhow::Ok(())
    };
    let (successor, earlier) = tokio::join!(successor, earlier);
    earlier?;
    successor?;
    assert!(is_stale(fence.admit(&mut old, &term(5, 5)).await));
    Ok(())
}

#[tokio::test]
async fn an_earlier_term_that_comes_during_the_raise_is_refused_once_it_commits() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    for known in [true, false] {
        let fence = if known { fence.clone() } else { effects.fence("new") };
        let (mut old, mut new) = (effects.session().await?, effects.session().await?);
        if known {
            fence.admit(&mut old, &term(5, 5)).await?;
        }
        let mut raise = new.begin().await?;
        fence.admit(&mut raise, &term(6, 6)).await?;
        let late = async { fence.admit(&mut old, &term(5, 5)).await };
        let commit = async {
            effects.somebody_waits().await?;
            raise.commit().await?;
            anyhow::Ok(())
        };
        let (late, commit) = tokio::join!(late, commit);
        commit?;
        assert!(is_stale(late), "known: {known}");
    }
    Ok(())
}

#[tokio::test]
async fn two_of_an_earlier_term_that_come_during_the_raise_do_not_lock_each_other_up() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("resource");
    fence.admit(&mut effects.session().await?, &term(5, 1)).await?;
    let mut raiser = effects.session().await?;
    let mut raise = raiser.begin().await?;
    fence.admit(&mut raise, &term(6, 2)).await?;
    let late = |mut connection: PgConnection| {
        let fence = effects.fence("resource");
        tokio::spawn(async move { fence.admit(&mut connection, &term(5, 1)).await })
    };
    let both = [late(effects.session().await?), late(effects.session().await?)];
    effects.so_many_wait(2).await?;
    raise.commit().await?;
    for outcome in both {
        let outcome = outcome.await?;
        assert!(matches!(outcome, Err(FenceError::Stale(_))), "{outcome:?}");
    }
    Ok(())
}

#[tokio::test]
async fn transactions_of_one_term_run_side_by_side() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let (mut a, mut b) = (effects.session().await?, effects.session().await?);
    fence.admit(&mut a, &term(5, 5)).await?;
    let mut first = a.begin().await?;
    fence.admit(&mut first, &term(5, 5)).await?;
    let mut second = b.begin().await?;
    sqlx::raw_sql("SET LOCAL lock_timeout = '10ms'").execute(&mut *second).await?;
    fence.admit(&mut second, &term(5, 5)).await?;
    second.commit().await?;
    first.commit().await?;
    Ok(())
}

#[tokio::test]
async fn the_first_two_transactions_of_a_new_resource_are_both_admitted() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let (mut a, mut b) = (effects.session().await?, effects.session().await?);
    let mut first = a.begin().await?;
    fence.admit(&mut first, &term(5, 5)).await?;
    let second = async { fence.admit(&mut b, &term(5, 5)).await };
    let commit = async {
        effects.somebody_waits().await?;
        first.commit().await?;
        anyhow::Ok(())
    };
    let (second, commit) = tokio::join!(second, commit);
    commit?;
    second?;
    Ok(())
}

#[tokio::test]
async fn a_raise_that_is_rolled_back_leaves_the_mark() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let mut connection = effects.session().await?;
    fence.admit(&mut connection, &term(5, 5)).await?;
    let mut tx = connection.begin().await?;
    fence.admit(&mut tx, &term(6, 6)).await?;
    tx.rollback().await?;
    fence.admit(&mut connection, &term(5, 5)).await?;
    Ok(())
}

#[tokio::test]
async fn a_stale_snapshot_is_never_admitted_by() -> anyhow::Result<()> {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let effects = effects().await?;
        let fence = effects.fence("outbox");
        let (mut old, mut new) = (effects.session().await?, effects.session().await?);
        fence.admit(&mut old, &term(5, 5)).await?;
        let begin = format!("BEGIN ISOLATION LEVEL {level}; SELECT 1");
        sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut old).await?;
        fence.admit(&mut new, &term(6, 6)).await?;
        let late = fence.admit(&mut old, &term(5, 5)).await.unwrap_err();
        let FenceError::Store(failure) = late else { panic!("{level}: {late}") };
        let code = failure.as_database_error().and_then(|e| e.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("40001"), "{level}");
    }
    Ok(())
}

#[tokio::test]
async fn instances_without_a_lease_take_terms_that_fence_each_other_out() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (fence, mut connection) = (fence.clone(), effects.session().await?);
        tasks.spawn(async move {
            let mut tx = connection.begin().await?;
            let term = fence.take_term(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, FenceError>(term)
        });
    }
    let mut terms = Vec::new();
    while let Some(term) = tasks.join_next().await {
        terms.push(term??);
    }
    terms.sort_by_key(|term| term.epoch);
    assert_eq!(terms.iter().map(|term| term.epoch).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    let mut connection = effects.session().await?;
    let last = terms.pop().expect("eight terms");
    for earlier in terms {
        assert!(is_stale(fence.admit(&mut connection, &earlier).await));
    }
    fence.admit(&mut connection, &last).await?;
    Ok(())
}

#[tokio::test]
async fn every_admission_goes_through_the_one_function() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    let mut connection = effects.session().await?;
    fence.admit(&mut connection, &term(6, 6)).await?;
    let always = "CREATE OR REPLACE FUNCTION {s}.leasehold_admit(p_resource text, p_epoch bigint, p_grant uuid) \
                  RETURNS void LANGUAGE sql AS ''";
    server().await.psql(&always.replace("{s}", &effects.schema)).await?;
    fence.admit(&mut connection, &term(5, 5)).await?;
    assert_eq!(fence.take_term(&mut connection).await?.epoch, 7);
    assert_eq!(
        fence.mark(&mut connection).await?,
        Some(term(6, 6)),
        "nothing but the function raises a mark"
    );
    Ok(())
}

#[tokio::test]
async fn the_fence_may_be_installed_by_many_at_once_and_again() -> anyhow::Result<()> {
    let effects = effects().await?;
    let fence = effects.fence("outbox");
    fence.admit(&mut effects.session().await?, &term(6, 6)).await?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut connection, fence) = (effects.session().await?, fence.clone());
        tasks.spawn(async move { fence.install(&mut connection).await });
    }
    while let Some(installed) = tasks.join_next().await {
        installed??;
    }
    assert!(
        is_stale(fence.admit(&mut effects.session().await?, &term(5, 5)).await),
        "the marks are still there"
    );
    Ok(())
}
