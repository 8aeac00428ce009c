//! The series that real workers show, and what a query asks of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lease_testbed::{Postgres, PostgresOptions, Process, free_port, wait_for};
use promql_parser::parser::{self, Expr};
use promql_parser::util::{ExprVisitor, walk_expr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use crate::common::leasehold;

/// A metric's name, and each of its series' labels.
pub(crate) type Series = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// The labels that Prometheus itself adds to each series of the chart's monitors.
pub(crate) const OF_THE_TARGET: [&str; 3] = ["namespace", "job", "pod"];

const LIMIT: Duration = Duration::from_secs(60);

fn read(page: &str, series: &mut Series) {
    for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let labels =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        let labels =
            pairs.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned())).collect();
        series.entry(name.to_owned()).or_default().push(labels);
    }
}

/// One worker of each role at work; what their pages show once that has come.
pub(crate) async fn emitted() -> anyhow::Result<&'static Series> {
    static EMITTED: OnceCell<Series> = OnceCell::const_new();
    EMITTED.get_or_try_init(scrape).await
}

async fn scrape() -> anyhow::Result<Series> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let (db, leases, outbox, canonical) =
        (postgres.url(), file("leases.sqlite"), file("outbox.sqlite"), file("canonical.sqlite"));
    for prepare in [
        &["init", "--new", "outbox-forwarder", "ttl-sweeper", "--sqlite-path", &leases][..],
        &["worker", "ledger", "--migrate", "--add-scope", "s", "t", "--ledger-db-url", &db],
    ] {
        anyhow::ensure!(leasehold().args(prepare).status()?.success(), "{prepare:?} failed");
    }
    let (ingest, grpc) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let (events, ledger, socket) =
        (format!("http://{ingest}/v1/events"), format!("http://{grpc}"), file("s.sock"));
    let client = lease_worker_common::http_client(Duration::from_secs(5))?;
    let (mut series, mut running) = (Series::new(), Vec::new());
    // A role, its arguments, and what its page shows last.
    for (args, last) in [
        (
            vec!["canonical-ingest", "--canonical-url", &canonical],
            "spendguard_canonical_ingest_requests_total{",
        ),
        (
            vec![
                "outbox-forwarder",
                "--outbox-url",
                &outbox,
                "--ingest-url",
                &events,
                "--sqlite-path",
                &leases,
            ],
            "change=\"acquire\"",
        ),
        (vec!["ttl-sweeper", "--sweeper-db-url", &db, "--sqlite-path", &leases], "change=\"acquire\""),
        (
            vec!["ledger", "--ledger-db-url", &db, "--grpc-listen", &grpc],
            "spendguard_ledger_request_seconds_bucket{method=\"PutFencingScope\"",
        ),
        (
            vec![
                "sidecar",
                "--ledger-url",
                &ledger,
                "--fencing-scope",
                "s",
                "--tenant",
                "t",
                "--socket",
                &socket,
                "--standby",
                "true",
            ],
            "spendguard_sidecar_requests_total{",
        ),
    ] {
        let role = args[0];
        let listen =
            if role == "canonical-ingest" { ingest.clone() } else { format!("127.0.0.1:{}", free_port()?) };
        let program = leasehold().get_program().to_owned();
        let worker =
            Process::command(program)?.arg("worker").args(&args).args(["--listen", &listen]).spawn()?;
        running.push((worker, listen, last));
    }
    for (worker, listen, last) in &running {
        let what = format!("{last} is shown");
        let page = wait_for(&what, LIMIT, async || {
            // Each is refused, and counted.
            let _ = client.post(&events).send().await;
            let _ = asked(Path::new(&socket)).await;
            let page = client.get(format!("http://{listen}/metrics")).send().await;
            let page = page.map_err(|error| error.to_string())?.text().await;
            let page = page.map_err(|error| error.to_string())?;
            if page.contains(last) { Ok(page) } else { Err(page) }
        });
        let page = page.await.map_err(|error| error.context(worker.lines().join("\n")))?;
        read(&page, &mut series);
    }
    Ok(series)
}

/// A request of a pod, which the sidecar refuses.
async fn asked(socket: &Path) -> std::io::Result<()> {
    let mut sidecar = UnixStream::connect(socket).await?;
    let request =
        b"POST /v1/reservations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    sidecar.write_all(request).await?;
    sidecar.read_to_end(&mut Vec::new()).await.map(drop)
}

/// A label, its value, and whether it must be equal.
type Matcher = (String, String, bool);

/// What a query selects, and by which labels it groups that.
#[derive(Default)]
struct Asked {
    selectors: Vec<(String, Vec<Matcher>)>,
    groups: Vec<(Vec<String>, Vec<String>)>,
}

impl ExprVisitor for Asked {
    type Error = String;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, String> {
        let selector = match expression {
            Expr::VectorSelector(selector) => selector,
            Expr::MatrixSelector(matrix) => &matrix.vs,
            Expr::Aggregate(aggregate) => {
                let mut inside = Self::default();
                walk_expr(&mut inside, &aggregate.expr)?;
                let names = inside.selectors.into_iter().map(|(name, _)| name).collect();
                let labels = aggregate.modifier.iter().flat_map(|by| by.labels().labels.clone()).collect();
                self.groups.push((labels, names));
                return Ok(true);
            }
            _ => return Ok(true),
        };
        let matchers = selector.matchers.matchers.iter();
        let matchers = matchers.map(|m| (m.name.clone(), m.value.clone(), m.op.to_string() == "="));
        self.selectors.push((selector.name.clone().ok_or("a selector without a name")?, matchers.collect()));
        Ok(true)
    }
}

/// Looks up what a query asks for: each selector has a series with all of its labels' values, is limited to targets of
/// one namespace and job, and is grouped by labels that it has. Returns the metrics' names.
pub(crate) fn ask(what: &str, query: &str, series: &Series) -> Vec<String> {
    let expression = parser::parse(query).unwrap_or_else(|error| panic!("{what}: {error}: {query}"));
    let mut asked = Asked::default();
    walk_expr(&mut asked, &expression).unwrap_or_else(|error| panic!("{what}: {error}: {query}"));
    assert!(!asked.selectors.is_empty(), "{what} asks for nothing");
    let shown = |name: &str| {
        series.get(name).unwrap_or_else(|| panic!("{what}: no worker shows {name}: {:?}", series.keys()))
    };
    for (name, matchers) in &asked.selectors {
        let shown = shown(name);
        let fits = |labels: &BTreeMap<String, String>| {
            let mut own = matchers.iter().filter(|(label, ..)| !OF_THE_TARGET.contains(&label.as_str()));
            own.all(|(label, value, equal)| *equal && labels.get(label) == Some(value))
        };
        assert!(shown.iter().any(fits), "{what}: no series of {name} has {matchers:?}: {shown:?}");
        for target in ["namespace", "job"] {
            let limited = matchers.iter().any(|(label, ..)| label == target);
            assert!(limited, "{what}: another release's {name} counts");
        }
    }
    for (labels, names) in &asked.groups {
        for (label, name) in labels.iter().flat_map(|label| names.iter().map(move |name| (label, name))) {
            let has = OF_THE_TARGET.contains(&label.as_str())
                || shown(name).iter().any(|labels| labels.contains_key(label));
            assert!(has, "{what}: {name} has no label {label}");
        }
    }
    asked.selectors.into_iter().map(|(name, _)| name).collect()
}
