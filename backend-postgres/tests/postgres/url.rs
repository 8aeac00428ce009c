//! What a URL says is what the connection has.

use lease_core::LeaseBackend;
use lease_postgres::{Postgres, PostgresConfig, url};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use tokio::net::{TcpListener, TcpStream};

use crate::common::*;

async fn shown(url: &str, setting: &'static str) -> anyhow::Result<String> {
    let options = url::parse(url).map_err(anyhow::Error::msg)?;
    let mut connection = PgConnection::connect_with(&options).await?;
    let row = sqlx::query("SELECT current_setting($1)").bind(setting).fetch_one(&mut connection).await?;
    Ok(row.try_get(0)?)
}

/// A way to the server from the other family of addresses.
async fn at_ipv6() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("[::1]:0").await?;
    let (port, to) = (listener.local_addr()?.port(), server().await.addr());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok(port)
}

#[tokio::test]
async fn a_server_at_an_ipv6_literal_holds_leases() -> anyhow::Result<()> {
    let store = store().await?;
    let url =
        store.server.url().replace(&store.server.addr().to_string(), &format!("[::1]:{}", at_ipv6().await?));
    assert!(url.contains("@[::1]:"), "{url}");
    let config = PostgresConfig::new(&url)?.schema(&store.schema)?;
    assert!(format!("{config:?}").contains("@[::1]:"), "{config:?}");
    assert!(Postgres::connect(config).await?.observe(&name("lease")).await?.record.is_none());
    Ok(())
}

#[tokio::test]
async fn user_password_database_and_socket_folder_may_be_percent_encoded() -> anyhow::Result<()> {
    let server = server().await;
    server.psql(r#"CREATE ROLE "me@here:/?#%" LOGIN PASSWORD 'p@:/?#% +&=é'"#).await?;
    server.psql(r#"CREATE DATABASE "a b/c?d""#).await?;
    let folder = server.psql("SHOW unix_socket_directories").await?.replace('/', "%2F");
    let (user, password, database) =
        ("me%40here%3A%2F%3F%23%25", "p%40%3A%2F%3F%23%25%20+%26%3D%C3%A9", "a%20b%2Fc%3Fd");
    let port = server.port();
    for url in [
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}"),
        format!("postgres:///{database}?host=127.0.0.1&port={port}&user={user}&password={password}"),
        format!("postgres://{user}:{password}@{folder}:{port}/{database}"),
        format!("postgres://{user}:{password}@localhost:{port}/{database}?host={folder}"),
        format!("postgres://?host={folder}&port={port}&user={user}&password={password}&dbname={database}"),
    ] {
        let options = url::parse(&url).map_err(anyhow::Error::msg)?;
        let mut connection = PgConnection::connect_with(&options).await?;
        let row = sqlx::query("SELECT current_user::text, current_database()::text")
            .fetch_one(&mut connection)
            .await?;
        let found: (String, String) = (row.try_get(0)?, row.try_get(1)?);
        assert_eq!(found, ("me@here:/?#%".to_owned(), "a b/c?d".to_owned()), "{}", url::shown(&options));
    }
    Ok(())
}

#[tokio::test]
async fn application_name_and_options_reach_the_server() -> anyhow::Result<()> {
    let url = format!("{}?application_name=mine&options=-c%20work_mem%3D7MB", server().await.url());
    assert_eq!(shown(&url, "application_name").await?, "mine");
    assert_eq!(shown(&url, "work_mem").await?, "7MB");
    let named = url::named(url::parse(&url).map_err(anyhow::Error::msg)?, "ours");
    assert_eq!(named.get_application_name(), Some("mine"));
    Ok(())
}
