//! Who leads, by the pods' own pages.

use super::pods::{self, Pod};
use super::site::Site;

pub(super) const FORWARDER: &str = "outbox-forwarder";
pub(super) const SWEEPER: &str = "ttl-sweeper";

/// The one pod that leads, once exactly one does; none on the node that is `lost`.
pub(super) async fn one_leader(site: &Site, role: &str, lost: Option<&str>) -> anyhow::Result<Pod> {
    let what = format!("exactly one pod leads {role}");
    site.until(&what, || pods::leader(&site.client, role, lost)).await
}
