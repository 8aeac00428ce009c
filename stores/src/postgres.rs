//! PostgreSQL: one schema for the leases, and one for each fenced resource.

mod backup;
mod effects;
mod room;
mod store;
mod wire;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use lease_core::{Connector, InvalidSettings};
use lease_judge::FencedResource;
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::Proxy;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use self::effects::PostgresEffects;
pub use self::effects::admit_everybody;
pub use self::store::PostgresStore;
use crate::store::Reach;

pub(crate) const DESCRIPTIONS: &[&str] = &[include_str!("../../conformance/stores/postgres.json")];

/// The schemas on a server, for a role that holds leases and for an administrator.
#[derive(Clone, Serialize, Deserialize)]
pub struct PostgresPlace {
    url: String,
    admin_url: String,
    schema: String,
}

/// Names the server to judge.
#[derive(Clone, Debug, clap::Args)]
pub struct PostgresArgs {
    /// Postgres: the server to judge, as the role that would hold leases. Default: a server that is started for it.
    #[arg(long, env = "LEASEHOLD_TEST_POSTGRES_URL", hide_env_values = true, value_parser = url)]
    url: Option<String>,
    /// Postgres: the same database as a role that may create schemas, if the first may not.
    #[arg(long, env = "LEASEHOLD_TEST_POSTGRES_ADMIN_URL", hide_env_values = true, value_parser = url)]
    admin_url: Option<String>,
}

fn url(text: &str) -> Result<String, String> {
    PostgresConfig::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

// === impl PostgresArgs ===

impl PostgresArgs {
    pub(crate) fn names_a_server(&self) -> bool {
        self.url.is_some()
    }
}

// === impl PostgresPlace ===

impl PostgresPlace {
    /// On a server that the caller runs, by a superuser's url; makes the tables.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub async fn on(url: String) -> anyhow::Result<Self> {
        let place = Self::new(url, None);
        lease_postgres::migrate(&place.config(place.admin()?)?).await?;
        Ok(place)
    }

    fn new(url: String, admin_url: Option<String>) -> Self {
        let admin_url = admin_url.unwrap_or_else(|| url.clone());
        Self { url, admin_url, schema: format!("leasehold_{:08x}", rand::random::<u32>()) }
    }

    /// Of the role that holds leases.
    fn worker(&self) -> Result<PgConnectOptions, InvalidSettings> {
        self.options(&self.url)
    }

    fn admin(&self) -> Result<PgConnectOptions, InvalidSettings> {
        self.options(&self.admin_url)
    }

    /// Connections carry the schema's name, so that they can be told from everybody else's.
    fn options(&self, url: &str) -> Result<PgConnectOptions, InvalidSettings> {
        let invalid = |why| InvalidSettings { setting: "url", value: "the url of the place".into(), why };
        Ok(lease_postgres::url::parse(url).map_err(invalid)?.application_name(&self.schema))
    }

    fn config(&self, options: PgConnectOptions) -> Result<PostgresConfig, InvalidSettings> {
        // Two is what one lease needs (U-5), and the server may have others to serve.
        PostgresConfig::from_options(options).schema(&self.schema)?.pool_size(2)
    }

    /// A connection of the role that holds leases, to whose statements the schema needs not be named.
    ///
    /// # Errors
    /// When the server doesn't answer.
    pub async fn client(&self) -> anyhow::Result<PgConnection> {
        let options = self.worker()?.options([("search_path", &self.schema)]);
        Ok(PgConnection::connect_with(&options).await?)
    }

    async fn as_admin(&self, sql: &str) -> anyhow::Result<()> {
        execute(&self.admin()?, sql).await
    }

    /// The schema of a resource. Other processes, which are this same program, find it by the resource's name; the
    /// name of a schema has at most 40 characters.
    fn resource_schema(&self, resource: &str) -> String {
        let mut hasher = DefaultHasher::new();
        resource.hash(&mut hasher);
        format!("{}_{:016x}", self.schema, hasher.finish())
    }

    /// The same, through a proxy before the server.
    ///
    /// # Errors
    /// Its url has no host.
    pub fn through(&self, proxy: &Proxy) -> anyhow::Result<Self> {
        let (url, admin_url) = (proxy.url(&self.url)?, proxy.url(&self.admin_url)?);
        Ok(Self { url, admin_url, schema: self.schema.clone() })
    }
}

#[async_trait]
impl Reach for PostgresPlace {
    fn connector(&self) -> Result<Arc<dyn Connector>, InvalidSettings> {
        Ok(Arc::new(Postgres::connector(self.config(self.worker()?)?)))
    }

    async fn resource(&self, name: &str) -> anyhow::Result<Arc<dyn FencedResource>> {
        Ok(Arc::new(PostgresEffects::open(self.admin()?, self.resource_schema(name)).await?))
    }

    async fn admit_everybody(&self, resource: &str) -> anyhow::Result<()> {
        admit_everybody(&self.admin_url, &self.resource_schema(resource)).await
    }

    fn flags(&self) -> Vec<String> {
        ["--postgres-url", &self.url, "--postgres-schema", &self.schema].map(str::to_owned).into()
    }
}

async fn execute(options: &PgConnectOptions, sql: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    Ok(connection.close().await?)
}
