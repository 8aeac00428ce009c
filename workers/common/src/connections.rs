//! The places of a listener's connections: a bounded number, and whoever only waits makes room.
//!
//! Whoever opens connections without end must neither shut others out nor use up the descriptors that a renewal needs
//! to connect again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Descriptors of a process whose limit is not known.
const FEW: u64 = 1_024;

/// Lets this process have as many descriptors as the system allows it.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, the places are those of the lower limit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// What a listener may take of the descriptors that this process may have: a role has two listeners at most, and needs
/// some for its stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) eighths: u64,
    pub(crate) at_most: u64,
}

impl Share {
    fn places(self) -> usize {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(FEW);
        (descriptors / 8).saturating_mul(self.eighths).clamp(8, self.at_most) as usize
    }
}

/// How long a connection may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitLimits {
    /// For its first request.
    pub(crate) first: Duration,
    /// For its next one.
    pub(crate) idle: Duration,
    /// To take the next part of a response.
    pub(crate) unread: Duration,
}

/// See the module.
pub(crate) struct Places {
    most: usize,
    /// Never used by work: for probes and scrapes while every other place is busy.
    reserved: usize,
    patience: WaitLimits,
    taken: Mutex<Taken>,
    /// A connection has ended, or waits for its next request.
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// How many carry requests.
    busy: usize,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    /// How many requests it carries.
    requests: usize,
    /// Has it ever carried one?
    served: bool,
    /// The time from which on it has waited, if it carries none.
    since: Instant,
    /// Responses whose next part waits for the client, and since when.
    unread: BTreeMap<u64, Instant>,
    evicted: CancellationToken,
}

impl Places {
    /// As many as the listener's share.
    pub(crate) fn of(share: Share, patience: WaitLimits) -> Arc<Self> {
        Self::new(share.places(), patience)
    }

    /// `most` connections may be busy at once.
    fn new(most: usize, patience: WaitLimits) -> Arc<Self> {
        let reserved = most.div_ceil(8);
        Arc::new(Self { most, reserved, patience, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place for one more connection. When places are short, the one that has waited longest for a request loses
    /// its own; those that never had one first. Cancel safe.
    pub(crate) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            freed.await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.lock();
        let staying = || taken.connections.values().filter(|it| !it.evicted.is_cancelled());
        // Those that make room already need their time to go: nobody else has to for that.
        if staying().count() >= self.most {
            let waiting = staying().filter(|it| it.requests == 0);
            if let Some(longest) = waiting.min_by_key(|it| (it.served, it.since)) {
                longest.evicted.cancel();
            }
        }
        if taken.connections.len() >= self.most + self.reserved {
            return None;
        }
        let (id, evicted) = (taken.next, CancellationToken::new());
        taken.next += 1;
        let connection = Connection {
            requests: 0,
            served: false,
            since: Instant::now(),
            unread: BTreeMap::new(),
            evicted: evicted.clone(),
        };
        taken.connections.insert(id, connection);
        Some(Place { places: self.clone(), id, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    evicted: CancellationToken,
}

impl Place {
    /// Shows a page, which keeps no place: it waits for its next request from now on.
    pub(crate) fn shows_a_page(&self) {
        let mut taken = self.places.lock();
        if let Some(connection) = taken.connections.get_mut(&self.id).filter(|it| it.requests == 0) {
            connection.served = true;
            connection.since = Instant::now();
        }
    }

    /// Begins a request; `None` if as many connections as may be are busy.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Carried> {
        let mut taken = self.places.lock();
        let full = taken.busy >= self.places.most;
        let id = taken.next;
        let connection = taken.connections.get_mut(&self.id)?;
        if connection.requests == 0 {
            if full {
                return None;
            }
            taken.busy += 1;
        }
        taken.next += 1;
        let connection = taken.connections.get_mut(&self.id)?;
        connection.requests += 1;
        connection.served = true;
        Some(Carried { place: self.clone(), id })
    }

    /// Resolves when another connection needs the place more.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Resolves when it has carried no request for too long, or its client doesn't read its responses.
    pub(crate) async fn overdue(&self) {
        loop {
            let until = {
                let taken = self.places.lock();
                let Some(connection) = taken.connections.get(&self.id) else { return };
                let WaitLimits { first, idle, unread } = self.places.patience;
                let now = Instant::now();
                let waits = match connection.requests {
                    0 => connection.since + if connection.served { idle } else { first },
                    // It is looked at again; a shorter wait may begin any time from now on.
                    _ => now + first.min(unread),
                };
                let unread = connection.unread.values().min().map(|since| *since + unread);
                let until = unread.map_or(waits, |until| until.min(waits));
                if until <= now {
                    return;
                }
                until
            };
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if taken.connections.remove(&self.id).is_some_and(|connection| connection.requests > 0) {
            taken.busy -= 1;
        }
        drop(taken);
        self.places.freed.notify_one();
    }
}

/// A request that a connection carries, until its response has left.
pub(crate) struct Carried {
    place: Arc<Place>,
    id: u64,
}

impl Carried {
    /// Its response waits for the client, from now on, or waits for us.
    pub(crate) fn waits_for_the_client(&self, waits: bool) {
        let mut taken = self.place.places.lock();
        let Some(connection) = taken.connections.get_mut(&self.place.id) else { return };
        if waits {
            connection.unread.insert(self.id, Instant::now());
        } else {
            connection.unread.remove(&self.id);
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let places = &self.place.places;
        let mut taken = places.lock();
        let Some(connection) = taken.connections.get_mut(&self.place.id) else { return };
        connection.unread.remove(&self.id);
        connection.requests -= 1;
        if connection.requests == 0 {
            connection.since = Instant::now();
            taken.busy -= 1;
            drop(taken);
            places.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const PATIENCE: WaitLimits = WaitLimits {
        first: Duration::from_millis(10),
        idle: Duration::from_millis(100),
        unread: Duration::from_millis(50),
    };

    fn enter(places: &Arc<Places>) -> Option<Arc<Place>> {
        places.enter().now_or_never().map(Arc::new)
    }

    #[tokio::test]
    async fn who_never_asked_makes_room_before_who_waits_for_a_next_request() {
        let places = Places::new(3, PATIENCE);
        let [served, silent, busy] = std::array::from_fn(|_| enter(&places).expect("free"));
        drop(served.begin().expect("free"));
        let _carried = busy.begin().expect("free");
        let evicted = |place: &Arc<Place>| place.evicted().now_or_never().is_some();
        let _fourth = enter(&places).expect("reserved");
        assert!(evicted(&silent) && !evicted(&served) && !evicted(&busy));
        drop(silent);
        let fifth = enter(&places).expect("reserved");
        assert!(!evicted(&served) && !evicted(&fifth), "the fourth has never asked either, and longer");
    }

    #[tokio::test]
    async fn as_many_make_room_as_come_also_while_those_before_them_are_still_going() {
        let places = Places::new(3, PATIENCE);
        let [served, first, _second] = std::array::from_fn(|_| enter(&places).expect("free"));
        drop(served.begin().expect("free"));
        let _third = enter(&places).expect("reserved");
        // Full, and the first has not gone yet: looking for a place again and again costs nobody theirs.
        assert!((0..3).all(|_| enter(&places).is_none()));
        assert!(served.evicted().now_or_never().is_none());
        drop(first);
        assert!(enter(&places).is_some());
        assert!(served.evicted().now_or_never().is_none());
    }

    #[tokio::test]
    async fn only_pages_are_served_while_all_places_are_busy() {
        let places = Places::new(2, PATIENCE);
        let busy: Vec<_> = std::iter::repeat_with(|| enter(&places).expect("free")).take(2).collect();
        let carried: Vec<_> = busy.iter().map(|place| place.begin().expect("free")).collect();
        let probe = enter(&places).expect("reserved");
        assert!(probe.begin().is_none());
        probe.shows_a_page();
        assert!(
            probe.evicted().now_or_never().is_none() && busy[0].begin().is_some(),
            "whoever is busy may ask for more"
        );
        let next = enter(&places);
        assert!(
            probe.evicted().now_or_never().is_some(),
            "who has had its page makes room for the next probe"
        );
        drop((next, carried));
        assert!(probe.begin().is_some());
    }

    #[tokio::test]
    async fn a_connection_has_little_time_for_its_first_request_and_more_for_the_next() {
        let places = Places::new(2, PATIENCE);
        let began = Instant::now();
        let place = enter(&places).expect("free");
        place.overdue().await;
        assert!(began.elapsed() >= PATIENCE.first);
        let began = Instant::now();
        drop(place.begin());
        place.overdue().await;
        assert!(began.elapsed() >= PATIENCE.idle, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_response_that_nobody_reads_is_given_up() {
        let places = Places::new(2, PATIENCE);
        let place = enter(&places).expect("free");
        let carried = place.begin().expect("free");
        assert!(tokio::time::timeout(PATIENCE.idle * 2, place.overdue()).await.is_err(), "its work goes on");
        let began = Instant::now();
        carried.waits_for_the_client(true);
        place.overdue().await;
        assert!(began.elapsed() >= PATIENCE.unread, "{:?}", began.elapsed());
    }
}
