//! Generates the ledger's client and server from its protocol.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/spendguard/ledger/v1/ledger.proto"], &["proto"])
}
