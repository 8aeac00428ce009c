//! The part of a node that its pods use.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use anyhow::Context;
use kube::Client;

use crate::{image::Image, services::Services};

/// A node as its pods see it.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
    /// With the rights of the node.
    pub(crate) client: Client,
    pub(crate) services: Arc<Services>,
    images: Arc<[Image]>,
    folder: PathBuf,
    /// The last byte of the address that was given out last.
    latest: AtomicU8,
}

impl Host {
    /// `number` is part of the addresses of its pods.
    pub(crate) fn new(
        name: &str,
        number: u8,
        client: Client,
        folder: &Path,
        images: Arc<[Image]>,
        services: Arc<Services>,
    ) -> Self {
        let (ip, folder) = (Ipv4Addr::new(10, 244, number, 1), folder.join(name));
        Self { name: name.to_owned(), ip, client, services, images, folder, latest: AtomicU8::new(1) }
    }

    pub(crate) fn image(&self, asked: &str) -> anyhow::Result<&Image> {
        self.images.iter().find(|image| image.is(asked)).with_context(|| {
            let known: Vec<_> = self.images.iter().map(|image| image.name.as_str()).collect();
            format!("there is no image {asked}: no image is pulled here; known are {}", known.join(", "))
        })
    }

    /// An address for a pod. Addresses are used again as late as possible.
    pub(crate) fn next_ip(&self) -> Ipv4Addr {
        let next = |latest: u8| Some(if latest >= 250 { 2 } else { latest + 1 });
        let latest = self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(1);
        let [a, b, c, _] = self.ip.octets();
        Ipv4Addr::new(a, b, c, next(latest).unwrap_or(2))
    }

    /// The folder of the pod with this uid.
    pub(crate) fn pod_folder(&self, uid: &str) -> PathBuf {
        self.folder.join("pods").join(uid)
    }

    /// The place on this machine of the node's `path`.
    pub(crate) fn host_path(&self, path: &str) -> PathBuf {
        self.folder.join("host").join(path.trim_start_matches('/'))
    }

    /// The folder of a pod's logs, one file a container.
    pub(crate) fn logs(&self, namespace: &str, pod: &str) -> PathBuf {
        self.folder.join("logs").join(namespace).join(pod)
    }
}
