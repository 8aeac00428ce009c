//! One request and one reply for each successful acquire, renew and release, counted on the wire by the fault proxy.

use lease_conformance::by_hand::{acquire, held, name, release, renew};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Postgres as Server, PostgresOptions, Proxy, RoundTrips};

use crate::paired::BarResult;

pub(crate) async fn round_trips() -> anyhow::Result<Vec<BarResult>> {
    let server = Server::start(PostgresOptions::default()).await?;
    lease_postgres::migrate(&PostgresConfig::new(&server.url())?).await?;
    let proxy = Proxy::postgres(server.addr())?;
    let backend = Postgres::connect(PostgresConfig::new(&proxy.url(&server.url())?)?).await?;
    let name = name("bench");
    let mut verdicts = Vec::new();
    let mut count = |what: &str, before: RoundTrips| {
        let trips = proxy.round_trips().since(&before).total();
        let what = format!("round trips on the wire for {what}");
        let figures = format!("{} request, {} reply", trips.requests, trips.replies);
        verdicts.push(BarResult { holds: (trips.requests, trips.replies) == (1, 1), what, figures });
    };

    // The first of each kind may have to be prepared; what counts is every later one.
    let mut seen = held(&backend, &name).await?;
    for warm in [true, false] {
        let before = proxy.round_trips();
        seen = renew(&backend, &name, &seen).await?;
        if !warm {
            count("a renewal", before);
        }
        let before = proxy.round_trips();
        seen = release(&backend, &name, &seen).await?;
        if !warm {
            count("a release", before);
        }
        let before = proxy.round_trips();
        seen = acquire(&backend, &name, &seen, "bench").await?;
        if !warm {
            count("an acquisition", before);
        }
    }
    Ok(verdicts)
}
