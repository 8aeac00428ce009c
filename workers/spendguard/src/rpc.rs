//! Generated from the protocols in `proto/`: messages, clients and servers.

/// The ledger's protocol.
pub mod ledger {
    /// The metadata of a failed call that says why, for programs.
    pub const REASON: &str = "leasehold-reason";
    /// Nothing was done, since the disk of the ledger's database is full.
    pub const DISK_FULL: &str = "disk-full";

    /// `spendguard.ledger.v1`.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("spendguard.ledger.v1");

        /// The protocol itself, as a `FileDescriptorSet`.
        pub const DEFINITION: &[u8] = tonic::include_file_descriptor_set!("ledger");
    }
}
