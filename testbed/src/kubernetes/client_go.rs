//! A candidate for a Lease by client-go's leader election.

use std::path::PathBuf;

use crate::go;

const MODULE: go::Module = go::Module {
    name: "client-go-candidate",
    version: "0.36.3",
    files: &[
        ("go.mod", include_str!("../../go/client-go-candidate/go.mod")),
        ("go.sum", include_str!("../../go/client-go-candidate/go.sum")),
        ("main.go", include_str!("../../go/client-go-candidate/main.go")),
    ],
    package: ".",
    ldflags: "",
    aliases: &[],
    takes: "one to two minutes",
    instead: "leave out the tests that need it",
};

/// The path of a program that is a candidate for a Lease by client-go's leader election, built first if it isn't in
/// the cache. Its flags are those of client-go's `LeaderElectionConfig`, and `-kubeconfig`, `-namespace`, `-lease` and
/// `-identity`. It prints `candidate`, `leads` and `ended`, each with the milliseconds of `CLOCK_BOOTTIME`; SIGTERM ends
/// it, after it has released the lease.
///
/// # Errors
/// When it can't be built; the message says what to do.
pub async fn client_go_candidate() -> anyhow::Result<PathBuf> {
    go::build(MODULE).await
}
