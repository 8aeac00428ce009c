//! Generates the ledger's client and server from its protocol.

#[cfg(feature = "ledger")]
fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/spendguard/ledger/v1/ledger.proto"], &["proto"])
}

#[cfg(not(feature = "ledger"))]
fn main() {}
