//! A tenant's live and committed reservations never exceed its budget.

use crate::stage::{Stage, attempt, fence, outcome, reserve, settle, won};

#[tokio::test]
async fn is_never_overdrawn_by_many_at_once() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledgers = [stage.ledger().await?, stage.ledger().await?];
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
