//! `leasehold prepare-folder`: what an init container does for the sidecar's socket.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::common::Leasehold;

#[test]
fn a_folder_gets_its_owner_and_mode_and_a_second_run_changes_nothing() {
    let leasehold = Leasehold::bare();
    let folder = leasehold.path("run");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    // Without root's rights one may give a folder to oneself only.
    let us = std::fs::metadata(&folder).unwrap();
    let (user, group) = if us.uid() == 0 { (65532, 65533) } else { (us.uid(), us.gid()) };
    for _ in 0..2 {
        let owner = format!("{user}:{group}");
        leasehold.run(&["prepare-folder", &folder, "--owner", &owner, "--permissions", "0750"]).ok();
        let there = std::fs::metadata(&folder).unwrap();
        assert_eq!((there.uid(), there.gid(), there.mode() & 0o7777), (user, group, 0o750));
    }
}

#[test]
fn what_is_no_folder_is_left_alone() {
    let leasehold = Leasehold::bare();
    let (file, link) = (leasehold.file("file", ""), leasehold.path("link"));
    symlink(".", &link).unwrap();
    for path in [file, link, leasehold.path("absent")] {
        leasehold.run(&["prepare-folder", &path, "--owner", "1:1"]).failed(&["can't be prepared", "CHOWN"]);
    }
    for bad in ["1", "root:root", "-1:1"] {
        let ran = leasehold.run(&["prepare-folder", "/tmp", &format!("--owner={bad}")]);
        assert_eq!(ran.code, 2, "{bad}");
    }
}
