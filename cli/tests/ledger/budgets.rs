//! A tenant's live and committed reservations never exceed its budget.

use lease_testbed::Process;

use crate::stage::{LIMIT, PATIENT, Stage, TENANT, attempt, fence, outcome, reserve, settle, won};

#[tokio::test]
async fn is_never_overdrawn_by_many_at_once() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledgers = [stage.ledger_with(&PATIENT).await?, stage.ledger_with(&PATIENT).await?];
    let client = ledgers[0].client().await?;
    let fence = fence("a", &won(&client, attempt("a")).await?);
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (mut client, fence) = (ledgers[number % 2].client().await?, fence.clone());
        clients.spawn(async move {
            let mut refused = 0;
            for turn in 0..12 {
                let key = format!("{number}-{turn}");
                match outcome(client.reserve(reserve(&fence, &key, 40)).await?)? {
                    // A third is given back, a third is spent, a third stays live.
                    Ok(reservation) => {
                        let asked = settle(&fence, &format!("{key}-end"), &reservation.reservation_id);
                        match turn % 3 {
                            0 => drop(outcome(client.release(asked).await?)?.expect("it is live")),
                            1 => drop(outcome(client.commit(asked).await?)?.expect("it is live")),
                            _ => {}
                        }
                    }
                    Err(code) => {
                        anyhow::ensure!(code == "BUDGET_EXCEEDED", "{code}");
                        refused += 1;
                    }
                }
            }
            anyhow::Ok(refused)
        });
    }
    let refused: Vec<i32> = clients.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    assert!(refused.iter().sum::<i32>() > 0, "192 times 40 were asked for, of 1,000");
    stage.books_balance().await?;
    assert_eq!(
        stage.int("SELECT reserved_minor + committed_minor FROM budgets").await?,
        1_000,
        "and it was all used"
    );
    Ok(())
}

#[tokio::test]
async fn every_scope_and_budget_that_the_command_names_is_made() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let prepare = async |more: &[&str]| {
        let ledger = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear();
        let args = [&["worker", "ledger", "--ledger-db-url", &stage.url], more].concat();
        anyhow::Ok(ledger.args(args).spawn()?.wait(LIMIT).await?.code())
    };
    let scopes = ["--add-scope", "refunds", TENANT, "--add-scope", "payouts", TENANT];
    let budgets = ["--set-budget", TENANT, "USD", "5", "--set-budget", TENANT, "GBP", "7"];
    assert_eq!(prepare(&[&scopes[..], &budgets].concat()).await?, Some(0));
    let made = stage.texts("SELECT fencing_scope_id FROM fencing_scopes ORDER BY 1").await?;
    assert_eq!(made, ["payments", "payouts", "refunds"]);
    let set = stage.texts("SELECT currency || limit_minor FROM budgets ORDER BY 1").await?;
    assert_eq!(set, ["EUR1000", "GBP7", "USD5"]);

    // Names that no request may have, and amounts that are none.
    for nonsense in [
        &["--set-budget", TENANT, "GBP", "-1"][..],
        &["--set-budget", TENANT, "gbp", "1"],
        &["--set-budget", "", "GBP", "1"],
        &["--add-scope", "a\nb", TENANT],
        &["--lower-scope", "payments", TENANT, "2305843009213693953"],
        &["--lower-scope", "payments", TENANT, "none"],
        &["--lower-scope", "payments", TENANT],
    ] {
        let one_is = [&["--set-budget", TENANT, "USD", "6"], nonsense].concat();
        assert_eq!(prepare(&one_is).await?, Some(2), "{nonsense:?}");
        let now = stage.texts("SELECT currency || limit_minor FROM budgets ORDER BY 1").await?;
        assert_eq!(now, set, "all or none");
    }
    Ok(())
}
