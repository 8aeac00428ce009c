//! The elector as its user sees it, on the reference backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use lease_core::admin::AdminError;
use lease_core::{
    BackendError, Capabilities, Change, Elector, ElectorBuilder, Ended, EventKind, Hints, Leadership,
    LeaseBackend, LeaseEvent, LeaseName, Loss, ManualClock, Memory, Observation, PutOutcome, Record,
    Revocation, RunError, StopReason, Term, WorkloadId, admin,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;

const TTL: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);

fn name() -> LeaseName {
    LeaseName::new("forwarder").unwrap()
}

fn elector(store: &Memory, holder: &str) -> ElectorBuilder {
    Elector::builder(store.connector(), name(), WorkloadId::new(holder).unwrap()).ttl(TTL)
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

type Running = tokio::task::JoinHandle<Result<Ended, RunError<String>>>;

/// Runs an elector whose work says that it leads and then waits to be stopped.
fn spawn(builder: ElectorBuilder) -> (mpsc::Receiver<Leadership>, oneshot::Sender<()>, Running) {
    run(builder.build().unwrap())
}

fn run(elector: Elector) -> (mpsc::Receiver<Leadership>, oneshot::Sender<()>, Running) {
    let (began, begun) = mpsc::channel(8);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(elector.run_until(
        async move {
            let _ = stopped.await;
        },
        move |leadership| {
            let began = began.clone();
            async move {
                began.send(leadership.clone()).await.unwrap();
                leadership.stop_requested().await;
                Ok(())
            }
        },
    ));
    (begun, stop, task)
}

#[tokio::test]
async fn leads_and_releases_on_shutdown() {
    let store = Memory::new();
    let (mut begun, stop, task) = spawn(elector(&store, "a"));
    let leadership = soon("a term", begun.recv()).await.unwrap();
    assert!(leadership.is_leader_now());
    stop.send(()).unwrap();
    assert_eq!(soon("the end", task).await.unwrap().unwrap(), Ended::Shutdown);
    assert!(!leadership.is_leader_now());
    assert_eq!(leadership.lost().await, Loss::Returned);
    let record = store.observe(&name()).await.unwrap().record.unwrap();
    assert_eq!((record.grant, record.epoch), (None, leadership.term().epoch));
}

#[tokio::test]
async fn a_release_hands_over_without_waiting_for_the_ttl() {
    let store = Memory::new();
    let slow = Duration::from_secs(3600);
    let (mut begun, stop, task) = spawn(elector(&store, "a").ttl(slow));
    let first = soon("a term", begun.recv()).await.unwrap();
    let (mut next, stop_next, next_task) = spawn(elector(&store, "b").ttl(slow));
    stop.send(()).unwrap();
    let second = soon("the successor", next.recv()).await.unwrap();
    assert!(second.term().epoch > first.term().epoch && !first.is_leader_now());
    soon("the end", task).await.unwrap().unwrap();
    stop_next.send(()).unwrap();
    soon("the end", next_task).await.unwrap().unwrap();
}

#[tokio::test]
async fn releases_only_after_the_work_has_returned() {
    let store = Memory::new();
    let (began, mut begun) = mpsc::channel(1);
    let (drained, mut may_drain) = mpsc::channel::<()>(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let run = elector(&store, "a").build().unwrap().run_until(
        async move {
            let _ = stopped.await;
        },
        move |leadership| {
            let began = began.clone();
            let drained = drained.clone();
            async move {
                began.send(()).await.unwrap();
                leadership.stop_requested().await;
                assert!(leadership.is_leader_now(), "the lease is kept while the work drains");
                assert_eq!(leadership.stop_reason(), Some(&StopReason::Shutdown));
                // Drain for longer than a ttl: the lease must be renewed meanwhile.
                tokio::time::sleep(TTL * 2).await;
                assert!(leadership.is_leader_now());
                drained.send(()).await.unwrap();
                Ok::<_, String>(())
            }
        },
    );
    let task = tokio::spawn(run);
    soon("a term", begun.recv()).await.unwrap();
    stop.send(()).unwrap();
    let mut events = store.watch("").await.unwrap();
    while may_drain.try_recv().is_err() {
        assert!(store.observe(&name()).await.unwrap().grant().is_some(), "released before the work returned");
        soon("a beat or the release", events.next()).await;
    }
    soon("the end", task).await.unwrap().unwrap();
    assert!(store.observe(&name()).await.unwrap().grant().is_none());
}

#[tokio::test]
async fn a_panic_in_the_work_counts_as_its_return() {
    let store = Memory::new();
    let run = elector(&store, "a").build().unwrap().run_until(std::future::pending(), |_| async {
        if true {
            panic!("out of cheese");
        }
        Ok::<_, String>(())
    });
    match soon("the end", run).await {
        Err(RunError::Panicked(message)) => assert_eq!(message, "out of cheese"),
        other => panic!("expected the panic, got {other:?}"),
    }
    assert!(store.observe(&name()).await.unwrap().grant().is_none(), "released");
}

#[tokio::test]
async fn an_error_of_the_work_releases_and_is_returned() {
    let store = Memory::new();
    let run =
        elector(&store, "a").build().unwrap().run_until(std::future::pending(), |_| async { Err("no disk") });
    assert!(matches!(soon("the end", run).await, Err(RunError::Work("no disk"))));
    assert!(store.observe(&name()).await.unwrap().grant().is_none(), "released");
}

#[tokio::test]
async fn work_that_finishes_ends_the_run() {
    let store = Memory::new();
    let run = elector(&store, "a").build().unwrap();
    let run = run.run_until(std::future::pending(), |_| async { Ok::<_, String>(()) });
    assert_eq!(soon("the end", run).await.unwrap(), Ended::Finished);
    assert!(store.observe(&name()).await.unwrap().grant().is_none(), "released");
}

#[tokio::test]
async fn work_that_ignores_the_stop_is_given_up_without_a_release() {
    let store = Memory::new();
    let run = elector(&store, "a").stop_budget(Duration::from_millis(50)).build().unwrap();
    let run = run.run_until(std::future::ready(()), |_| std::future::pending::<Result<(), String>>());
    // Shutdown comes before the first term here, so nothing is ever held.
    assert_eq!(soon("the end", run).await.unwrap(), Ended::Shutdown);

    let (began, begun) = oneshot::channel();
    let mut began = Some(began);
    let run = elector(&store, "a").stop_budget(Duration::from_millis(50)).build().unwrap().run_until(
        async move {
            begun.await.unwrap();
        },
        move |_| {
            let _ = began.take().map(|began| began.send(()));
            std::future::pending::<Result<(), String>>()
        },
    );
    assert!(matches!(soon("the end", run).await, Err(RunError::StopBudgetExceeded)));
    assert!(store.observe(&name()).await.unwrap().grant().is_some(), "not released");
}

#[tokio::test]
async fn a_dropped_run_releases_in_the_background() {
    let store = Memory::new();
    let (mut begun, _stop, task) = spawn(elector(&store, "a"));
    soon("a term", begun.recv()).await.unwrap();
    task.abort();
    let mut hints = store.watch("").await.unwrap();
    while store.observe(&name()).await.unwrap().grant().is_some() {
        soon("the release", hints.next()).await;
    }
}

#[tokio::test]
async fn steps_down_when_asked_and_lets_the_other_one_lead() {
    let store = Memory::new();
    let (mut begun, _stop, _task) = spawn(elector(&store, "a"));
    let first = soon("a term", begun.recv()).await.unwrap();
    let (mut next, _stop_next, _next_task) = spawn(elector(&store, "b"));
    let (id, _) = admin::request_step_down(&store, &name(), "operator").await.unwrap();
    let second = soon("the successor", next.recv()).await.unwrap();
    assert!(second.term().epoch > first.term().epoch);
    assert_eq!(first.stop_reason(), Some(&StopReason::StepDown { id, by: "operator".into() }));
    let history = store.history(&name(), 10).await.unwrap();
    let told: Vec<_> =
        history.iter().map(|row| (row.event_type.as_str(), row.holder_workload_id.as_str())).collect();
    assert_eq!(told, [("acquired", "a"), ("stepped_down", "a"), ("taken_over", "b")]);
}

#[tokio::test]
async fn a_revoked_holder_ends_at_once_and_the_lease_is_waited_out() {
    let store = Memory::new();
    let (mut begun, _stop, _task) = spawn(elector(&store, "a"));
    let first = soon("a term", begun.recv()).await.unwrap();
    admin::revoke(&store, &name(), admin::Revoke::default()).await.unwrap();
    assert_eq!(soon("the loss", first.lost()).await, Loss::Revoked);
    let again = soon("a later term", begun.recv()).await.unwrap();
    assert!(again.term().epoch > first.term().epoch);
}

#[tokio::test]
async fn a_standby_takes_the_lease_of_a_revoked_holder_and_is_told_who_revoked_it() {
    let store = Memory::new();
    let (mut begun, _stop, _task) = spawn(elector(&store, "a"));
    let first = soon("a term", begun.recv()).await.unwrap();
    let standby = elector(&store, "b").build().unwrap();
    let mut events = standby.events();
    let (mut next, _stop_next, _next_task) = run(standby);
    let how = admin::Revoke { by: "op", note: "stuck", ..Default::default() };
    let revoked = async {
        loop {
            match events.next().await.expect("events").map(|event| event.kind) {
                Ok(EventKind::Following(term)) if term == first.term() => {
                    admin::revoke(&store, &name(), how).await.unwrap();
                }
                Ok(EventKind::Revoked { by, note, hold_off }) => return (by, note, hold_off),
                _ => {}
            }
        }
    };
    assert_eq!(soon("the news", revoked).await, ("op".to_owned(), "stuck".to_owned(), None));
    assert_eq!(soon("the loss", first.lost()).await, Loss::Revoked);
    let second = soon("the successor", next.recv()).await.unwrap();
    assert!(second.term().epoch > first.term().epoch && begun.try_recv().is_err());
}

#[tokio::test]
async fn no_lease_is_lifted_to_where_no_term_could_follow() {
    let store = Memory::new();
    admin::init(&store, &name(), admin::Init { new: true, above: 0, max_ttl: TTL }).await.unwrap();
    let far = Term::MAX_ABOVE + 1;
    let error = admin::fence_raise(&store, &name(), far, "").await.unwrap_err();
    assert!(matches!(error, AdminError::AboveCeiling(above) if above == far), "{error}");
    assert!(error.to_string().contains(&Term::MAX_ABOVE.to_string()), "it names the greatest: {error}");
    let how = admin::Init { new: true, above: u64::MAX, max_ttl: TTL };
    assert!(matches!(admin::init(&store, &name(), how).await, Err(AdminError::AboveCeiling(_))));
    let raised = admin::fence_raise(&store, &name(), Term::MAX_ABOVE, "").await.unwrap();
    assert!(raised.next_epoch() < Term::MAX_EPOCH);
}

#[tokio::test]
async fn a_fence_that_is_raised_keeps_the_hold_off_of_an_earlier_revocation() {
    let store = Memory::new();
    let closed = admin::Init { new: false, above: 0, max_ttl: TTL };
    admin::init(&store, &name(), closed).await.unwrap();
    let revocation = |seen: &Observation| Revocation::of(seen.record.as_ref().unwrap()).unwrap();
    for (hold_off, kept) in [(Duration::ZERO, None), (TTL * 9, Some("a"))] {
        let how = admin::Revoke { by: "op", except: Some("a"), hold_off, ..Default::default() };
        admin::revoke(&store, &name(), how).await.unwrap();
        let raised = admin::fence_raise(&store, &name(), 100, "").await.unwrap();
        let revocation = revocation(&raised);
        assert_eq!((revocation.except.as_deref(), revocation.hold_off()), (kept, hold_off));
        assert!(revocation.ended_the_last_term(raised.record.as_ref().unwrap()));
    }
}

#[tokio::test]
async fn a_fence_refusal_ends_the_term_and_raises_no_epoch() {
    let store = Memory::new();
    let (mut begun, _stop, _task) = spawn(elector(&store, "a"));
    let first = soon("a term", begun.recv()).await.unwrap();
    first.fence_refused();
    assert!(!first.is_leader_now(), "at once");
    assert_eq!(soon("the loss", first.lost()).await, Loss::FenceRefused);
    let again = soon("a later term", begun.recv()).await.unwrap();
    assert_eq!(again.term().epoch, first.term().epoch + 1, "only the next acquisition's own step");
}

/// A task of the old term may wake up late, and be refused, when this process leads again.
#[tokio::test]
async fn a_fence_refusal_of_an_earlier_term_does_not_end_the_present_one() {
    let store = Memory::new();
    let elector = elector(&store, "a").build().unwrap();
    let mut events = elector.events();
    let (mut begun, _stop, _task) = run(elector);
    let first = soon("a term", begun.recv()).await.unwrap();
    admin::request_step_down(&store, &name(), "operator").await.unwrap();
    let second = soon("a later term", begun.recv()).await.unwrap();
    first.fence_refused();
    // Events until now say nothing about the refusal; the second beat from here was sent after it was heard.
    while let Some(Some(_)) = events.next().now_or_never() {}
    for _ in 0..2 {
        let renewed = async {
            while events.next().await.unwrap().unwrap().kind != EventKind::Renewed(second.term()) {}
        };
        soon("a beat of the later term", renewed).await;
    }
    assert!(second.is_leader_now(), "only the first term was refused");
}

#[tokio::test]
async fn a_vanished_register_ends_the_term_and_heals_closed_above_its_epoch() {
    let store = Memory::new().losing_registers();
    let how = admin::Init { new: true, above: 41, max_ttl: TTL };
    admin::init(&store, &name(), how).await.unwrap();
    let (mut begun, _stop, _task) = spawn(elector(&store, "a"));
    let first = soon("a term", begun.recv()).await.unwrap();
    assert_eq!(first.term().epoch, 42);
    store.delete(&name());
    assert_eq!(soon("the loss", first.lost()).await, Loss::RegisterGone);
    let again = soon("a later term", begun.recv()).await.unwrap();
    assert!(again.term().epoch > first.term().epoch + 1, "the healed register's closed grant lies between");
}

#[tokio::test]
async fn nobody_acquires_from_absence() {
    let store = Memory::new().losing_registers();
    let builder = elector(&store, "a");
    let elector = builder.build().unwrap();
    let mut events = elector.events();
    let led = Arc::new(AtomicBool::new(false));
    let leads = led.clone();
    let task = tokio::spawn(elector.run_until(std::future::pending(), move |_| {
        leads.store(true, Ordering::SeqCst);
        async { Ok::<_, String>(()) }
    }));
    loop {
        let event: LeaseEvent = soon("the complaint", events.next()).await.unwrap().unwrap();
        if event.kind == EventKind::RegisterAbsent {
            break;
        }
    }
    assert!(!led.load(Ordering::SeqCst));
    admin::init(&store, &name(), admin::Init { new: true, above: 0, max_ttl: TTL }).await.unwrap();
    assert_eq!(soon("the end", task).await.unwrap().unwrap(), Ended::Finished);
}

/// The caller's runtime is blocked for several ttls; beats must not wait for it (docs/protocol.md, "One lease thread").
#[test]
fn a_blocked_runtime_of_the_callers_delays_no_renewal() {
    let store = Memory::new();
    let beats = Arc::new(AtomicU32::new(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let elector = elector(&store, "a").build().unwrap();
        let mut events = elector.events();
        let counted = beats.clone();
        lease_core::internal::lease_thread::handle().spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                if matches!(event.kind, EventKind::Renewed(_)) {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let beats = beats.clone();
        let work = move |leadership: Leadership| {
            let beats = beats.clone();
            async move {
                std::thread::sleep(TTL * 3); // What no async code should do, and some does.
                assert!(leadership.is_leader_now());
                assert!(beats.load(Ordering::SeqCst) >= 6, "renewed at least twice a ttl");
                Ok::<_, String>(())
            }
        };
        assert_eq!(elector.run_until(std::future::pending(), work).await.unwrap(), Ended::Finished);
    });
}

/// H-4: others don't wait for ever for work that hangs.
#[tokio::test]
async fn work_that_hangs_loses_its_lease_and_campaigns_again_once_it_returns() {
    let store = Memory::new();
    let (began, mut begun) = mpsc::channel(8);
    let (unhang, hanging) = oneshot::channel::<()>();
    let mut hanging = Some(hanging);
    let silence = Duration::from_secs(3);
    let run = elector(&store, "a").max_silence(silence).build().unwrap().run_until(
        std::future::pending(),
        move |leadership| {
            let (began, hanging) = (began.clone(), hanging.take());
            async move {
                began.send(leadership.clone()).await.unwrap();
                match hanging {
                    Some(hanging) => hanging.await.unwrap(),
                    None => leadership.idle(LIMIT).await,
                }
                Ok::<_, String>(())
            }
        },
    );
    let _task = tokio::spawn(run);
    let first = soon("a term", begun.recv()).await.unwrap();
    let (mut next, stop_next, _next_task) = spawn(elector(&store, "b"));
    let second = soon("a successor", next.recv()).await.unwrap();
    assert!(!first.is_leader_now() && second.term().epoch == first.term().epoch + 1);
    assert_eq!(first.stop_reason(), Some(&StopReason::Silent(silence)));
    assert_eq!(first.lost().await, Loss::Silent);
    assert!(first.silent_for().unwrap() > silence, "as long as it hangs");
    unhang.send(()).unwrap();
    stop_next.send(()).unwrap();
    let third = soon("a term of work that gets on", begun.recv()).await.unwrap();
    // Idling is progress: beats go on for longer than the silence would allow.
    let began = tokio::time::Instant::now();
    while began.elapsed() < silence * 2 && third.should_continue() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(third.should_continue() && third.silent_for().is_none(), "{:?}", third.stop_reason());
}

#[test]
fn refuses_settings_that_break_the_arithmetic_and_says_which() {
    let store = Memory::new();
    let seconds = Duration::from_secs;
    for (builder, setting, says) in [
        (elector(&store, "a").ttl(Duration::from_millis(5)), "ttl", "use 100ms to 86400s"),
        (elector(&store, "a").ttl(seconds(15)).renew_every(seconds(6)), "renew_every", "ttl/3 = 5s"),
        (elector(&store, "a").ttl(seconds(15)).retry_every(seconds(9)), "retry_every", "renew_every = 5s"),
        (elector(&store, "a").ttl(seconds(15)).stop_grace(seconds(9)), "stop_grace", "leaves 4.97s"),
        (elector(&store, "a").max_silence(Duration::ZERO), "max_silence", "use 100ms to 86400s"),
        (elector(&store, "a").ttl(seconds(15)).max_ttl(seconds(9)), "max_ttl", "at least the ttl, 15s"),
    ] {
        let error = builder.build().err().expect("refused");
        assert_eq!(error.setting, setting);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_request_for_an_earlier_grant_is_void() {
    let store = Memory::new();
    let (mut begun, _stop, _task) = spawn(elector(&store, "a"));
    let first = soon("a term", begun.recv()).await.unwrap();
    let mut hints = store.watch("").await.unwrap();
    loop {
        let seen = store.observe(&name()).await.unwrap();
        let before = seen.record.clone().unwrap();
        let fresh = lease_core::internal::writes::Fresh::random();
        let other = lease_core::Grant::random();
        let id = lease_core::RequestId::random();
        let record = lease_core::internal::writes::request(&before, other, id, "somebody", &fresh);
        let put = store.put_if(&name(), &seen, &record, Change::Request).await.unwrap();
        if matches!(put, lease_core::PutOutcome::Written(_)) {
            break;
        }
    }
    // Three more beats, and nobody was told to stop.
    let beat = store.observe(&name()).await.unwrap().record.unwrap().beat;
    while store.observe(&name()).await.unwrap().record.unwrap().beat < beat + 3 {
        soon("a beat", hints.next()).await;
    }
    assert!(first.is_leader_now() && first.stop_reason().is_none());
}

/// A store whose watch can't work until somebody changes a setting.
struct Unwatchable(Memory, Arc<AtomicU32>);

#[async_trait::async_trait]
impl LeaseBackend for Unwatchable {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.0.observe(name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        self.0.put_if(name, expected, record, change).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { watch: true, ..self.0.capabilities() }
    }

    async fn watch(&self, _: &str) -> Result<Hints, BackendError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Err(BackendError::refused("a pooler stands in between"))
    }
}

#[tokio::test]
async fn a_watch_that_is_refused_is_told_of_once() {
    let asked = Arc::new(AtomicU32::new(0));
    let store: Arc<dyn LeaseBackend> = Arc::new(Unwatchable(Memory::new(), asked.clone()));
    let connect = move || std::future::ready(Ok(store.clone()));
    let elector = Elector::builder(connect, name(), WorkloadId::new("a").unwrap()).ttl(TTL).build().unwrap();
    let mut events = elector.events();
    let task = tokio::spawn(elector.run_until(std::future::pending(), |leadership| async move {
        leadership.stop_requested().await;
        Ok::<_, String>(())
    }));
    let mut told = Vec::new();
    while asked.load(Ordering::SeqCst) < 4 {
        let event: LeaseEvent = soon("an event", events.next()).await.unwrap().unwrap();
        if let EventKind::WatchRefused(why) = event.kind {
            told.push(why);
        }
    }
    assert_eq!(told, ["a pooler stands in between"]);
    task.abort();
}

#[tokio::test]
async fn a_view_shows_the_last_beat_and_the_time_that_is_left() {
    let (store, hand) = (Memory::new(), ManualClock::new());
    let shortened = TTL - TTL / 500;
    let leader = elector(&store, "a").clock(hand.clock()).build().unwrap();
    let view = leader.view();
    assert_eq!((view.epoch(), view.last_beat_age(), view.remaining()), (None, None, Duration::ZERO));
    let comes_to = async |what: &str, is: &dyn Fn() -> bool| {
        let polled = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(what, polled).await;
    };
    let (mut begun, stop, task) = run(leader);
    let leadership = soon("a term", begun.recv()).await.unwrap();
    assert_eq!(view.epoch(), Some(leadership.term().epoch));
    assert_eq!((view.last_beat_age(), view.remaining()), (Some(Duration::ZERO), shortened));

    let standby = elector(&store, "b").clock(hand.clock()).build().unwrap();
    let other = standby.view();
    let (_, stop_standby, standby_task) = run(standby);
    comes_to("the standby's look", &|| other.last_beat_age() == Some(Duration::ZERO)).await;
    // Too short a time for a renewal to be due, and for a look that is under way to be overdue.
    let moment = TTL / 40;
    hand.advance(moment);
    assert_eq!((view.last_beat_age(), view.remaining()), (Some(moment), shortened - moment));
    assert_eq!((other.last_beat_age(), other.remaining()), (Some(moment), Duration::ZERO));
    hand.advance(TTL / 2);
    comes_to("a renewal", &|| view.remaining() == shortened).await;
    assert_eq!(view.last_beat_age(), Some(Duration::ZERO));
    comes_to("its sight", &|| other.last_beat_age() == Some(Duration::ZERO)).await;
    assert_eq!((other.epoch(), other.remaining()), (view.epoch(), Duration::ZERO));

    stop_standby.send(()).unwrap();
    soon("the end", standby_task).await.unwrap().unwrap();
    stop.send(()).unwrap();
    soon("the end", task).await.unwrap().unwrap();
    assert_eq!(view.remaining(), Duration::ZERO);
}
