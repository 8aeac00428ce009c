//! A case that does not end well leaves no server of its store behind, and tells what happened there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lease_conformance::{Facility, Harness, Missing, Patience, find, real_core, report};
use lease_core::{BackendError, LeaseBackend, Memory};
use tokio_util::sync::CancellationToken;

/// It starts a server of its own, acquires, and restarts the server.
const CASE: &str = "outage::a_restart_of_the_store_is_survived";

/// A server that runs as long as its harness lives.
struct Server(Arc<AtomicUsize>);

impl Server {
    fn start(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::SeqCst);
        Self(running.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
enum Restart {
    Fails,
    Panics,
    Hangs,
    Cancels(CancellationToken),
}

struct Hosted {
    store: Memory,
    running: Arc<AtomicUsize>,
    restart: Restart,
    _server: Option<Server>,
}

impl Hosted {
    fn new(restart: Restart) -> Self {
        Self { store: Memory::new(), running: Arc::default(), restart, _server: None }
    }
}

#[async_trait]
impl Harness for Hosted {
    fn name(&self) -> &str {
        "hosted"
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(self.store.clone()))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(500)
    }

    fn facilities(&self) -> &[Facility] {
        &[Facility::Restart]
    }

    async fn isolated(&self) -> Result<Arc<dyn Harness>, Missing> {
        let server = Some(Server::start(&self.running));
        let (running, restart) = (self.running.clone(), self.restart.clone());
        Ok(Arc::new(Self { store: Memory::new(), running, restart, _server: server }))
    }

    async fn restart(&self) -> Result<(), Missing> {
        assert_eq!(self.running.load(Ordering::SeqCst), 1, "the case's own server must run");
        match &self.restart {
            Restart::Fails => return Err(Missing("no restart, as planned".to_owned())),
            Restart::Panics => panic!("as planned"),
            Restart::Hangs => {}
            Restart::Cancels(token) => token.cancel(),
        }
        std::future::pending().await
    }
}

fn fails(restart: Restart, says: &str) {
    let harness = Hosted::new(restart);
    let running = harness.running.clone();
    let case = find(CASE).expect("the case is in the suite");
    let told = case.run(Arc::new(harness), real_core(), Patience(Duration::from_secs(1))).unwrap_err();
    assert_eq!(running.load(Ordering::SeqCst), 0, "a server is left");
    assert!(told.contains(says), "{told}");
    assert!(told.contains("Acquire: 0/free"), "it must tell what happened on the case's own server: {told}");
}

#[test]
fn a_case_that_fails_leaves_no_server() {
    fails(Restart::Fails, "no restart, as planned");
}

#[test]
fn a_case_that_panics_leaves_no_server() {
    fails(Restart::Panics, "the case panicked");
}

#[test]
fn a_case_that_hangs_leaves_no_server() {
    fails(Restart::Hangs, "the case timed out after 3s");
}

#[test]
fn a_case_that_is_cancelled_leaves_no_server() {
    let token = CancellationToken::new();
    let harness = Hosted::new(Restart::Cancels(token.clone()));
    let running = harness.running.clone();
    let ended = report(Arc::new(harness), CASE, |_| {}, &token);
    assert_eq!(ended.unwrap_err(), "cancelled after 0 of 1 cases");
    assert_eq!(running.load(Ordering::SeqCst), 0, "a server is left");
}
