//! Which role runs, who says so, and what its log lines carry.

use lease_testbed::{Process, Signal};
use serde_json::Value;

use crate::stage::{LIMIT, Stage};

/// Starts the binary with `args` and `environment` and nothing else; ends it once it has started.
async fn lines_of(args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let mut command = Process::command(env!("CARGO_BIN_EXE_leasehold"))?.env_clear().args(args);
    for (name, value) in environment {
        command = command.env(name, value);
    }
    let process = command.env("LEASEHOLD_HTTP_LISTEN", "127.0.0.1:0").spawn()?;
    process.wait_for_line("canonical-ingest started", LIMIT).await?;
    process.signal(Signal::TERM)?;
    assert_eq!(process.wait(LIMIT).await?.code(), Some(0));
    // It may have ended before its last line is read.
    process.wait_for_line("canonical-ingest stopped", LIMIT).await?;
    Ok(process.lines())
}

#[tokio::test]
async fn an_images_role_comes_from_its_environment() -> anyhow::Result<()> {
    let stage = Stage::sqlite().await?;
    let url = ("LEASEHOLD_CANONICAL_INGEST_DATABASE_URL", stage.canonical.as_str());
    let role = ("LEASEHOLD_ROLE", "canonical-ingest");
    let json = ("LEASEHOLD_LOG_FORMAT", "json");
    let every_line_is_json_with_the_role = |lines: Vec<String>| {
        for line in lines {
            let line: Value = serde_json::from_str(&line).expect(&line);
            assert_eq!(line["role"], "canonical-ingest", "{line}");
            assert!(line["message"].is_string() && line["timestamp"].is_string(), "{line}");
        }
    };
    every_line_is_json_with_the_role(lines_of(&[], &[url, role, json]).await?);
    every_line_is_json_with_the_role(lines_of(&["worker", "--json"], &[url, role]).await?);
    every_line_is_json_with_the_role(lines_of(&["worker", "canonical-ingest", "--json"], &[url]).await?);
    // The command line wins, and people's lines carry the role too.
    let other = ("LEASEHOLD_ROLE", "outbox-forwarder");
    for line in lines_of(&["worker", "canonical-ingest"], &[url, other]).await? {
        assert!(line.ends_with(" role=canonical-ingest"), "{line}");
    }
    Ok(())
}
