//! The URL of a database. Each part of it is honoured or refused, and no message repeats what may be a password.
//!
//! sqlx reads URLs, too, but ignores what it doesn't know, logs it with its value, and can't reach an IPv6 literal.

use std::net::Ipv6Addr;
use std::str::FromStr;

use ::url::{Host, Url};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sqlx::postgres::PgConnectOptions;

/// How to write one.
pub const USE: &str =
    "use postgres://user:password@host:port/database, with ?sslmode=verify-full over a network";

/// Parameters that take effect.
const HONOURED: [&str; 11] = [
    "application_name",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Values that ask for nothing but what happens anyway.
const AS_IT_IS: [(&str, &[&str]); 6] = [
    ("channel_binding", &["disable", "prefer"]),
    ("client_encoding", &["UTF8", "auto"]),
    ("gssencmode", &["disable", "prefer"]),
    ("load_balance_hosts", &["disable"]),
    ("sslnegotiation", &["postgres"]),
    ("target_session_attrs", &["any"]),
];

/// libpq's other parameters, and what to do instead.
const REFUSED: [(&str, &str); 38] = [
    ("channel_binding", "channels are not bound here: remove it, and use sslmode=verify-full"),
    ("client_encoding", "it is always UTF8: remove it"),
    ("connect_timeout", "every call has a time limit of its own: remove it"),
    ("fallback_application_name", "use application_name"),
    ("gssdelegation", GSS),
    ("gssencmode", GSS),
    ("gsslib", GSS),
    ("hostaddr", "write the address in the host's place, or the name that its certificate has"),
    ("keepalives", SOCKETS),
    ("keepalives_count", SOCKETS),
    ("keepalives_idle", SOCKETS),
    ("keepalives_interval", SOCKETS),
    ("krbsrvname", GSS),
    ("load_balance_hosts", ONE_SERVER),
    ("max_protocol_version", NOT_HERE),
    ("min_protocol_version", NOT_HERE),
    ("oauth_client_id", NOT_HERE),
    ("oauth_client_secret", NOT_HERE),
    ("oauth_issuer", NOT_HERE),
    ("oauth_scope", NOT_HERE),
    ("passfile", "name the file by the variable PGPASSFILE, and remove it"),
    ("replication", NOT_HERE),
    ("require_auth", NOT_HERE),
    ("requirepeer", NOT_HERE),
    ("requiressl", "use sslmode=require, or better verify-full"),
    ("service", "service files are not read: write the server's address"),
    ("servicefile", "service files are not read: write the server's address"),
    ("ssl_max_protocol_version", NOT_HERE),
    ("ssl_min_protocol_version", "it is always TLS 1.2 or later: remove it"),
    ("sslcertmode", NOT_HERE),
    ("sslcompression", NOT_HERE),
    ("sslcrl", NOT_HERE),
    ("sslcrldir", NOT_HERE),
    ("sslnegotiation", "TLS is asked for in the protocol's usual way: remove it"),
    ("sslpassword", "use a key that is not encrypted"),
    ("sslsni", NOT_HERE),
    ("target_session_attrs", ONE_SERVER),
    ("tcp_user_timeout", SOCKETS),
];

const GSS: &str = "Kerberos is not supported: use a password or a certificate";
const NOT_HERE: &str = "it is not supported: remove it";
const ONE_SERVER: &str = "Leasehold connects to one server and does not choose: name the one that is writable, or a \
    proxy or service that follows it, and remove it";
const SOCKETS: &str = "connections are watched by time limits of their own: remove it";

const SSL_MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// libpq's variables that stand in for what the URL leaves out.
const VARIABLES: [(&str, &str); 7] = [
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGSERVICE", "service"),
    ("PGSSLMODE", "sslmode"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
];

/// Reads `postgres://user:password@host:port/database?…`; libpq's variables and password file fill in what it leaves
/// out.
///
/// # Errors
/// The reason, and how to write it. What may hold a password is not repeated.
pub fn parse(text: &str) -> Result<PgConnectOptions, String> {
    read(text).map_err(|problem| format!("{problem}; {USE}"))
}

/// The database for people: without password and parameters.
pub fn shown(options: &PgConnectOptions) -> String {
    let (user, port) = (encoded(options.get_username()), options.get_port());
    let database = options.get_database().map_or_else(|| user.clone(), encoded);
    let socket = options.get_socket().map(|folder| folder.display().to_string());
    match socket.as_deref().unwrap_or(options.get_host()) {
        folder if folder.starts_with('/') => {
            format!("postgres://{user}@/{database}?host={}&port={port}", encoded(folder))
        }
        host if host.contains(':') => format!("postgres://{user}@[{host}]:{port}/{database}"),
        host => format!("postgres://{user}@{host}:{port}/{database}"),
    }
}

/// The connections' name in `pg_stat_activity`, unless the URL or `PGAPPNAME` has set one.
pub fn named(options: PgConnectOptions, name: &str) -> PgConnectOptions {
    if options.get_application_name().is_some() { options } else { options.application_name(name) }
}

fn read(text: &str) -> Result<PgConnectOptions, String> {
    let scheme = ["postgres://", "postgresql://"].into_iter().find(|scheme| text.starts_with(scheme));
    let Some(scheme) = scheme else { return Err("it does not begin with postgres://".to_owned()) };
    let rest = &text[scheme.len()..];
    check_raw(text, rest)?;
    let (user, others) = rest.split_at(host_at(rest));
    // Parameters may name the host, but `Url` must have one after a user or before a port.
    let nowhere =
        (!user.is_empty() && others.starts_with(['/', '?'])) || others.is_empty() || others.starts_with(':');
    let whole = if nowhere { format!("{scheme}{user}nowhere{others}") } else { text.to_owned() };
    let url = Url::parse(&whole).map_err(|error| error.to_string())?;
    let mut parameters = Parameters::default();
    match url.host().filter(|_| !nowhere) {
        Some(Host::Ipv6(address)) => parameters.set("host", address.to_string())?,
        Some(Host::Domain(host)) => parameters.set("host", decoded(host)?)?,
        Some(Host::Ipv4(address)) => parameters.set("host", address.to_string())?,
        None => {}
    }
    parameters.set("port", url.port().map_or_else(String::new, |port| port.to_string()))?;
    parameters.set("user", decoded(url.username())?)?;
    parameters.set("password", decoded(url.password().unwrap_or_default())?)?;
    parameters.set("dbname", decoded(url.path().trim_start_matches('/'))?)?;
    // As in libpq, a parameter wins over the same part before it.
    let mut named = Parameters::default();
    for pair in url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(
                "a parameter has no value: write each as name=value, and a '&' in a value as %26".into()
            );
        };
        named.set(&decoded(name)?, decoded(value)?)?;
    }
    parameters.0.retain(|(name, _)| !named.has(name));
    parameters.0.extend(named.0);
    parameters.check()?;
    for (variable, name) in VARIABLES {
        if let Ok(value) = std::env::var(variable)
            && !value.is_empty()
            && !parameters.has(name)
        {
            Parameters::default()
                .set(name, value)
                .map_err(|why| format!("the variable {variable}: {why}"))?;
        }
    }
    parameters.options()
}

/// Where the host begins, behind the user and the password.
fn host_at(rest: &str) -> usize {
    let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
    authority.rfind('@').map_or(0, |at| at + 1)
}

/// What a URL's grammar would read in another way than its writer meant it.
fn check_raw(text: &str, rest: &str) -> Result<(), String> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'`\\<>".contains(c)) {
        return Err(
            "it holds a space, a line break, a quote, a backslash or an angle bracket: remove it, or \
                    percent-encode it"
                .into(),
        );
    }
    if text.contains("${") || text.contains("$(") || text.contains("{{") {
        return Err("it holds a variable that nobody has replaced by its value".into());
    }
    let (authority, others) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.matches('@').count() > 1 || others.contains(['@', '#']) {
        return Err(
            "an '@', '/', '?' or '#' in a user's name, password or value must be written %40, %2F, %3F or %23".into()
        );
    }
    if authority.contains(',') {
        return Err(SEVERAL.into());
    }
    let encoded = text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit) && two != b"00")
    });
    if encoded { Ok(()) } else { Err("a '%' that stands for itself must be written %25".into()) }
}

const SEVERAL: &str = "it names several hosts, and Leasehold connects to one: name the one that is writable, or a \
    proxy or service that follows it";

/// The parameters of one connection, none twice, each checked on its own.
#[derive(Default)]
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// An empty value is none, as in libpq.
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        if value.is_empty() && HONOURED.contains(&name) {
            return Ok(());
        }
        let harmless = AS_IT_IS.iter().find(|(known, _)| *known == name);
        if harmless.is_some_and(|(_, values)| values.contains(&value.as_str())) {
            return Ok(());
        }
        if let Some((known, advice)) = REFUSED.iter().find(|(known, _)| *known == name) {
            return Err(format!("{known}: {advice}"));
        }
        let Some(known) = HONOURED.into_iter().find(|known| *known == name) else {
            return Err(unknown(name));
        };
        if self.has(known) {
            return Err(format!("{known} is given twice"));
        }
        let problem = match known {
            "host" => check_host(&value),
            "port" if value.contains(',') => Some(SEVERAL),
            "port" if !value.parse::<u16>().is_ok_and(|port| port > 0) => Some("use 1 to 65535"),
            "sslmode" if !SSL_MODES.contains(&value.as_str()) => {
                Some("use disable, prefer, require, verify-ca or verify-full")
            }
            "sslrootcert" if value == "system" => {
                Some("leave it out for the well-known authorities, or name a file")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(format!("{known}: {problem}"));
        }
        self.0.push((known, value));
        Ok(())
    }

    /// Those that need each other.
    fn check(&self) -> Result<(), String> {
        let mode = self.0.iter().find(|(name, _)| *name == "sslmode").map(|(_, value)| value.as_str());
        let mode = mode.map_or_else(|| std::env::var("PGSSLMODE").unwrap_or_default(), str::to_owned);
        let variable = std::env::var_os("PGSSLROOTCERT").is_some_and(|value| !value.is_empty());
        if (self.has("sslrootcert") || variable) && !mode.starts_with("verify-") {
            let named = if self.has("sslrootcert") { "sslrootcert" } else { "the variable PGSSLROOTCERT" };
            return Err(format!(
                "{named}: without sslmode=verify-full (or verify-ca) nothing is checked against it"
            ));
        }
        if self.has("sslcert") != self.has("sslkey") {
            return Err("sslcert and sslkey: set both, or neither".into());
        }
        Ok(())
    }

    /// By sqlx's own reader, since that alone looks the password up in libpq's password file.
    fn options(self) -> Result<PgConnectOptions, String> {
        let mut url = Url::parse("postgres:///").map_err(|error| error.to_string())?;
        url.query_pairs_mut().extend_pairs(self.0);
        PgConnectOptions::from_str(url.as_str()).map_err(|_| "it can't be used".to_owned())
    }
}

fn check_host(host: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let is_v6 = |text: &str| text.split('%').next().is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    match host {
        _ if host.contains(',') => Some(SEVERAL),
        _ if host.starts_with('/') && !host.contains(char::is_control) => None,
        _ if host.chars().all(plain) || is_v6(host) => None,
        _ => Some("use a name, an IP address, or the folder of the server's socket"),
    }
}

/// A name that nobody knows may be half of a password with a '&' in it, so it is not repeated.
fn unknown(name: &str) -> String {
    let known = HONOURED.into_iter().chain(REFUSED.iter().map(|(known, _)| *known));
    let close =
        known.map(|known| (strsim::jaro_winkler(name, known), known)).filter(|(near, _)| *near > 0.85);
    match close.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((_, known)) => format!("a parameter has an unknown name: did you mean {known}?"),
        None => format!("a parameter has an unknown name: the known ones are {}", HONOURED.join(", ")),
    }
}

/// `+` stands for itself, as in libpq.
fn decoded(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Into::into).map_err(|_| "what is percent-encoded must be UTF-8".to_owned())
}

const IN_A_URL: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, IN_A_URL).to_string()
}
