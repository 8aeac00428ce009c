//! A data folder in a fraction of the time that `initdb` takes: made once, copied afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use super::{PASSWORD, SUPERUSER, binaries::PostgresBinaries};
use crate::{
    process::ProcessCommand,
    supervisor::{Ending, Folder},
};

/// Changes whenever the call of `initdb` does.
const LAYOUT: u32 = 1;

const INITDB_LIMIT: Duration = Duration::from_secs(120);

/// Makes the data folder of a new cluster, below `folder`, owned by the user that runs the server.
pub(super) async fn data_folder(
    binaries: &PostgresBinaries,
    folder: &Folder,
    fresh: bool,
) -> anyhow::Result<PathBuf> {
    let data = folder.path().join("data");
    let template = if fresh { None } else { cached_template(binaries) };
    match &template {
        Some(template) if template.is_dir() => copy(template, &data, binaries)?,
        _ => {
            initdb(binaries, folder, &data).await?;
            if let Some(template) = template
                && let Err(error) = store(&data, &template)
            {
                tracing::warn!("servers will start slowly, since no template can be stored: {error:#}");
            }
        }
    }
    Ok(data)
}

/// The place of the template for this version; `None` without a cache folder.
fn cached_template(binaries: &PostgresBinaries) -> Option<PathBuf> {
    let cache = crate::cache::folder()?;
    let arch = std::env::consts::ARCH;
    Some(cache.join(format!("postgres-{}-{arch}-template-{LAYOUT}", binaries.version)))
}

async fn initdb(binaries: &PostgresBinaries, folder: &Folder, data: &Path) -> anyhow::Result<()> {
    let password = folder.path().join("password");
    binaries.user.write(&password, PASSWORD)?;
    let mut command = binaries.command("initdb", Ending::Kill, folder.path())?;
    command.args([
        "--username",
        SUPERUSER,
        "--auth=scram-sha-256",
        "--no-sync",
        "--encoding=UTF8",
        "--locale=C",
    ]);
    command.arg("--pwfile").arg(&password).arg("--pgdata").arg(data);
    let ran = ProcessCommand::of("initdb", command).run(INITDB_LIMIT).await;
    ran.map(drop).context("cannot make a PostgreSQL cluster")
}

/// Puts a copy into the cache, whole or not at all: many processes may do so at once.
fn store(data: &Path, template: &Path) -> anyhow::Result<()> {
    let cache = template.parent().context("a cache folder has a parent")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let unique = format!("{}.{}.{:?}", template.display(), std::process::id(), std::thread::current().id());
    let unique = Path::new(&unique);
    let stored = copy_tree(data, unique, &|_| Ok(())).and_then(|()| Ok(fs::rename(unique, template)?));
    if stored.is_err() {
        let _ = fs::remove_dir_all(unique);
    }
    // Another process was faster: its template is as good.
    if template.is_dir() { Ok(()) } else { stored }
}

fn copy(template: &Path, data: &Path, binaries: &PostgresBinaries) -> anyhow::Result<()> {
    copy_tree(template, data, &|path| binaries.user.own(path)).with_context(|| {
        format!("cannot copy the template {}: remove it to have it made again", template.display())
    })
}

pub(super) fn copy_tree(
    from: &Path,
    to: &Path,
    own: &dyn Fn(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    own(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target, own)?;
        } else {
            fs::copy(&source, &target)?;
            own(&target)?;
        }
    }
    Ok(())
}
