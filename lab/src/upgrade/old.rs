//! An earlier `leasehold`, built from this repository's history.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lease_testbed::{Folder, Process};

/// The first commit with all four stores.
pub(super) const FIRST: &str = "821e316";

const LIMIT: Duration = Duration::from_secs(3600);

/// The program of this commit: built once, in a folder of its own beside this program's.
pub(super) async fn build(commit: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program again")?;
    let built = program.ancestors().nth(2).context("this program is in no target folder")?;
    let target = built.join("old").join(commit);
    let old = target.join("debug/leasehold");
    if old.is_file() {
        return Ok(old);
    }
    eprintln!("upgrade: building leasehold as of {commit}, which takes minutes");
    let folder = Folder::new("old")?;
    let tree = folder.path().join("tree");
    git(&["worktree", "add", "--detach", &tree.display().to_string(), commit]).await?;
    let made = cargo(&tree, &target).await;
    git(&["worktree", "remove", "--force", &tree.display().to_string()]).await?;
    made?;
    Ok(old)
}

async fn git(words: &[&str]) -> anyhow::Result<()> {
    Process::command("git")?.args(words).run(LIMIT).await.map(drop)
}

async fn cargo(tree: &Path, target: &Path) -> anyhow::Result<()> {
    let build = Process::command("cargo")?.current_dir(tree).env("CARGO_TARGET_DIR", target);
    // Its package has had two names.
    let build = build.args(["build", "--locked", "--bin", "leasehold"]);
    build.run(LIMIT).await.map(drop)
}
