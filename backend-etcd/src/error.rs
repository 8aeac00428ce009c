//! Errors of failed calls: certainly not applied, or unknown.

use std::error::Error as StdError;

use etcd_client::Error;
use lease_core::BackendError;
use tonic::{Code, Status};

/// Of a call that changes nothing.
pub(crate) fn of_read(context: impl Into<String>, error: &Error) -> BackendError {
    with_advice(BackendError::not_applied(context), error)
}

/// Of a Txn that may have been sent.
pub(crate) fn of_write(context: impl Into<String>, error: &Error) -> BackendError {
    let failed = match error {
        // The library checks these before it sends anything.
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            BackendError::not_applied(context)
        }
        Error::GRpcStatus(status) if is_refusal(status) => BackendError::not_applied(context),
        _ => BackendError::unknown(context),
    };
    with_advice(failed, error)
}

/// Is it certain that this answer's request was not, and never will be, applied?
///
/// Not "database space exceeded": a node that finds its quota used up while it applies says so *after* it has
/// applied. Not "no leader", "leader changed" and the time-outs: the proposal may be under way.
fn is_refusal(status: &Status) -> bool {
    if status.source().is_some() {
        return was_never_sent(status);
    }
    let message = status.message();
    match status.code() {
        Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated => {
            message.starts_with("etcdserver: ")
        }
        Code::ResourceExhausted => message == "etcdserver: too many requests",
        _ => false,
    }
}

/// Had the connection ended before? It is opened by us alone, once, so the library could send nothing.
fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn with_advice(mut failed: BackendError, error: &Error) -> BackendError {
    if let Some((refused, advice)) = advice(error) {
        failed.refused = refused;
        failed.context = format!("{}: {advice}", failed.context);
    }
    failed.with_source(text(error))
}

/// They pass the API server's few Txns on to a database and refuse others, or take them for something else.
pub(crate) const SHIM: &str = "this is not etcd but a shim of its protocol, such as k3s' kine, which can't hold leases: \
    name the nodes of an etcd, or use the database or the Kubernetes that is behind the shim as the lease store";

/// Another port, or a proxy before etcd that has no node to lead to at the moment: it may become right by itself.
const NO_ETCD: &str = "what answers at this address does not speak etcd's API: name the nodes' client urls (port 2379, \
    not the peers' 2380), or look at the proxy in between";

/// Advice on the errors that a setting causes; true if trying again can't help.
fn advice(error: &Error) -> Option<(bool, &'static str)> {
    let Error::GRpcStatus(status) = error else { return None };
    let message = status.message();
    let says = |what: &str| message.contains(what);
    match status.code() {
        // No gRPC server has answered, so its code is made up from HTTP's: 404 would look like a shim's refusal, and 403
        // like a missing permission.
        _ if says("grpc-status header missing") => Some((false, NO_ETCD)),
        _ if says("authentication failed") => Some((true, "etcd refuses this user; check user and password")),
        _ if says("user name is empty") => Some((true, "etcd asks for a user; set user and password")),
        _ if says("authentication is not enabled") => {
            Some((true, "this etcd has no users; enable authentication there, or set no user"))
        }
        _ if says("kine") => Some((true, SHIM)),
        _ if says("unsupported operations in txn") => Some((true, SHIM)),
        Code::Unimplemented => Some((false, NO_ETCD)),
        Code::PermissionDenied => Some((
            true,
            "the user lacks a permission; grant its role readwrite on everything below the prefix",
        )),
        _ if says("database space exceeded") => {
            Some((false, "etcd's quota is used up; compact, defragment and disarm the alarm"))
        }
        _ => None,
    }
}

/// The error with its causes, without gRPC's own frills.
pub(crate) fn text(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => match status.source() {
            Some(source) => causes(source),
            None if status.message().is_empty() => format!("{:?}", status.code()),
            None => status.message().to_owned(),
        },
        other => other.to_string(),
    }
}

/// An error and its causes, those that say something new.
pub(crate) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::Certainty;

    fn certainty(code: Code, message: &str) -> Certainty {
        of_write("a write", &Error::GRpcStatus(Status::new(code, message))).certainty
    }

    #[test]
    fn a_refusal_by_etcd_itself_is_certain() {
        for (code, message) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::InvalidArgument, "etcdserver: request is too large"),
            (Code::ResourceExhausted, "etcdserver: too many requests"),
        ] {
            assert_eq!(certainty(code, message), Certainty::NotApplied, "{message}");
        }
    }

    #[test]
    fn what_may_be_under_way_or_applied_is_unknown() {
        for (code, message) in [
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::Unavailable, "etcdserver: no leader"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Cancelled, "etcdserver: request canceled"),
            (Code::Unknown, "transport error"),
            (Code::PermissionDenied, "said by somebody in between"),
        ] {
            assert_eq!(certainty(code, message), Certainty::Unknown, "{message}");
        }
    }

    #[test]
    fn a_refusal_of_all_our_transactions_is_a_shims() {
        for (code, message) in [
            (Code::InvalidArgument, "etcdserver: unsupported operations in txn request"),
            (Code::Unimplemented, "sortOrder is not implemented by kine"),
        ] {
            let error = of_write("a write", &Error::GRpcStatus(Status::new(code, message)));
            assert!(error.refused && error.to_string().contains(SHIM), "{error}");
        }
    }

    #[test]
    fn what_does_not_speak_etcds_api_is_no_shim_and_is_asked_again() {
        for (code, message) in [
            (Code::Unimplemented, "grpc-status header missing, mapped from HTTP status code 404"),
            (Code::PermissionDenied, "grpc-status header missing, mapped from HTTP status code 403"),
            (Code::Unavailable, "grpc-status header missing, mapped from HTTP status code 503"),
            (Code::Unimplemented, "unknown service etcdserverpb.KV"),
        ] {
            let error = of_read("a read", &Error::GRpcStatus(Status::new(code, message)));
            let told = error.to_string();
            assert!(!error.refused && told.contains("client urls") && !told.contains("kine"), "{told}");
            assert_eq!(certainty(code, message), Certainty::Unknown, "{message}");
        }
    }
}
