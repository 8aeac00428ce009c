//! `leasehold prepare-folder`: for an init container, whose image has no shell.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use lease_settings::Failure;

use super::output::line;

/// Give a folder to a user, so that a worker without rights can make its socket there
///
/// A folder of the node's (hostPath) is root's when it is new. It must exist, and may not be a link. Run as root; of
/// its capabilities it needs CHOWN alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  leasehold prepare-folder /run/spendguard --owner 65532:65533 --permissions 0750")]
pub(crate) struct PrepareFolder {
    /// The folder
    path: PathBuf,
    /// Its user and group, as numbers
    #[arg(long, value_name = "UID:GID", value_parser = owner)]
    owner: (u32, u32),
    /// Its permissions, in octal digits
    #[arg(long, default_value = "0750", value_name = "MODE", value_parser = permissions)]
    permissions: u32,
}

fn owner(text: &str) -> Result<(u32, u32), String> {
    let read = |part: &str| part.parse().ok().filter(|id| *id != u32::MAX);
    let ids = text.split_once(':').and_then(|(user, group)| Some((read(user)?, read(group)?)));
    ids.ok_or_else(|| "use two numbers, for example 65532:65533".to_owned())
}

fn permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && text.len() >= 3);
    mode.ok_or_else(|| "use three or four octal digits, for example 0750".to_owned())
}

pub(super) fn run(args: &PrepareFolder) -> Result<ExitCode, Failure> {
    let path = args.path.display();
    prepare(args).map_err(|error| {
        let why = "it must be a folder, and this must run as root with the capability CHOWN";
        Failure::new(format!("{path} can't be prepared: {error}; {why}"))
    })?;
    line(format!("{path} belongs to {}:{}, mode {:04o}", args.owner.0, args.owner.1, args.permissions))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(target_os = "linux")]
fn prepare(args: &PrepareFolder) -> io::Result<()> {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

    // By its descriptor: what is changed is what was looked at. Opening it for reading would take more rights.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::open(&args.path, flags, Mode::empty())?);
    let give = |user: u32, group: u32| {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::chownat(&folder, "", Some(user), Some(group), AtFlags::EMPTY_PATH)
    };
    let there = folder.metadata()?;
    if there.mode() & 0o7777 != args.permissions {
        // A folder's owner may do this without the capability FOWNER.
        give(rustix::process::geteuid().as_raw(), there.gid())?;
        let itself = format!("/proc/self/fd/{}", folder.as_raw_fd());
        fs::set_permissions(itself, fs::Permissions::from_mode(args.permissions))?;
    }
    let there = folder.metadata()?;
    if (there.uid(), there.gid()) != args.owner {
        give(args.owner.0, args.owner.1)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn prepare(_: &PrepareFolder) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
