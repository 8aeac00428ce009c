//! A full disk below the ledger's database. What the server itself does there is `leasehold-lab drill demoted`'s subject: a
//! mount needs root rights. Here its error stands for it.

use crate::stage::{Stage, attempt, fence, outcome, reserve, won};

/// As an insertion fails that needs another page.
const FULL: &str = "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END $$;
    CREATE TRIGGER no_room BEFORE INSERT ON reservation_events EXECUTE FUNCTION no_room()";

#[tokio::test]
async fn a_call_that_finds_the_disk_full_says_that_nothing_was_done() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ledger = stage.ledger().await?;
    let mut client = ledger.client().await?;
    let term = fence("a", &won(&client, attempt("a")).await?);
    sqlx::raw_sql(FULL).execute(&stage.pool).await?;
    let refused = client.reserve(reserve(&term, "k", 1)).await.expect_err("no room");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("nothing was done, since the disk of the ledger's database is full"));
    assert_eq!(refused.metadata().get("leasehold-reason").map(|why| why.as_bytes()), Some(&b"disk-full"[..]));
    assert_eq!(stage.int("SELECT count(*) FROM reservations").await?, 0);
    sqlx::raw_sql("DROP TRIGGER no_room ON reservation_events").execute(&stage.pool).await?;
    outcome(client.reserve(reserve(&term, "k", 1)).await?)?.expect("there is room");
    Ok(())
}
