//! Urls and administration by SQL, for any server that a superuser can reach.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::binaries::PostgresBinaries;
use crate::process::find_program;

/// The time limit of one call of [`psql`](Access::psql).
const PSQL_LIMIT: Duration = Duration::from_secs(60);

/// A superuser's way to a server.
#[derive(Clone)]
pub(super) struct Access {
    url: Url,
}

impl Access {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        // The url may hold a password: it must not appear in the message.
        let url = Url::parse(url).map_err(|error| anyhow!("not a url: {error}"))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") || !url.has_host() {
            bail!("not a url of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE");
        }
        Ok(Self { url })
    }

    pub(super) fn url(&self) -> String {
        self.url.to_string()
    }

    pub(super) fn database_url(&self, database: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(database);
        url
    }

    pub(super) fn url_for(&self, database: &str, user: &str, password: &str) -> String {
        let mut url = self.database_url(database);
        // Neither fails for a url that has a host.
        let _ = url.set_username(user);
        let _ = url.set_password(Some(password));
        url.to_string()
    }

    pub(super) async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.psql(&self.url, &format!("create database {}", identifier(name))).await?;
        Ok(self.database_url(name).to_string())
    }

    pub(super) async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.psql(&self.url, &format!("drop database if exists {} with (force)", identifier(name))).await?;
        Ok(())
    }

    pub(super) async fn create_role(&self, name: &str, password: &str) -> anyhow::Result<()> {
        let sql = format!("create role {} login password {}", identifier(name), literal(password));
        self.psql(&self.url, &sql).await?;
        Ok(())
    }

    pub(super) async fn run(&self, sql: &str) -> anyhow::Result<String> {
        self.psql(&self.url, sql).await.with_context(|| format!("in {sql:?}"))
    }

    pub(super) async fn run_in(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        self.psql(&self.database_url(database), sql).await.with_context(|| format!("in {sql:?}"))
    }

    /// Runs SQL by the `psql` program, statement by statement; rows as lines, columns separated by `|`.
    async fn psql(&self, url: &Url, sql: &str) -> anyhow::Result<String> {
        let mut bare = url.clone();
        let _ = bare.set_password(None);
        let password = percent_decode(url.password().unwrap_or_default())?;
        let mut command = tokio::process::Command::new(psql_path()?);
        command
            .args(["--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--dbname", bare.as_str()])
            .env("PGPASSWORD", password) // not an argument: those are public
            .env("PGCONNECT_TIMEOUT", "10")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start psql")?;
        let mut stdin = child.stdin.take().context("psql has no standard input")?;
        let all = async {
            // psql stops reading at the first error; its message says more than a broken pipe.
            let _ = stdin.write_all(sql.as_bytes()).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(PSQL_LIMIT, all)
            .await
            .with_context(|| format!("the server did not answer within {PSQL_LIMIT:?}"))??;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}

/// A server of the user's own needs no server programs here, only the client.
fn psql_path() -> anyhow::Result<PathBuf> {
    PostgresBinaries::find().map(|binaries| binaries.path("psql")).or_else(|_| {
        find_program(Path::new("psql"))
            .context("there is no program psql on PATH: install it (Debian and Ubuntu: `apt-get install postgresql-client`)")
    })
}

/// Quotes a name for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn percent_decode(text: &str) -> anyhow::Result<String> {
    // A form's decoding takes `+` for a space, which a url's password doesn't.
    let form = format!("x={}", text.replace('+', "%2B"));
    let decoded = url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned());
    decoded.context("a password that can't be decoded")
}
