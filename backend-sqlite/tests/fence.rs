//! The fence: what a database with effects admits, from whichever language.

mod common;

use common::{shell, stopped};
use lease_core::fence::{Lowering, Stale};
use lease_core::{Grant, Term};
use lease_sqlite::{Fence, FenceError};
use sqlx::{Connection, SqliteConnection};

const BEGIN: &str = "BEGIN IMMEDIATE";

struct App {
    folder: tempfile::TempDir,
}

impl App {
    async fn new() -> Self {
        let app = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::File::create(app.folder.path().join("app.sqlite")).unwrap();
        let mut database = app.open().await;
        Fence::new("any").install(&mut database).await.unwrap();
        let effects = "CREATE TABLE effects (sequence INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER)";
        sqlx::raw_sql(effects).execute(&mut database).await.unwrap();
        app
    }

    async fn open(&self) -> SqliteConnection {
        shell(&self.folder.path().join("app.sqlite")).await
    }
}

fn term(epoch: u64, grant: u128) -> Term {
    Term { epoch, grant: Grant(grant) }
}

/// One fenced effect.
async fn act(database: &mut SqliteConnection, fence: &Fence, term: &Term) -> Result<(), FenceError> {
    let mut transaction = database.begin_with(BEGIN).await?;
    fence.admit(&mut transaction, term).await?;
    let effect = sqlx::query("INSERT INTO effects (epoch) VALUES (?)").bind(term.epoch as i64);
    effect.execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

async fn effects(database: &mut SqliteConnection) -> Vec<i64> {
    let epochs = sqlx::query_scalar("SELECT epoch FROM effects ORDER BY sequence");
    epochs.fetch_all(database).await.unwrap()
}

#[tokio::test]
async fn admits_the_first_the_same_and_every_later_term_and_refuses_the_rest() {
    let app = App::new().await;
    let mut database = app.open().await;
    let fence = Fence::new("outbox");
    assert_eq!(fence.mark(&mut database).await.unwrap(), None);
    for admitted in [term(5, 1), term(5, 1), term(9, 2)] {
        act(&mut database, &fence, &admitted).await.unwrap();
        assert_eq!(fence.mark(&mut database).await.unwrap(), Some(admitted));
    }
    for refused in [term(8, 3), term(9, 3), term(5, 1)] {
        let error = act(&mut database, &fence, &refused).await.unwrap_err();
        assert!(matches!(error, FenceError::Stale(stale) if stale == (Stale { refused })), "{error}");
        assert!(error.to_string().starts_with("FENCING_EPOCH_STALE"), "{error}");
    }
    assert_eq!(fence.mark(&mut database).await.unwrap(), Some(term(9, 2)), "a refusal changes nothing");
    assert_eq!(effects(&mut database).await, [5, 5, 9]);
    act(&mut database, &Fence::new("another resource"), &term(1, 1))
        .await
        .expect("the promise is per resource");
}

#[tokio::test]
async fn an_epoch_above_the_ceiling_is_refused_in_any_language_and_is_no_stale_term() {
    let app = App::new().await;
    let mut database = app.open().await;
    let fence = Fence::new("outbox");
    for epoch in [Term::MAX_EPOCH + 1, i64::MAX as u64, u64::MAX] {
        let error = act(&mut database, &fence, &term(epoch, 1)).await.unwrap_err();
        assert!(matches!(error, FenceError::AboveCeiling(_)), "{error}");
        assert!(error.to_string().contains(&Term::MAX_EPOCH.to_string()), "it names the ceiling: {error}");
    }
    let by_hand = "INSERT INTO leasehold_admit VALUES ('outbox', 4611686018427387905, '0123456789abcdef0123456789abcdef')";
    let error = sqlx::raw_sql(by_hand).execute(&mut database).await.unwrap_err().to_string();
    assert!(error.contains("FENCING_EPOCH_ABOVE_CEILING"), "{error}");
    assert_eq!(fence.mark(&mut database).await.unwrap(), None);
    act(&mut database, &fence, &term(Term::MAX_EPOCH, 1)).await.unwrap();
    let mut transaction = database.begin_with(BEGIN).await.unwrap();
    let error = fence.take_term(&mut transaction).await.unwrap_err();
    assert!(matches!(error, FenceError::AboveCeiling(_)), "{error}");
}

#[tokio::test]
async fn a_poisoned_mark_is_set_back_once_and_leaves_a_row() {
    let app = App::new().await;
    let mut database = app.open().await;
    let fence = Fence::new("outbox");
    let poison = term(Term::MAX_EPOCH, 9);
    act(&mut database, &fence, &poison).await.unwrap();
    act(&mut database, &fence, &term(8, 8)).await.unwrap_err();
    let lowering = Lowering { seen: poison, to: term(7, 7), by: "op".into(), note: "INC-1".into() };
    let other = Lowering { seen: term(5, 5), ..lowering.clone() };
    for (lowering, done) in [(&other, false), (&lowering, true), (&lowering, false)] {
        let mut transaction = database.begin_with(BEGIN).await.unwrap();
        assert_eq!(fence.lower(&mut transaction, lowering).await.unwrap(), done);
        transaction.commit().await.unwrap();
    }
    act(&mut database, &fence, &term(6, 6)).await.unwrap_err();
    act(&mut database, &fence, &term(8, 8)).await.unwrap();
    let sql =
        "SELECT resource || from_epoch || to_epoch || lowered_by || note FROM leasehold_fence_lowerings";
    let told: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut database).await.unwrap();
    assert_eq!(told, [format!("outbox{}7opINC-1", Term::MAX_EPOCH)]);
}

#[tokio::test]
async fn the_mark_goes_back_with_the_transaction_that_raised_it() {
    let app = App::new().await;
    let mut database = app.open().await;
    let fence = Fence::new("outbox");
    let mut transaction = database.begin_with(BEGIN).await.unwrap();
    fence.admit(&mut transaction, &term(7, 1)).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(fence.mark(&mut database).await.unwrap(), None);
}

#[tokio::test]
async fn admission_outside_a_transaction_is_refused() {
    let app = App::new().await;
    let mut database = app.open().await;
    let fence = Fence::new("outbox");
    let says_what_to_do = |error: FenceError| {
        let why = std::error::Error::source(&error).expect("SQLite's own error").to_string();
        assert!(why.contains("BEGIN IMMEDIATE"), "{why}");
    };
    says_what_to_do(fence.admit(&mut database, &term(1, 1)).await.unwrap_err());
    says_what_to_do(fence.take_term(&mut database).await.unwrap_err());
    assert_eq!(fence.mark(&mut database).await.unwrap(), None);
}

#[tokio::test]
async fn a_program_without_leases_takes_a_term_that_fences_the_earlier_instance_out() {
    let app = App::new().await;
    let mut database = app.open().await;
    let fence = Fence::new("outbox");
    act(&mut database, &fence, &term(41, 1)).await.unwrap();
    let mut transaction = database.begin_with(BEGIN).await.unwrap();
    let first = fence.take_term(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = database.begin_with(BEGIN).await.unwrap();
    let second = fence.take_term(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((first.epoch, second.epoch), (42, 43));
    act(&mut database, &fence, &second).await.unwrap();
    assert!(matches!(act(&mut database, &fence, &first).await, Err(FenceError::Stale(_))));
}

#[tokio::test]
async fn the_rule_holds_for_programs_in_any_language() {
    let app = App::new().await;
    let mut database = app.open().await;
    let grant = Grant(7).to_string();
    let admit =
        |epoch: &str, grant: &str| format!("INSERT INTO leasehold_admit VALUES ('outbox', {epoch}, {grant})");
    let mut run = async |sql: String| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut database).await;
    run(admit("10", &format!("'{grant}'"))).await.unwrap();
    // A driver that sends the epoch as text, or the grant in upper case, would slip past a mere comparison.
    for (epoch, grant) in [
        ("'9'", format!("'{grant}'")),
        ("9.5", format!("'{grant}'")),
        ("NULL", format!("'{grant}'")),
        ("0", format!("'{grant}'")),
        ("11", "NULL".to_owned()),
        ("11", format!("'{}'", "AB".repeat(16))),
        ("11", "'12'".to_owned()),
        ("11", format!("x'{}'", "41".repeat(32))),
    ] {
        let error = run(admit(epoch, &grant)).await.unwrap_err();
        assert!(error.to_string().contains("a term is an integer epoch"), "{epoch} {grant}: {error}");
    }
    for or in ["OR IGNORE", "OR REPLACE"] {
        let forced = admit("9", &format!("'{grant}'")).replace("INSERT", &format!("INSERT {or}"));
        let error = run(forced).await.unwrap_err();
        assert!(error.to_string().contains("FENCING_EPOCH_STALE"), "{or}: {error}");
    }
    assert_eq!(Fence::new("outbox").mark(&mut database).await.unwrap(), Some(term(10, 7)));
}

#[tokio::test]
async fn installing_again_and_by_many_at_once_keeps_the_marks() {
    let app = App::new().await;
    let mut database = app.open().await;
    act(&mut database, &Fence::new("outbox"), &term(3, 1)).await.unwrap();
    let mut installers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut other = app.open().await;
        installers.spawn(async move { Fence::new("any").install(&mut other).await });
    }
    for installed in installers.join_all().await {
        installed.unwrap();
    }
    assert_eq!(Fence::new("outbox").mark(&mut database).await.unwrap(), Some(term(3, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_effect_of_an_old_term_follows_one_of_a_later_term_under_concurrency() {
    let app = App::new().await;
    let mut workers = tokio::task::JoinSet::new();
    for worker in 1..=8_u64 {
        let mut database = app.open().await;
        workers.spawn(async move {
            let fence = Fence::new("outbox");
            let (mut admitted, mut refused) = (0, 0);
            for round in 0..25 {
                match act(&mut database, &fence, &term(round * 8 + worker, worker.into())).await {
                    Ok(()) => admitted += 1,
                    Err(FenceError::Stale(_)) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (admitted, refused)
        });
    }
    let (mut admitted, mut refused) = (0, 0);
    for (a, r) in workers.join_all().await {
        (admitted, refused) = (admitted + a, refused + r);
    }
    let effects = effects(&mut app.open().await).await;
    assert!(effects.is_sorted(), "{effects:?}");
    assert_eq!(effects.len(), admitted);
    assert!(refused > 0, "the workers never met: this run shows nothing");
}

#[tokio::test]
async fn a_deferred_transaction_that_has_read_too_early_is_never_admitted_on_what_it_read() {
    let app = App::new().await;
    let (mut old, mut new) = (app.open().await, app.open().await);
    let fence = Fence::new("outbox");
    // In the older journal modes its read lock would hold the other's commit back; in this one it doesn't.
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut new).await.unwrap();
    let mut transaction = old.begin().await.unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM effects").fetch_one(&mut *transaction).await.unwrap();
    act(&mut new, &fence, &term(2, 2)).await.unwrap();
    // Neither the old term, which is stale, nor a newer one, whose read is.
    for late in [term(1, 1), term(3, 3)] {
        let error = fence.admit(&mut transaction, &late).await.unwrap_err();
        assert!(matches!(error, FenceError::Store(_)), "{error}");
    }
    transaction.rollback().await.unwrap();
    assert_eq!(seen, 0);
    assert_eq!(fence.mark(&mut new).await.unwrap(), Some(term(2, 2)));
    assert_eq!(effects(&mut new).await, [2]);
}

#[tokio::test]
async fn an_admission_dropped_at_any_await_leaves_no_lock_and_no_mark() {
    let app = App::new().await;
    let (mut database, mut other) = (app.open().await, app.open().await);
    let fence = Fence::new("outbox");
    let (mut steps, mut halfway, mut rounds) = (0, 0, 0);
    // A fast answer leaves no time to be dropped in; so until there was some.
    while halfway < 5 {
        let mut transaction = database.begin_with(BEGIN).await.unwrap();
        let admitted = stopped(steps, fence.admit(&mut transaction, &term(1000, 1))).await;
        drop(transaction);
        rounds += 1;
        act(&mut other, &fence, &term(rounds, 2)).await.expect("no lock and no mark are left behind");
        halfway += usize::from(admitted.is_none() && steps > 0);
        steps = if admitted.is_none() { steps + 1 } else { 0 };
    }
}

#[tokio::test]
async fn a_rule_that_admits_everything_lets_stale_effects_through() {
    let app = App::new().await;
    let mut database = app.open().await;
    let replace = "DROP TRIGGER leasehold_admit_term;
                   CREATE TRIGGER leasehold_admit_term INSTEAD OF INSERT ON leasehold_admit BEGIN
                       INSERT INTO leasehold_fence_marks VALUES (NEW.resource, NEW.epoch, NEW.grant_id)
                           ON CONFLICT (resource) DO UPDATE SET epoch = NEW.epoch, grant_id = NEW.grant_id;
                   END";
    sqlx::raw_sql(replace).execute(&mut database).await.unwrap();
    let fence = Fence::new("outbox");
    act(&mut database, &fence, &term(5, 1)).await.unwrap();
    act(&mut database, &fence, &term(4, 2)).await.unwrap();
    assert_eq!(effects(&mut database).await, [5, 4], "so the rule is what the other tests depend on");
}
