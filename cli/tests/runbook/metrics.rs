//! docs/metrics.md, against what real workers show.

use std::collections::{BTreeMap, BTreeSet};

use lease_testbed::wait_for;
use lease_worker_common::http_client;

use crate::sidecars::{LONG, ledger, sidecar};
use crate::site::{LIMIT, Site, Worker};

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Metrics by name: type and labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics that the page's table lists for a role.
fn listed(role: &str) -> Families {
    let table = PAGE.split_once("<!-- metrics -->").expect("the table").1;
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let [name, kind, labels, unit, roles, _, _] = cells[..] else { panic!("not seven cells: {row}") };
            let bare = |cell: &str| cell.trim_matches('`').to_owned();
            let labels = labels.split(", ").filter(|label| !label.is_empty()).map(bare).collect();
            let name = bare(name);
            for base in ["seconds", "bytes"] {
                assert_eq!(name.contains(&format!("_{base}")), unit == base, "{name} is in {unit}");
            }
            (roles, (name, (kind.to_owned(), labels)))
        })
        .collect();
    assert!(rows.len() > 40, "the table was read");
    let is_its = |roles: &str| roles == "all" || roles.split(", ").any(|one| one == role);
    rows.into_iter().filter(|(roles, _)| is_its(roles)).map(|(_, metric)| metric).collect()
}

/// A page's metrics. Each must be named and described as Prometheus' conventions ask.
fn shown(page: &str) -> Families {
    let (mut families, mut described) = (Families::new(), BTreeSet::new());
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap_or((help, ""));
            assert!(!text.is_empty() && described.insert(name), "described once: {line}");
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert!(described.contains(name), "no HELP before it: {line}");
            let ours = ["leasehold_", "spendguard_", "process_"];
            assert!(ours.iter().any(|prefix| name.starts_with(prefix)), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(kind != "histogram" || name.ends_with("_seconds"), "{line}");
            let again = families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            assert!(again.is_none(), "{name} twice");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let (kind, known) = match families.get_mut(name) {
            Some(family) => family,
            None => {
                families.get_mut(of_histogram.unwrap_or(name)).unwrap_or_else(|| panic!("no TYPE: {line}"))
            }
        };
        let pairs = labels.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
        let own = pairs.map(|(label, _)| label).filter(|label| kind != "histogram" || *label != "le");
        known.extend(own.map(str::to_owned));
    }
    families
}

/// Waits until a role shows what the page lists for it: some labels come with the first event.
async fn is_as_listed(role: &str, worker: &Worker) -> anyhow::Result<()> {
    let wanted = listed(role);
    wait_for(&format!("{role} shows what docs/metrics.md lists"), LIMIT, async || {
        let page = http_client(LIMIT).map_err(|error| error.to_string())?;
        let page = page.get(format!("http://{}/metrics", worker.address)).send().await;
        let page = page.map_err(|error| error.to_string())?.text().await;
        let shown = shown(&page.map_err(|error| error.to_string())?);
        let differs = |one: &Families, other: &Families| {
            one.iter()
                .filter(|(name, family)| other.get(*name) != Some(family))
                .map(|(name, family)| (name.clone(), family.clone()))
                .collect::<Families>()
        };
        match (differs(&wanted, &shown), differs(&shown, &wanted)) {
            (missing, more) if missing.is_empty() && more.is_empty() => Ok(()),
            (missing, more) => Err(format!("listed, not shown: {missing:?}; shown, not listed: {more:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn the_page_lists_what_each_role_shows_and_nothing_else() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    let ingest = site.worker("canonical-ingest", "ingest", &[]).await?;
    let url = format!("http://{}/v1/events", ingest.address);
    let forwarder =
        site.worker("outbox-forwarder", "a", &[("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", &url)]).await?;
    let sweeper = site.worker("ttl-sweeper", "a", &[]).await?;
    let ledger = ledger(&mut site).await?;
    site.sh("leasehold worker ledger --add-scope payments acme").await?.ok();
    let sidecar = sidecar(&site, "pod-0", LONG).await?;
    // Each is refused, and counted by its code.
    http_client(LIMIT)?.post(&url).send().await?;
    let socket = site.path("pod-0.sock");
    let ask = format!("curl -s --unix-socket {socket} -X POST http://sidecar/v1/reservations");
    site.shows(&ask, "\"code\"").await?;
    for (role, worker) in [
        ("canonical-ingest", &ingest),
        ("outbox-forwarder", &forwarder),
        ("ttl-sweeper", &sweeper),
        ("ledger", &ledger),
        ("sidecar", &sidecar),
    ] {
        is_as_listed(role, worker).await?;
        let info = format!("leasehold_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION"));
        let mode = match role {
            "outbox-forwarder" | "ttl-sweeper" => "postgres",
            "sidecar" => "ledger",
            _ => "none",
        };
        let info = format!("{info},role=\"{role}\",mode=\"{mode}\"}}");
        assert_eq!(worker.metric(&info).await?, 1.0, "{role}");
    }
    for (worker, lease) in
        [(&forwarder, "outbox-forwarder"), (&sweeper, "ttl-sweeper"), (&sidecar, "payments")]
    {
        let of = |what: &str| format!("leasehold_lease_{what}{{lease=\"{lease}\"}}");
        worker.comes_to(&of("deadline_seconds"), |left| left > 0.0).await?;
        assert!(worker.metric(&of("epoch")).await? >= 1.0, "{lease}");
        assert!(worker.metric(&of("last_beat_age_seconds")).await? >= 0.0, "{lease}");
    }
    let standby =
        site.worker("outbox-forwarder", "b", &[("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", &url)]).await?;
    let epoch = "leasehold_lease_epoch{lease=\"outbox-forwarder\"}";
    let leaders = forwarder.metric(epoch).await?;
    standby.comes_to(epoch, |seen| seen == leaders).await?;
    assert_eq!(standby.metric("leasehold_lease_deadline_seconds{lease=\"outbox-forwarder\"}").await?, 0.0);
    Ok(())
}
