//! A server of our own, which may be crashed and failed over.

use lease_testbed::{Postgres, PostgresOptions, Proxy, StandbyOptions};

pub(super) struct Server {
    primary: Postgres,
    /// For those that a case may disturb: a standby beside it, and before both an address that moves.
    pair: Option<(Postgres, Proxy)>,
}

impl Server {
    pub(super) async fn start(options: PostgresOptions) -> anyhow::Result<Self> {
        let primary = Postgres::start(options).await?;
        Ok(Self { primary, pair: None })
    }

    /// One with a standby.
    pub(super) async fn with_standby() -> anyhow::Result<Self> {
        let primary = Postgres::start(PostgresOptions::default()).await?;
        let standby = primary.standby(StandbyOptions::asynchronous("standby")).await?;
        let proxy = Proxy::postgres(primary.addr())?;
        Ok(Self { primary, pair: Some((standby, proxy)) })
    }

    pub(super) fn url(&self) -> String {
        let url = self.primary.url();
        self.pair.as_ref().and_then(|(_, proxy)| proxy.url(&url).ok()).unwrap_or(url)
    }

    pub(super) async fn restart(&self) -> anyhow::Result<()> {
        self.primary.crash().await?;
        self.primary.start_again().await
    }

    /// To the standby.
    pub(super) async fn fail_over(&self) -> anyhow::Result<()> {
        let (standby, proxy) = self.pair.as_ref().ok_or_else(|| anyhow::anyhow!("it has no standby"))?;
        standby.catch_up_with(&self.primary).await?;
        self.primary.crash().await?;
        standby.promote().await?;
        proxy.switch_upstream(standby.addr());
        proxy.cut().await;
        Ok(())
    }
}
