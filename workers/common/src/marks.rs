//! The mark of a fenced resource in a database of effects, for the operator who sets a poisoned one back (F-1).

use std::time::Duration;

use lease_core::Term;
use lease_core::fence::Lowering;
#[cfg(feature = "postgres")]
use lease_postgres::pool::{DURABLE, Pool};

use crate::database::{self, Database, StoreError, within};

/// The greatest term that `resource` has admitted.
///
/// # Errors
/// The database's, or no answer within `limit`.
pub async fn mark(database: &Database, resource: &str, limit: Duration) -> Result<Option<Term>, StoreError> {
    let look = async {
        match database {
            Database::Sqlite(path) => {
                let pool = database::sqlite(path, false).await?;
                let mut connection = pool.acquire().await?;
                Ok(lease_sqlite::Fence::new(resource).mark(&mut connection).await?)
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => {
                let fence = lease_postgres::Fence::new(resource);
                let pool = Pool::checked(options, 1, limit, DURABLE);
                pool.call(async |connection| Ok(fence.mark(connection).await?)).await
            }
        }
    };
    within(limit, look).await
}

/// Sets the mark back, and leaves a row for audits. Needs the rights of the tables' owner, since it makes what an older
/// version's fence lacks. False, and nothing is changed, if the mark has moved since it was seen.
///
/// # Errors
/// As for [`mark`]; without an answer it is unknown whether the mark was lowered.
pub async fn lower(
    database: &Database,
    resource: &str,
    lowering: &Lowering,
    limit: Duration,
) -> Result<bool, StoreError> {
    let change = async {
        match database {
            Database::Sqlite(path) => {
                let fence = lease_sqlite::Fence::new(resource);
                let mut tx = database::sqlite(path, false).await?.begin_with("BEGIN IMMEDIATE").await?;
                fence.install(&mut tx).await?;
                let lowered = fence.lower(&mut tx, lowering).await?;
                tx.commit().await?;
                Ok(lowered)
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => {
                let fence = lease_postgres::Fence::new(resource);
                let pool = Pool::checked(options, 1, limit, DURABLE);
                pool.call(async |connection| {
                    fence.install(connection).await?;
                    Ok(fence.lower(connection, lowering).await?)
                })
                .await
            }
        }
    };
    within(limit, change).await
}
