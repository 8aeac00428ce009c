//! What callers send, and the file that says who may.

use lease_core::Term;
use lease_spendguard::cloudevents::term_from;
use lease_spendguard::internal;
use lease_worker_common::access_table::AccessTable;

/// The file of callers.
pub(crate) fn access(bytes: &[u8]) {
    if let Err(unusable) = AccessTable::parse(bytes) {
        assert!(!unusable.why.is_empty(), "a file is refused without a word");
    }
}

/// A request to canonical-ingest: three lines of headers, and a body.
pub(crate) fn batch(bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |byte| *byte == b'\n');
    let mut header = || lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let headers =
        [("leasehold-lease", header()), ("leasehold-epoch", header()), ("leasehold-grant", header())];
    let of = |name: &str| headers.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value);
    match term_from(of) {
        Ok((_, term)) => assert!((1..=Term::MAX_EPOCH).contains(&term.epoch), "epoch {}", term.epoch),
        Err(why) => assert!(!why.is_empty(), "a term is refused without a word"),
    }
    if let Err(why) = internal::batch(lines.next().unwrap_or(bytes)) {
        assert!(!why.is_empty() && why.len() < 4096, "a batch is refused with {} bytes", why.len());
    }
}

/// Requests to the ledger, as protobuf.
pub(crate) fn grpc(bytes: &[u8]) {
    for record in internal::requests(bytes) {
        assert!(record.epoch <= Term::MAX_EPOCH && record.ttl_ms <= 86_400_000, "accepted: {record:?}");
    }
}
