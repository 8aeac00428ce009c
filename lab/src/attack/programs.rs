//! The programs of an attack, where whoever runs them may execute them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use lease_testbed::Folder;

pub(super) struct AttackPrograms {
    pub(super) leasehold: PathBuf,
    pub(super) lab: PathBuf,
    _copies: Option<Folder>,
}

impl AttackPrograms {
    /// This one, and `leasehold` beside it: copies if some guards run as nobody, for a checkout may lie in a folder that
    /// is closed to others, such as root's home.
    pub(super) fn find(for_nobody: bool) -> anyhow::Result<Self> {
        let lab = std::env::current_exe().context("cannot find this program again")?;
        let leasehold = lab.with_file_name("leasehold");
        ensure!(
            leasehold.is_file(),
            "there is no {}: run `cargo build -p leasehold` first",
            leasehold.display()
        );
        if !for_nobody {
            return Ok(Self { leasehold, lab, _copies: None });
        }
        let folder = Folder::new("attack-programs")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let copied = |program: &Path| -> anyhow::Result<PathBuf> {
            let copy = folder.path().join(program.file_name().context("a program has a name")?);
            fs::copy(program, &copy).with_context(|| format!("copying {}", program.display()))?;
            Ok(copy)
        };
        Ok(Self { leasehold: copied(&leasehold)?, lab: copied(&lab)?, _copies: Some(folder) })
    }
}
