//! A server of ours, or the one that the user names.

use anyhow::Context;

use super::{Postgres, PostgresOptions, access::Access};

/// The variable that names a server of the user's own, as a superuser's url.
const VARIABLE: &str = "LEASEHOLD_TEST_POSTGRES_URL";

/// A PostgreSQL server to test against: started by us, or named in `LEASEHOLD_TEST_POSTGRES_URL`.
///
/// Both have urls, roles and databases; what was created in a named server is the caller's to drop again. Only a
/// server of ours can be broken ([`ours`](Self::ours)).
pub struct PostgresServer {
    access: Access,
    ours: Option<Postgres>,
}

impl PostgresServer {
    /// Takes the server that `LEASEHOLD_TEST_POSTGRES_URL` names; starts one with `options` if it is unset.
    ///
    /// # Errors
    /// When the variable isn't a url or that server doesn't answer: never a silent fallback. Else as
    /// [`Postgres::start`].
    pub async fn named_or_start(options: PostgresOptions) -> anyhow::Result<Self> {
        Self::choose(std::env::var(VARIABLE).ok(), options).await
    }

    async fn choose(variable: Option<String>, options: PostgresOptions) -> anyhow::Result<Self> {
        match variable {
            Some(url) if !url.is_empty() => Self::named(&url).await.context(VARIABLE),
            _ => {
                let postgres = Postgres::start(options).await?;
                Ok(Self { access: postgres.access.clone(), ours: Some(postgres) })
            }
        }
    }

    /// Takes a running server by a superuser's url, which must have a host.
    ///
    /// # Errors
    /// When this isn't such a url, or the server doesn't answer.
    pub async fn named(url: &str) -> anyhow::Result<Self> {
        let access = Access::new(url)?;
        access.run("select 1").await.context("the named server does not answer")?;
        Ok(Self { access, ours: None })
    }

    /// The server, if it is ours: to crash, pause, promote or stop it.
    ///
    /// # Errors
    /// When it is the user's own; the message says what to do.
    pub fn ours(&self) -> anyhow::Result<&Postgres> {
        self.ours.as_ref().with_context(|| {
            format!("this server was named by its url and is not ours to break: unset {VARIABLE} to have one started")
        })
    }

    /// A superuser's url.
    pub fn url(&self) -> String {
        self.access.url()
    }

    /// As [`Postgres::url_for`].
    pub fn url_for(&self, database: &str, user: &str, password: &str) -> String {
        self.access.url_for(database, user, password)
    }

    /// As [`Postgres::psql`].
    ///
    /// # Errors
    /// As there.
    pub async fn psql(&self, sql: &str) -> anyhow::Result<String> {
        self.access.run(sql).await
    }

    /// As [`Postgres::psql_in`].
    ///
    /// # Errors
    /// As there.
    pub async fn psql_in(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        self.access.run_in(database, sql).await
    }

    /// As [`Postgres::create_database`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.access.create_database(name).await
    }

    /// As [`Postgres::drop_database`].
    ///
    /// # Errors
    /// As there.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.access.drop_database(name).await
    }

    /// As [`Postgres::create_role`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_role(&self, name: &str, password: &str) -> anyhow::Result<()> {
        self.access.create_role(name, password).await
    }
}

impl std::fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresServer").field("ours", &self.ours).finish_non_exhaustive()
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
            let chosen = PostgresServer::choose(Some(url.into()), PostgresOptions::default()).await;
            let error = format!("{:#}", chosen.unwrap_err());
            assert!(error.contains(VARIABLE) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[tokio::test]
    async fn without_a_name_a_server_of_ours_is_started() -> anyhow::Result<()> {
        let server = PostgresServer::choose(Some(String::new()), PostgresOptions::default()).await?;
        assert_eq!(server.ours()?.url(), server.url());
        Ok(())
    }
}
