//! Generates the ledger's client and server from its protocol.

#[cfg(feature = "ledger")]
fn main() -> std::io::Result<()> {
    let definition = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    tonic_prost_build::configure()
        .file_descriptor_set_path(definition.join("ledger.bin"))
        .compile_protos(&["proto/spendguard/ledger/v1/ledger.proto"], &["proto"])
}

#[cfg(not(feature = "ledger"))]
fn main() {}
