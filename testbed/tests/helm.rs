//! Helm is had, and is the one that was pinned.

use std::process::Command;

use lease_testbed::helm;

#[tokio::test]
async fn helm_is_the_pinned_one() -> anyhow::Result<()> {
    let output =
        Command::new(helm::program().await?).args(["version", "--template", "{{.Version}}"]).output()?;
    assert_eq!(String::from_utf8(output.stdout)?, "v3.22.0");
    Ok(())
}
