//! A fleet's home (M-2) and a lease's work (W-1): no second fleet leads what another one leads, whichever store, lease or
//! database a mistake names.

use lease_testbed::{Etcd, EtcdOptions, Postgres, PostgresOptions, Signal};

use crate::stage::{LIMIT, SHORT, Stage, Worker};

/// Waits until it ends; its exit code, and what it said at last.
async fn refused(worker: Worker) -> anyhow::Result<(Option<i32>, String)> {
    let code = worker.process.wait(LIMIT).await?.code();
    let error = worker.process.lines().into_iter().rev().find(|line| line.starts_with("error: "));
    Ok((code, error.unwrap_or_default()))
}

async fn stopped(worker: Worker) -> anyhow::Result<()> {
    worker.process.signal(Signal::TERM)?;
    assert_eq!(worker.process.wait(LIMIT).await?.code(), Some(0));
    Ok(())
}

/// The forwarder's own operator's command; its exit code and what it said.
async fn command(stage: &Stage, what: &str, more: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_leasehold"));
    let args = ["worker", "outbox-forwarder", "--outbox-url", &stage.outbox, what];
    let flags: Vec<_> = stage.lease_flags.iter().map(String::as_str).collect();
    let at = if more.contains(&"--mode") { &[] } else { &flags[..] };
    let ran = command.env_clear().args(args).args(at).args(more).output().await?;
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Ok((ran.status.code(), said))
}

/// While a fleet leads by the stage's store, one with `direct` is refused, and one that comes from there takes over.
async fn a_change_of_mode_is_refused_unless_it_is_a_move(
    stage: Stage,
    direct: &[&str],
) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let old = stage.forwarder("old", &ingest.address).await?;
    old.leads().await?;
    stage.append(0, 100).await?;
    stage.all_arrived(100).await?;

    let (from, to) = (stage.lease_flags[1].clone(), direct[1]);
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, direct).await?;
    let (code, error) = refused(new).await?;
    assert_eq!(code, Some(2), "{error}");
    let (remembers, remedy) = (format!("mode {from}, under lease"), format!("migrateFrom to {from}"));
    for part in [to, &remembers, &remedy, "worker outbox-forwarder --forget-home"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    stage.append(100, 200).await?;
    stage.all_arrived(200).await?;
    assert_eq!(old.metric("spendguard_outbox_forwarder_is_leader").await?, 1.0, "the fleet leads on");
    // The hook before an upgrade says the same, and makes no register, not even to repair a loss.
    for hook in [direct, &[direct, &["--above", "4711"]].concat()] {
        let (code, said) = command(&stage, "--init-lease", hook).await?;
        assert!(code == Some(2) && said.contains(&remedy), "{hook:?}: {code:?} {said}");
    }

    let all_flags: Vec<_> = stage.lease_flags.iter().map(String::as_str).collect();
    let moving = [direct, &all_flags[2..], &["--migrate-from", &from]].concat();
    let (code, said) = command(&stage, "--init-lease", &moving).await?;
    assert!(code == Some(0) && said.contains("the workers create it"), "{code:?} {said}");
    let moved = stage.forwarder_with("moved", &ingest.address, &stage.outbox, &moving).await?;
    moved.leads().await?;
    stage.append(200, 300).await?;
    stage.all_arrived(300).await?;
    stopped(old).await?;
    // The home moved with its first term: the way back needs its own word.
    let (code, error) = refused(stage.forwarder("back", &ingest.address).await?).await?;
    assert!(code == Some(2) && error.contains(&format!("migrateFrom to {to}")), "{code:?} {error}");
    stopped(moved).await
}

#[tokio::test]
async fn sqlite_to_postgres_is_refused_unless_it_is_a_move() -> anyhow::Result<()> {
    let server = Postgres::start(PostgresOptions::default()).await?;
    let url = server.create_database("leases").await?;
    lease_postgres::migrate(&lease_postgres::PostgresConfig::new(&url)?).await?;
    let direct = ["--mode", "postgres", "--postgres-url", &url];
    a_change_of_mode_is_refused_unless_it_is_a_move(Stage::sqlite().await?, &direct).await
}

#[tokio::test]
async fn postgres_to_etcd_is_refused_unless_it_is_a_move() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    let endpoints = etcd.endpoints().join(",");
    let direct = ["--mode", "etcd", "--etcd-endpoints", &endpoints];
    a_change_of_mode_is_refused_unless_it_is_a_move(Stage::postgres().await?, &direct).await
}

async fn another_leases_name_is_refused(stage: Stage) -> anyhow::Result<()> {
    let ingest = stage.ingest().await?;
    let old = stage.forwarder("old", &ingest.address).await?;
    old.leads().await?;
    stage.append(0, 100).await?;
    stage.all_arrived(100).await?;
    let renamed = ["--lease", "forwarder-2"];
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, &renamed).await?;
    let (code, error) = refused(new).await?;
    assert_eq!(code, Some(2), "{error}");
    for part in ["\"forwarder-2\" is not allowed", "under lease outbox-forwarder", "--forget-home"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let above = old.epoch()?.to_string();
    stopped(old).await?;

    let (code, said) = command(&stage, "--forget-home", &[]).await?;
    assert!(code == Some(0) && said.contains("under lease outbox-forwarder"), "{code:?} {said}");
    assert!(said.contains(&format!("--above {above}`")), "{said}");
    assert!(said.contains("unless that one is in mode disabled, which needs no lease"), "{said}");
    let (code, said) = command(&stage, "--forget-home", &[]).await?;
    assert!(code == Some(0) && said.contains("nothing was changed"), "{code:?} {said}");
    stage.operator(&["init", "--new", "--above", &above, "forwarder-2"]).await?;
    let new = stage.forwarder_with("new", &ingest.address, &stage.outbox, &renamed).await?;
    new.leads().await?;
    stage.append(100, 200).await?;
    stage.all_arrived(200).await?;
    let (code, _) = refused(stage.forwarder("old", &ingest.address).await?).await?;
    assert_eq!(code, Some(2), "it is at home under the new name");
    stopped(new).await
}

#[tokio::test]
async fn sqlite_another_leases_name_is_refused() -> anyhow::Result<()> {
    another_leases_name_is_refused(Stage::sqlite().await?).await
}

#[tokio::test]
async fn postgres_another_leases_name_is_refused() -> anyhow::Result<()> {
    another_leases_name_is_refused(Stage::postgres().await?).await
}

/// In a store whose epochs begin at 1, so that the mark of the time without leases is above them.
#[tokio::test]
async fn from_mode_disabled_and_back_each_way_says_so_and_epochs_rise() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let mut written = 0;
    let mut greatest = 0;
    for (mode, from, terms) in [
        ("disabled", None, 3),
        ("sqlite", Some("disabled"), 1),
        ("disabled", Some("sqlite"), 3),
        // The register is there by now, below the mark.
        ("sqlite", Some("disabled"), 2),
    ] {
        let leases: Vec<_> = stage.lease_flags[2..].iter().map(String::as_str).collect();
        let direct = [&["--mode", mode], &leases[..], &SHORT].concat();
        if let Some(from) = from {
            let unsaid = stage.forwarder_with("unsaid", &ingest.address, &stage.outbox, &direct).await?;
            let (code, error) = refused(unsaid).await?;
            assert!(code == Some(2) && error.contains(&format!("migrateFrom to {from}")), "{code:?} {error}");
        }
        let from = from.map(|from| ["--migrate-from", from]);
        let args = [&direct[..], from.as_ref().map_or(&[], |from| &from[..])].concat();
        for _ in 0..terms {
            let worker = stage.forwarder_with("worker", &ingest.address, &stage.outbox, &args).await?;
            worker.leads().await?;
            assert!(worker.epoch()? > greatest, "{} after {greatest} in {mode}", worker.epoch()?);
            greatest = worker.epoch()?;
            stage.append(written, written + 10).await?;
            written += 10;
            stage.all_arrived(written).await?;
            stopped(worker).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_is_taken_for_no_other_database_and_by_no_other_program() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let other = Stage::sqlite().await?;
    let ingest = stage.ingest().await?;
    let own = stage.forwarder("own", &ingest.address).await?;
    own.leads().await?;
    assert!(stage.operator(&["status", "outbox-forwarder"]).await?.contains("its work: outbox-forwarder/"));
    assert!(
        stage.operator(&["status", "-o", "wide"]).await?.contains(" outbox-forwarder/"),
        "the column WORK"
    );

    let strange = stage.forwarder_with("other", &ingest.address, &other.outbox, &[]).await?;
    let (code, error) = refused(strange).await?;
    assert_eq!(code, Some(1), "{error}");
    for part in ["lease outbox-forwarder", "its work is outbox-forwarder/", "leaseName", "forget-work"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let run = stage.operator(&["run", "--lease", "outbox-forwarder", "--", "true"]).await;
    let error = run.expect_err("it is the forwarder's").to_string();
    assert!(error.contains("and this is run;"), "{error}");
    own.ready().await?;

    stopped(own).await?;
    let said = stage.operator(&["forget-work", "outbox-forwarder"]).await?;
    assert!(said.contains("was for outbox-forwarder/"), "{said}");
    let heir = stage.forwarder_with("other", &ingest.address, &other.outbox, &[]).await?;
    heir.leads().await?;
    stopped(heir).await
}

/// As an older version has left it: tables without a home, and a register without a work.
#[tokio::test]
async fn a_worker_waits_for_older_tables_to_be_upgraded_and_adopts_what_it_finds() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let ingest = stage.ingest().await?;
    let drop = "DROP TABLE leasehold_homes; DROP FUNCTION leasehold_home, leasehold_settle";
    let crate::stage::Pools::Postgres { outbox, .. } = &stage.pools else { unreachable!("it is postgres") };
    sqlx::raw_sql(drop).execute(outbox).await?;
    let worker = stage.forwarder("new", &ingest.address).await?;
    worker.process.wait_for_line("run --migrate of the role", LIMIT).await?;
    let (status, why) = worker.get("/readyz").await?;
    assert_eq!(status, 503, "{why}");
    assert!(
        !worker.process.lines().iter().any(|line| line.contains("leading")),
        "it asks before it campaigns"
    );

    let (code, said) = command(&stage, "--migrate", &[]).await?;
    assert_eq!(code, Some(0), "{said}");
    worker.leads().await?;
    stage.append(0, 100).await?;
    stage.all_arrived(100).await?;
    worker.ready().await?;
    let at_home =
        "SELECT count(*) FROM leasehold_homes WHERE mode = 'postgres' AND lease = 'outbox-forwarder'";
    assert_eq!(stage.outbox_int(at_home).await?, 1);
    assert!(stage.operator(&["status", "outbox-forwarder"]).await?.contains("its work: outbox-forwarder/"));
    stopped(worker).await
}

/// What the hook before an upgrade does: a lost register is made only where an operator says so.
#[tokio::test]
async fn a_hook_makes_the_lease_only_of_work_that_was_never_led() -> anyhow::Result<()> {
    let stage = Stage::postgres().await?;
    let ingest = stage.ingest().await?;
    let lease = ["--lease", "fresh"];
    let (code, said) = command(&stage, "--init-lease", &lease).await?;
    assert!(code == Some(0) && said.contains("was created, closed"), "{code:?} {said}");
    let (code, said) = command(&stage, "--init-lease", &lease).await?;
    assert!(code == Some(0) && said.contains("exists already"), "{code:?} {said}");
    let (code, said) = command(&stage, "--init-lease", &["--mode", "disabled"]).await?;
    assert!(code == Some(0) && said.contains("needs no lease"), "{code:?} {said}");

    let worker = stage.forwarder("a", &ingest.address).await?;
    worker.leads().await?;
    stage.append(0, 100).await?;
    stage.all_arrived(100).await?;
    let epoch = worker.epoch()?;
    stopped(worker).await?;
    let server = stage.server.as_ref().expect("a server");
    let empty = server.create_database("empty").await?;
    let lost = ["--mode", "postgres", "--postgres-url", &empty];
    let (code, said) = command(&stage, "--init-lease", &lost).await?;
    let remedy = format!("leasehold init --above {epoch} outbox-forwarder");
    assert!(code == Some(1) && said.contains(&remedy), "{code:?} {said}");
    let (code, said) = command(&stage, "--init-lease", &lost).await?;
    assert!(code == Some(1) && said.contains(&remedy), "it was not made the first time: {code:?} {said}");

    // An operator says that the store has lost it, and may know of later epochs than the database does.
    let run = async |above: i64| {
        command(&stage, "--init-lease", &[&lost[..], &["--above", &above.to_string()]].concat()).await
    };
    let (code, said) = run(epoch + 1000).await?;
    assert!(code == Some(0) && said.contains("was created, closed"), "{code:?} {said}");
    let (code, said) = run(epoch + 1000).await?;
    let there = format!("exists already, at epoch {}", epoch + 1001);
    assert!(code == Some(0) && said.contains(&there), "a hook may run twice: {code:?} {said}");
    let (code, said) = run(epoch + 2000).await?;
    let kept = format!("below {}: this store has not lost it; nothing was changed", epoch + 2000);
    assert!(code == Some(0) && said.contains(&kept), "what is there was not lost: {code:?} {said}");
    Ok(())
}
