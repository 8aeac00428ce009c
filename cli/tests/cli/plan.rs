//! `leasehold plan`: the elector's own arithmetic, for people and for machines.

use crate::common::Leasehold;

#[test]
fn it_says_what_the_settings_mean_and_asks_no_store() {
    let leasehold = Leasehold::bare();
    let text = leasehold.run(&["plan", "--ttl", "15s"]);
    for part in ["20s with a live watch, 16s without", "0.200/s writes", "1/500", "(30ms in this ttl)"] {
        assert!(text.ok().contains(part), "{part:?} is missing in: {}", text.out);
    }
    let args =
        ["plan", "--ttl", "15s", "--mode", "postgres", "--postgres-url", "postgres://nobody@127.0.0.1:1/x"];
    let plan = leasehold.run(&[&args[..], &["--standbys", "3", "--json"]].concat()).json().remove(0);
    let number = |path: &str| plan.pointer(path).and_then(serde_json::Value::as_f64).expect(path);
    for (path, value) in [
        // ttl·(1+1/500), and one look.
        ("/failover_worst_ms/polling", 15_030.0 + 1_000.0),
        ("/failover_worst_ms/watching", 15_030.0 + 5_000.0),
        ("/load_per_second/leader_writes", 0.2),
        ("/load_per_second/standbys_reads_watching", 0.6),
        ("/acted_on_for_ms", 14_970.0),
        ("/clock_rate_error_below", 0.002),
    ] {
        assert!((number(path) - value).abs() < 0.001, "{path} = {}, not {value}", number(path));
    }
    // ttl·(1−1/500) − renew − retry, and − stop_grace; the longest pause is a little below the interval.
    assert!((number("/tolerated_outage_ms/survived") - 8_970.0).abs() < 2.0, "{plan}");
    assert!((number("/tolerated_outage_ms/unnoticed") - 5_970.0).abs() < 2.0, "{plan}");
    assert_eq!(leasehold.files(), Vec::<String>::new());
}

#[test]
fn what_a_worker_would_refuse_is_refused() {
    let leasehold = Leasehold::bare();
    leasehold
        .run(&["plan", "--ttl", "15s", "--renew-interval", "6s"])
        .refused(&["--renew-interval = 6000ms is not allowed", "ttl/3 = 5s"]);
    leasehold
        .run(&["plan", "--stop-grace", "9s"])
        .refused(&["--stop-grace = 9000ms is not allowed", "leaves 4.97s"]);
    leasehold.run(&["plan", "--ttl", "15"]).refused(&["--ttl = \"15\"", "use a time with its unit"]);
}
