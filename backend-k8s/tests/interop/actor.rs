//! Our side: this binary as a process that is a candidate, and says when it leads and acts.

use std::env;
use std::time::Duration;

use lease_core::{Clock, Elector, LeaseName, WorkloadId};
use lease_k8s::{K8s, K8sConfig};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) const LEASE: &str = "INTEROP_LEASE";
pub(crate) const KUBECONFIG: &str = "INTEROP_KUBECONFIG";
pub(crate) const TTL_SECS: &str = "INTEROP_TTL_SECS";

pub(crate) fn is_this_process() -> bool {
    env::var_os(LEASE).is_some()
}

/// With the milliseconds of the clock that every process of the host shares.
fn say(what: &str) {
    println!("{what} {}", Clock::boot().now().0 / 1_000_000);
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let lease = LeaseName::new(env::var(LEASE)?)?;
    let ttl = Duration::from_secs(env::var(TTL_SECS)?.parse()?);
    let config = K8sConfig::kubeconfig(env::var_os(KUBECONFIG).map(Into::into));
    let workload = WorkloadId::new(format!("ours-{}", std::process::id()))?;
    let elector = Elector::builder(K8s::connector(config), lease, workload).ttl(ttl).build()?;
    let mut terminate = signal(SignalKind::terminate())?;
    say("candidate");
    let lead = |leadership: lease_core::Leadership| async move {
        say(&format!("leads {}", leadership.term().epoch));
        while leadership.should_continue() {
            // Checked and done at once: a moment that is stamped before the check is one at which it led.
            let now = Clock::boot().now().0 / 1_000_000;
            if leadership.is_leader_now() {
                println!("acts {} {now}", leadership.term().epoch);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        say("ended");
        anyhow::Ok(())
    };
    let stop = async move {
        let _ = terminate.recv().await;
    };
    elector.run_until(stop, lead).await?;
    Ok(())
}
