//! Who may do what at a listener: callers are known by a bearer token or by a name in their certificate, and each is
//! bound to what it may do.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use lease_settings::{BadSetting, Block, Settings};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tracing::warn;

use crate::access_table::{AccessTable, Principal, Right};
use crate::listener::ListenerSettings;
use crate::quoted::quoted;
use crate::reloaded::Reloaded;
use crate::tls::PeerNames;

/// How a listener tells its callers apart. Cheap to clone.
#[derive(Clone)]
pub enum Callers {
    /// It doesn't. On loopback all may do everything; elsewhere nobody is an operator.
    Nobody {
        /// Whether they may operate.
        operate: bool,
    },
    /// Whoever has a certificate of the clients' authority may do everything but operate.
    Certificates,
    /// By a file.
    Table(Reloaded<AccessTable>),
}

/// A request's caller, as far as it is known.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody in particular.
    Anybody {
        /// Whether it may operate.
        operate: bool,
    },
    /// Those of the file for whom the token or the certificate stands.
    Known(Vec<Arc<Principal>>),
}

/// Nobody whom this listener knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the caller is unknown: show a bearer token or a client certificate that the accessFile names")]
pub struct Unauthenticated {
    /// What it showed, for the log.
    pub shown: &'static str,
}

/// Somebody who may not do this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{who} may not {right} {what}: whoever runs this service allows it in its accessFile")]
pub struct NotAllowed {
    who: String,
    right: Right,
    what: String,
}

impl Callers {
    /// As the settings of section `B` ask for it, for an address. `refuse_listen` refuses that, which another section may hold.
    ///
    /// # Errors
    /// A file that can't be used; or an address that others can reach, without any authentication.
    pub fn of<B: Block>(
        all: &Settings,
        listener: &ListenerSettings<B>,
        listen: &str,
        refuse_listen: impl FnOnce(String) -> BadSetting,
    ) -> Result<Self, BadSetting> {
        let certificates = listener.tls_client_ca_file.is_some();
        if let Some(file) = listener.access_file.clone() {
            let table = Reloaded::start("the callers", vec![file], move |contents| {
                let table = AccessTable::parse(&contents[0])?;
                for one in table.principals.iter().filter(|one| !certificates && one.token_hashes.is_empty())
                {
                    // The file may be another listener's too.
                    warn!(
                        caller = one.name,
                        "known by certificates alone, and here nobody shows one without tlsClientCaFile"
                    );
                }
                Ok(table)
            });
            return table.map(Self::Table).map_err(|unusable| all.refuse::<B>("accessFile", unusable.why));
        }
        if certificates {
            return Ok(Self::Certificates);
        }
        if is_loopback(listen) {
            return Ok(Self::Nobody { operate: true });
        }
        if listener.listen_without_authentication {
            warn!(listen, "anybody who reaches this address may write in any tenant's name");
            return Ok(Self::Nobody { operate: false });
        }
        let section = B::SECTION.name;
        Err(refuse_listen(format!(
            "anybody who reaches this address could write in any tenant's name: name the callers in {section}.accessFile, \
             ask for certificates by {section}.tlsClientCaFile, listen on 127.0.0.1, or allow it by \
             {section}.listenWithoutAuthentication = true"
        )))
    }

    /// Who asks.
    ///
    /// # Errors
    /// Nobody known, and only those who are may ask.
    pub fn caller(&self, headers: &HeaderMap, names: Option<&PeerNames>) -> Result<Caller, Unauthenticated> {
        match self {
            Self::Nobody { operate } => Ok(Caller::Anybody { operate: *operate }),
            Self::Certificates => names
                .map(|_| Caller::Anybody { operate: false })
                .ok_or(Unauthenticated { shown: "no certificate" }),
            Self::Table(table) => {
                let table = table.now();
                let (known, shown) = match (headers.get(header::AUTHORIZATION), names) {
                    (Some(given), _) => {
                        (holder_of(&table, given.as_bytes()).into_iter().collect(), "a token of nobody")
                    }
                    (None, Some(names)) => (named(&table, names), "a certificate of nobody"),
                    (None, None) => (Vec::new(), "neither a token nor a certificate"),
                };
                if known.is_empty() { Err(Unauthenticated { shown }) } else { Ok(Caller::Known(known)) }
            }
        }
    }
}

/// Whose token this is. Takes as long for each.
fn holder_of(table: &AccessTable, given: &[u8]) -> Option<Arc<Principal>> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = given.split_at_checked(SCHEME.len())?;
    let hash = Sha256::digest(token.trim_ascii());
    let mut holder = None;
    for principal in &table.principals {
        let is_one = |one: Choice, known: &[u8; 32]| one | known.ct_eq(hash.as_slice());
        if principal.token_hashes.iter().fold(Choice::from(0), is_one).into() {
            holder = Some(principal.clone());
        }
    }
    holder.filter(|_| scheme.eq_ignore_ascii_case(SCHEME))
}

fn named(table: &AccessTable, names: &PeerNames) -> Vec<Arc<Principal>> {
    let is_named =
        |principal: &&Arc<Principal>| principal.certificate_names.iter().any(|name| names.contains(name));
    table.principals.iter().filter(is_named).cloned().collect()
}

/// Can only this machine reach it? Without asking a name server.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl Caller {
    /// May it do this to a fencing scope of a tenant?
    ///
    /// # Errors
    /// It may not.
    pub fn may(&self, right: Right, tenant: &str, scope: &str) -> Result<(), NotAllowed> {
        self.check(
            right,
            |one| one.in_tenant(tenant) && one.in_scope(scope),
            || format!("for tenant {}, scope {}", quoted(tenant), quoted(scope)),
        )
    }

    /// May it forward in the name of this lease?
    ///
    /// # Errors
    /// It may not.
    pub fn may_lead(&self, lease: &str) -> Result<(), NotAllowed> {
        self.check(
            Right::Forward,
            |one| one.has_lease(lease),
            || format!("in the name of lease {}", quoted(lease)),
        )
    }

    /// May it forward events of this tenant?
    ///
    /// # Errors
    /// It may not.
    pub fn may_forward(&self, tenant: &str) -> Result<(), NotAllowed> {
        self.check(
            Right::Forward,
            |one| one.in_tenant(tenant),
            || format!("events of tenant {}", quoted(tenant)),
        )
    }

    fn check(
        &self,
        right: Right,
        covers: impl Fn(&Principal) -> bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), NotAllowed> {
        let (allowed, who) = match self {
            Self::Anybody { operate } => {
                (right != Right::Operate || *operate, "an unnamed caller".to_owned())
            }
            Self::Known(known) => {
                let names: Vec<_> = known.iter().map(|one| one.name.as_str()).collect();
                (
                    known.iter().any(|one| one.may(right) && covers(one)),
                    format!("caller {}", names.join(", ")),
                )
            }
        };
        if allowed { Ok(()) } else { Err(NotAllowed { who, right, what: what() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Callers {
        let hash =
            |token: &str| Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let table = format!(
            "[acme-sidecars]\ntokenSha256 = ['{}', '{}']\nmay = ['sidecar']\ntenants = ['acme']\nscopes = ['payments/*']\n\
             [on-call]\ntokenSha256 = ['{}']\nmay = ['operate']\ntenants = ['*']\n",
            hash("new"),
            hash("old"),
            hash("pager")
        );
        Callers::Table(Reloaded::fixed(AccessTable::parse(table.as_bytes()).expect("a table")))
    }

    fn caller(given: Option<&str>) -> Result<Caller, Unauthenticated> {
        let mut headers = HeaderMap::new();
        if let Some(given) = given {
            headers.insert(header::AUTHORIZATION, given.parse().expect("ascii"));
        }
        access().caller(&headers, None)
    }

    #[test]
    fn a_token_is_bound_to_what_it_may_do() {
        for nobody in [
            None,
            Some(""),
            Some("new"),
            Some("Bearer"),
            Some("Bearer "),
            Some("Basic new"),
            Some("Bearer newer"),
        ] {
            let shown = match nobody {
                None => "neither a token nor a certificate",
                Some(_) => "a token of nobody",
            };
            assert_eq!(caller(nobody).expect_err("unknown"), Unauthenticated { shown }, "{nobody:?}");
        }
        for sidecar in ["Bearer new", "bearer old", "BEARER  new"] {
            let sidecar = caller(Some(sidecar)).expect("known");
            assert!(sidecar.may(Right::Sidecar, "acme", "payments/node-1").is_ok());
            assert!(sidecar.may(Right::Sidecar, "acme", "paymentsX").is_err());
            assert!(sidecar.may(Right::Sidecar, "other", "payments/node-1").is_err());
            assert!(sidecar.may_forward("acme").is_err());
            let refused = sidecar.may(Right::Operate, "acme", "payments/node-1").expect_err("no operator");
            assert!(
                refused.to_string().starts_with("caller acme-sidecars may not operate for tenant \"acme\"")
            );
        }
        let operator = caller(Some("Bearer pager")).expect("known");
        assert!(operator.may(Right::Operate, "any", "scope").is_ok());
        assert!(operator.may(Right::Sidecar, "any", "scope").is_err());
    }

    #[test]
    fn without_authentication_only_loopback_has_operators() {
        for (operate, may) in [(true, true), (false, false)] {
            let anybody = Callers::Nobody { operate }.caller(&HeaderMap::new(), None).expect("open");
            assert_eq!(anybody.may(Right::Operate, "acme", "payments").is_ok(), may);
            assert!(
                anybody.may(Right::Sidecar, "acme", "payments").is_ok()
                    && anybody.may_forward("acme").is_ok()
            );
        }
        assert!(Callers::Certificates.caller(&HeaderMap::new(), None).is_err());
        for (address, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("localhost:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("ledger:1", false),
        ] {
            assert_eq!(is_loopback(address), loopback, "{address}");
        }
    }
}
