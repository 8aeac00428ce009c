//! A running server that a url leads to.

use anyhow::Context;

use super::access::Access;

/// A running PostgreSQL server, one of ours or another, in the name of a role.
pub struct PostgresServer(Access);

impl PostgresServer {
    /// Connects by a url, which must have a host.
    ///
    /// # Errors
    /// When this isn't such a url, or the server doesn't answer. The message has no password.
    pub async fn named(url: &str) -> anyhow::Result<Self> {
        let access = Access::new(url)?;
        access.run("select 1").await.context("the named server does not answer")?;
        Ok(Self(access))
    }

    /// As [`Postgres::psql`](super::Postgres::psql), in the url's database and as its role.
    ///
    /// # Errors
    /// As there.
    pub async fn psql(&self, sql: &str) -> anyhow::Result<String> {
        self.0.run(sql).await
    }
}

impl std::fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresServer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_named_server_that_is_wrong_or_silent_is_an_error_and_shows_no_password() {
        for url in
            ["http://u:secret@localhost/x", "postgres:///x", "u:secret", "postgres://u:secret@127.0.0.1:1/x"]
        {
            let error = format!("{:#}", PostgresServer::named(url).await.unwrap_err());
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }
}
