//! The suite over a backend of one's own: all that its author writes besides the backend.

mod store;

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use lease_conformance::{Facility, Harness, Missing, Suite, actor_main, run};
use lease_core::{BackendError, Connector, LeaseBackend, LeaseName};
use store::{Folder, FolderConnector};

/// The variable by which an actor's process finds the store.
const FOLDER: &str = "LEASEHOLD_SKELETON_FOLDER";

fn main() -> ExitCode {
    // Started by the suite, to be an actor in a process of its own.
    if let Some(folder) = env::var_os(FOLDER) {
        return actor_main(Arc::new(FolderHarness(folder.into())));
    }
    let folder = env::temp_dir().join(format!("leasehold-skeleton-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder for the leases");
    let ended = run(vec![Suite { harness: Arc::new(FolderHarness(folder.clone())), ignored: IGNORED }]);
    let _ = std::fs::remove_dir_all(folder);
    ended
}

struct FolderHarness(PathBuf);

#[async_trait]
impl Harness for FolderHarness {
    fn name(&self) -> &str {
        "folder"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        FolderConnector(self.0.clone()).connect().await
    }

    fn facilities(&self) -> &[Facility] {
        &[Facility::Delete, Facility::Stop, Facility::Rewind, Facility::Processes]
    }

    /// Each is three files that wait for the disk.
    fn many(&self) -> usize {
        1000
    }

    fn why_not(&self, facility: Facility) -> String {
        match facility {
            Facility::Split => "not judged: a folder has no replicas".to_owned(),
            _ => format!("a folder has no {facility}"),
        }
    }

    async fn delete(&self, lease: &LeaseName) -> Result<(), Missing> {
        let folder = Folder::open(self.0.clone()).await.map_err(Missing::because)?;
        folder.delete(lease).map_err(Missing::because)
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let folder = self.0.join(format!(".isolated-{}", FOLDERS.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&folder).map_err(Missing::because)?;
        Ok(Arc::new(FolderHarness(folder)))
    }

    /// As when the disk is not mounted.
    async fn stop(&self) -> Result<(), Missing> {
        std::fs::rename(&self.0, self.0.with_extension("away")).map_err(Missing::because)
    }

    async fn start_again(&self) -> Result<(), Missing> {
        std::fs::rename(self.0.with_extension("away"), &self.0).map_err(Missing::because)
    }

    async fn back_up(&self, lease: &LeaseName) -> Result<Vec<u8>, Missing> {
        std::fs::read(self.0.join(lease.as_str()).join("record")).map_err(Missing::because)
    }

    async fn put_back(&self, lease: &LeaseName, kept: &[u8]) -> Result<(), Missing> {
        let (put, record) =
            (self.0.join(lease.as_str()).join("put-back"), self.0.join(lease.as_str()).join("record"));
        std::fs::write(&put, kept).and_then(|()| std::fs::rename(put, record)).map_err(Missing::because)
    }

    fn actor_command(&self) -> Option<Command> {
        let mut command = Command::new(env::current_exe().ok()?);
        command.env(FOLDER, &self.0);
        Some(command)
    }
}

const IGNORED: &[&str] = &[
    // Files can be deleted, so nobody but `init` creates them (T-5).
    "absence::a_store_that_keeps_its_registers_creates_them_at_the_first_look",
    "capabilities::tell_a_deletion_by_its_lineage",
    "deletion::an_earlier_absence_is_another_one",
    // It has no watch and no history; that both are refused in a sentence is judged.
    "history::concurrent_acquisitions_leave_one_row",
    "history::each_change_of_holder_leaves_one_row",
    "history::names_takeovers_also_after_a_release",
    "history::renewals_requests_and_conflicts_leave_none",
    "history::shows_the_newest_rows_oldest_first",
    "history::tells_the_life_of_an_elector",
    "deletion::history_goes_on_after_it",
    "down::a_watch_goes_on_afterwards_or_ends",
    "hints::are_fit_for_a_write",
    "hints::show_what_was_there_under_the_stores_lineage",
    "release::wakes_a_watcher",
    "watch::hints_at_changes_under_its_prefix",
    "watch::many_watchers_are_all_woken",
    // It has a list.
    "list::is_refused_clearly_where_it_is_not_offered",
    // This harness puts no floor back.
    "rewind::epochs_exceed_what_was_seen_and_not_only_what_is_kept",
    // There is no server to restart or to fail over, and no wire to lose a reply.
    "epoch::survives_a_restart",
    "lineage::a_change_of_lineage_starts_the_wait_anew",
    "lineage::a_write_across_a_change_of_lineage_conflicts",
    "lineage::epochs_rise_across_a_change_of_lineage",
    "observations::were_true_at_one_moment",
    "outage::a_restart_of_the_store_is_survived",
    "certainty::an_acquisition_whose_reply_is_lost_begins_the_term_that_it_wrote",
    "unknown::a_lost_reply_is_reported_as_unknown",
    "unknown::after_a_lost_reply_it_works_again_or_says_that_it_is_disconnected",
    // A folder has no replicas.
    "replicas::a_minority_acknowledges_nothing",
    "replicas::a_minority_shows_nothing_that_was_overtaken",
    // Effects would be somewhere else.
    "fence::a_paused_holders_late_effect_is_refused",
    "fence::admits_in_order_under_concurrency",
    "fence::admits_the_first_the_same_and_every_later_term",
    "fence::refuses_an_earlier_term_and_leaves_no_trace",
    "fence::refuses_an_epoch_above_the_ceiling",
    "fence::refuses_another_grant_of_the_same_epoch",
    "process::a_holder_stopped_past_its_ttl_writes_late_and_is_refused",
    "process::effects_of_many_terms_keep_their_order",
];
