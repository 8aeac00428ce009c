//! The elector's way to its store: connected, watched, and connected anew when it says that it is disconnected
//! (`docs/decisions/0095-connected-anew.md`).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::messages::Event;
use crate::backend::{Capabilities, Connector, Hint, LeaseBackend};
use crate::clock::Clock;
use crate::error::BackendError;
use crate::events::EventKind;
use crate::record::LeaseName;

/// No attempt to connect is cut sooner: with a short ttl on a busy host none would ever succeed. No deadline depends on
/// how long it takes.
pub(super) const SHORTEST_CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Tells what happens, also from a task beside the driver's.
pub(super) type Teller = Arc<dyn Fn(EventKind) + Send + Sync>;

/// How to connect.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) connector: Arc<dyn Connector>,
    pub(super) clock: Clock,
    /// An attempt is given up after this.
    pub(super) limit: Duration,
    /// Between two attempts.
    pub(super) pause: Duration,
    pub(super) tell: Teller,
}

impl Opener {
    /// Connects, again and again, until it succeeds or fails in a way that `ends` it.
    pub(super) async fn open(
        &self,
        ends: fn(&BackendError) -> bool,
    ) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        loop {
            let limit = self.clock.now().plus(self.limit);
            let attempt = tokio::select! {
                biased;
                attempt = self.connector.connect() => attempt,
                () = self.clock.sleep_until(limit) => {
                    Err(BackendError::not_applied("connecting took too long; is the store reachable?"))
                }
            };
            match attempt {
                Err(error) if !ends(&error) => {
                    (self.tell)(EventKind::StoreFailed { operation: "connect", error: format!("{error:#}") });
                }
                ended => return ended,
            }
            self.clock.sleep_until(self.clock.now().plus(self.pause)).await;
        }
    }
}

/// What the elector calls, and the tasks around it.
pub(super) struct Connection {
    opener: Opener,
    name: LeaseName,
    capabilities: Capabilities,
    /// `None` while it is connected anew. Nothing here keeps a disconnected one: some stores let only one be open.
    backend: Option<Arc<dyn LeaseBackend>>,
    /// The number of the present backend, or of the one that is awaited.
    pub(super) number: u32,
    anew: JoinSet<Result<Arc<dyn LeaseBackend>, BackendError>>,
    watch: JoinSet<()>,
    hint: mpsc::Sender<Event>,
    hints: mpsc::Receiver<Event>,
}

impl Connection {
    pub(super) fn new(opener: Opener, name: LeaseName, backend: Arc<dyn LeaseBackend>) -> Self {
        let (hint, hints) = mpsc::channel(HINTS);
        let (capabilities, watch) = (backend.capabilities(), JoinSet::new());
        let (anew, number) = (JoinSet::new(), 0);
        let mut connection =
            Self { opener, name, capabilities, backend: None, number, anew, watch, hint, hints };
        connection.use_it(backend);
        connection
    }

    /// The backend to call.
    pub(super) fn backend(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        let not_sent = || BackendError::not_applied("nothing was sent: the store is being connected anew");
        self.backend.clone().ok_or_else(not_sent)
    }

    /// A call on backend `number` has said that it is disconnected: connects anew, if that is the present one.
    pub(super) fn disconnected(&mut self, number: u32) {
        if number != self.number || self.backend.take().is_none() {
            return;
        }
        self.number += 1;
        self.watch = JoinSet::new();
        // Nothing that the old watch has yet to say gets through.
        (self.hint, self.hints) = mpsc::channel(HINTS);
        if self.capabilities.watch {
            let _ = self.hint.try_send(Event::Watching(false));
        }
        let opener = self.opener.clone();
        self.anew.spawn(async move { opener.open(|error| error.gone).await });
    }

    /// The next hint or news of the watch; a tick when it was connected anew. Cancel-safe.
    ///
    /// # Errors
    /// What was opened is gone for good.
    pub(super) async fn news(&mut self) -> Result<Event, BackendError> {
        let opened = tokio::select! {
            biased;
            Some(opened) = self.anew.join_next(), if !self.anew.is_empty() => opened,
            Some(event) = self.hints.recv() => return Ok(event),
        };
        let panicked =
            |panic| BackendError::gone(format!("connecting anew panicked: {panic}; start the process anew"));
        let backend = opened.map_err(panicked)??;
        check_is_the_same(&*backend, &self.capabilities)?;
        self.use_it(backend);
        Ok(Event::Tick)
    }

    fn use_it(&mut self, backend: Arc<dyn LeaseBackend>) {
        if self.capabilities.watch {
            let Opener { clock, pause, tell, .. } = self.opener.clone();
            self.watch.spawn(watch(
                backend.clone(),
                self.name.clone(),
                clock,
                pause,
                self.hint.clone(),
                tell,
            ));
        }
        self.backend = Some(backend);
    }
}

/// The rules that the elector goes by came from the capabilities that it found first.
///
/// # Errors
/// The backend that was connected anew has others: it is gone for good.
pub(super) fn check_is_the_same(
    anew: &dyn LeaseBackend,
    capabilities: &Capabilities,
) -> Result<(), BackendError> {
    let now = anew.capabilities();
    if now == *capabilities {
        return Ok(());
    }
    Err(BackendError::gone(format!(
        "the store was connected anew and is another one: its capabilities are {now:?}, and were {capabilities:?}; start \
         the process anew"
    )))
}

/// A plain hint that waits already stands for later ones.
const HINTS: usize = 4;

/// Keeps a watch open and passes its hints on.
async fn watch(
    backend: Arc<dyn LeaseBackend>,
    name: LeaseName,
    clock: Clock,
    pause: Duration,
    events: mpsc::Sender<Event>,
    tell: Teller,
) {
    let mut told = false;
    loop {
        let watched = backend.watch(name.as_str()).await;
        if let Err(error) = &watched
            && error.refused
            && !told
        {
            told = true;
            tell(EventKind::WatchRefused(format!("{error:#}")));
        }
        if let Ok(mut hints) = watched {
            told = false;
            if events.send(Event::Watching(true)).await.is_err() {
                return;
            }
            // Changes before the watch was live are not hinted at: look once.
            let _ = events.try_send(Event::Hint);
            while let Some(hint) = hints.next().await {
                match hint {
                    Hint::Changed => {
                        let _ = events.try_send(Event::Hint);
                    }
                    Hint::Shows(lease, observation) if lease == name => {
                        let _ = events.send(Event::Shown(observation)).await;
                    }
                    // A lease whose name begins with ours.
                    Hint::Shows(..) => {}
                }
            }
            if events.send(Event::Watching(false)).await.is_err() {
                return;
            }
        }
        clock.sleep_until(clock.now().plus(pause)).await;
    }
}
