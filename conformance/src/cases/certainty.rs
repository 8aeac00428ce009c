//! The backend's own word for a write whose reply is lost, and what an elector makes of it (U-2).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use async_trait::async_trait;
use lease_core::{BackendError, LeaseBackend, admin};

use crate::actor::ActorSpec;
use crate::case::{Need, cases};
use crate::context::{Cx, record};
use crate::harness::{Facility, Harness};

cases! { "certainty":
    an_acquisition_whose_reply_is_lost_begins_the_term_that_it_wrote needs [Need::Facility(Facility::LoseReply)],
}

/// The same store, where the first connection loses the reply to its first write.
struct Losing {
    inner: Arc<dyn Harness>,
    lost: AtomicBool,
}

#[async_trait]
impl Harness for Losing {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn prefix(&self) -> &str {
        self.inner.prefix()
    }

    fn ttl(&self) -> Duration {
        self.inner.ttl()
    }

    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        if self.lost.swap(true, Ordering::SeqCst) {
            return self.inner.connect().await;
        }
        let losing = self.inner.connect_losing_the_next_reply().await;
        losing.map_err(|missing| BackendError::refused(missing.to_string()))
    }
}

/// One that takes it for not applied finds another's grant in the register, and waits for its own to expire.
async fn an_acquisition_whose_reply_is_lost_begins_the_term_that_it_wrote(cx: Arc<Cx>) -> anyhow::Result<()> {
    let losing = Losing { inner: cx.harness.clone(), lost: AtomicBool::new(false) };
    let lossy = cx.on(Arc::new(losing));
    let backend = cx.harness.connect().await?;
    let how = admin::Init { new: true, above: 0, max_ttl: cx.ttl() };
    admin::init(&*backend, &lossy.lease(), how).await?;
    // In half of it the first attempt must be confirmed.
    let mut actor = lossy.start(ActorSpec { ttl: cx.ttl() * 6, ..lossy.spec("a") })?;
    let term = actor.leads().await?;
    let seen = backend.observe(&lossy.lease()).await?;
    ensure!(
        record(&seen)?.transitions == 1 && record(&seen)?.term() == Some(term.term()),
        "the first acquisition was applied, so its term is the one to begin, without an expiry in between: {seen:?}"
    );
    lossy.judge().await
}
