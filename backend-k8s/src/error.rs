//! Errors of failed calls: certainly not applied, or unknown.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::time::Duration;

use http::StatusCode;
use hyper_util::client::legacy;
use lease_core::BackendError;

type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call has no good answer.
#[derive(Debug)]
pub(crate) enum RequestFailure {
    /// The API server answered, and it wasn't yes.
    Refused { status: StatusCode, message: String, retry_after: Option<String> },
    /// Nothing was sent: no connection, no credentials.
    Unsent(Cause),
    /// Something was sent, and no whole answer came.
    Lost(Cause),
    /// No whole answer within the time limit.
    Silent(Duration),
}

impl RequestFailure {
    pub(crate) fn unsent(cause: impl Into<Cause>) -> Self {
        Self::Unsent(cause.into())
    }

    pub(crate) fn lost(cause: impl Into<Cause>) -> Self {
        Self::Lost(cause.into())
    }

    /// kube's error for a request whose answer never began.
    pub(crate) fn of_sending(error: kube::Error) -> Self {
        let unsent = match &error {
            kube::Error::Auth(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => true,
            error => chain(error)
                .any(|cause| cause.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect)),
        };
        if unsent { Self::unsent(error) } else { Self::lost(error) }
    }

    /// The HTTP status of a refusal.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Of a call that changes nothing.
    pub(crate) fn of_read(self, what: &str) -> BackendError {
        self.told(what, BackendError::not_applied)
    }

    /// Of a call that writes.
    pub(crate) fn of_write(self, what: &str) -> BackendError {
        let certain = match &self {
            Self::Unsent(_) => true,
            // Refused before it reached etcd; 408 and all of 5xx may come after it did.
            Self::Refused { status, .. } => {
                status.is_client_error() && *status != StatusCode::REQUEST_TIMEOUT
            }
            Self::Lost(_) | Self::Silent(_) => false,
        };
        self.told(what, if certain { BackendError::not_applied } else { BackendError::unknown })
    }

    fn told(self, what: &str, kind: fn(String) -> BackendError) -> BackendError {
        match self {
            Self::Unsent(cause) if is_distrust(&*cause) && is_of_the_proxy(&*cause) => BackendError::refused(format!(
                "{what}: the proxy's certificate isn't trusted; add its authority to the certificate authority in the \
                 kubeconfig, which is for the proxy too, or correct the proxy's address"
            ))
            .with_source(cause),
            Self::Unsent(cause) if is_distrust(&*cause) => BackendError::refused(format!(
                "{what}: the API server's certificate isn't trusted; correct the certificate authority in the \
                 kubeconfig, or the server's address"
            ))
            .with_source(cause),
            Self::Unsent(cause) => match cause.downcast::<BackendError>() {
                Ok(told) => *told,
                Err(cause) => kind(format!("{what}: no connection to the API server")).with_source(cause),
            },
            Self::Lost(cause) => kind(format!("{what}: the answer was lost")).with_source(cause),
            Self::Silent(limit) => kind(format!("{what}: no answer within {limit:?}")),
            Self::Refused { status, message, retry_after } => {
                let mut error = kind(format!("{what}: {}", advice(status, &message, retry_after.as_deref())));
                error.refused = matches!(
                    status,
                    StatusCode::UNAUTHORIZED
                        | StatusCode::FORBIDDEN
                        | StatusCode::NOT_FOUND
                        | StatusCode::UNPROCESSABLE_ENTITY
                        | StatusCode::BAD_REQUEST
                );
                error
            }
        }
    }
}

fn advice(status: StatusCode, message: &str, retry_after: Option<&str>) -> String {
    match status {
        StatusCode::UNAUTHORIZED => {
            format!(
                "the API server refuses these credentials; renew the token or correct the kubeconfig ({message})"
            )
        }
        StatusCode::FORBIDDEN => format!("not allowed: {message}; {}", way_out(message)),
        StatusCode::NOT_FOUND => {
            format!("there is no such namespace; create it, or correct the setting ({message})")
        }
        StatusCode::TOO_MANY_REQUESTS => {
            let wait =
                retry_after.map(|seconds| format!(", and asks to wait {seconds} s")).unwrap_or_default();
            format!("the API server is overloaded{wait} ({message})")
        }
        _ => format!("the API server answered {status} ({message})"),
    }
}

/// What to do about a missing right. The API server's message names the verb, the resource and who lacks it; and the
/// Lease, where the request was for one.
fn way_out(message: &str) -> &'static str {
    let all = message.contains("leases.coordination.k8s.io is forbidden");
    if message.contains("cannot create") {
        "only `init` and a move make Leases: run it where the Role grants create"
    } else if all && message.contains("cannot list") {
        "name the leases, since a Role by resourceNames allows no list of all, or run this as somebody who may list all"
    } else {
        "run this as the Lease's own worker, or with a Role that grants get, list, watch and update on this Lease"
    }
}

/// rustls reports a certificate that it doesn't trust as invalid data.
fn is_distrust(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::InvalidData)
    })
}

/// The way to the server begins with a tunnel through the proxy, whose error has no public type.
fn is_of_the_proxy(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|cause| cause.to_string().starts_with("tunnel error"))
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let present = next?;
        // An io::Error's own source leaves out what it wraps.
        let wrapped = present.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as _).or_else(|| present.source());
        Some(present)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lease_core::Certainty::{NotApplied, Unknown};

    fn refused(status: u16) -> RequestFailure {
        let status = StatusCode::from_u16(status).unwrap();
        RequestFailure::Refused { status, message: "why".into(), retry_after: Some("7".into()) }
    }

    #[test]
    fn a_write_is_not_applied_only_where_that_is_certain() {
        for (status, certainty) in [
            (400, NotApplied),
            (401, NotApplied),
            (403, NotApplied),
            (408, Unknown),
            (422, NotApplied),
            (429, NotApplied),
            (500, Unknown),
            (502, Unknown),
            (503, Unknown),
            (504, Unknown),
        ] {
            assert_eq!(refused(status).of_write("renew").certainty, certainty, "{status}");
            assert_eq!(refused(status).of_read("observe").certainty, NotApplied, "{status}");
        }
        assert_eq!(RequestFailure::lost("reset").of_write("renew").certainty, Unknown);
        assert_eq!(RequestFailure::Silent(Duration::from_secs(1)).of_write("renew").certainty, Unknown);
        assert_eq!(RequestFailure::unsent("refused").of_write("renew").certainty, NotApplied);
    }

    #[test]
    fn a_missing_right_is_named_with_the_way_out() {
        let forbidden = |message: &str| {
            let status = StatusCode::FORBIDDEN;
            let error = RequestFailure::Refused { status, message: message.to_owned(), retry_after: None }
                .of_read("reading");
            assert!(error.refused && error.to_string().contains(message), "{error}");
            error.to_string()
        };
        let one = forbidden(
            "leases.coordination.k8s.io \"one\" is forbidden: User \"u\" cannot get resource \"leases\"",
        );
        assert!(one.contains("the Lease's own worker"), "{one}");
        let all =
            forbidden("leases.coordination.k8s.io is forbidden: User \"u\" cannot list resource \"leases\"");
        assert!(all.contains("name the leases"), "{all}");
        let made = forbidden(
            "leases.coordination.k8s.io is forbidden: User \"u\" cannot create resource \"leases\"",
        );
        assert!(made.contains("grants create"), "{made}");
    }

    #[test]
    fn an_overloaded_server_says_how_long_to_wait_and_is_asked_again() {
        let error = refused(429).of_write("renew");
        assert!(!error.refused && error.to_string().contains("wait 7 s"), "{error}");
    }
}
