//! The sidecar's settings.

use std::path::PathBuf;
use std::time::Duration;

use lease_settings::{
    BadSetting, BadSettings, Block, Millis, Section, Setting, Settings as All, Together, ValueKind, http_url,
};
use lease_worker_common::credentials::Token;
use serde::Deserialize;

use super::ledger::{Ledger, TlsPem};

/// The role's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarSettings {
    ledger_url: Option<String>,
    ledger_ca_file: Option<PathBuf>,
    ledger_cert_file: Option<PathBuf>,
    ledger_key_file: Option<PathBuf>,
    ledger_server_name: Option<String>,
    ledger_token_file: Option<PathBuf>,
    fencing_scope_id: Option<String>,
    fencing_scope_mode: String,
    tenant_id: Option<String>,
    node_name: Option<String>,
    fencing_ttl_seconds: u32,
    standby: bool,
    poll_interval_ms: Millis,
    socket_path: Option<PathBuf>,
    socket_mode: String,
    max_requests: u32,
    call_timeout_ms: Millis,
}

/// The longest path of a Unix socket, less the suffix that it has while it is made.
const LONGEST_SOCKET_PATH: usize = 100;

const SHARED: &str = "shared";
const PER_POD: &str = "perPod";

const NAME: ValueKind = ValueKind::Checked {
    check: |text| (1..=200).contains(&text.len()) && !text.chars().any(char::is_control),
    allowed: "use 1 to 200 characters without control characters",
};

const LEDGER_URL: &str = "use https://HOST:PORT, or http://HOST:PORT";

/// gRPC asks nobody for a password, and has paths of its own.
fn check_ledger_url(text: &str) -> Result<(), String> {
    let refused = |problem: &str| format!("{problem}; {LEDGER_URL}");
    let url = http_url(text).map_err(refused)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("the ledger asks for no user or password in its URL: remove them"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(refused("the ledger has no path or parameters: remove what follows its port"));
    }
    Ok(())
}

impl Block for SidecarSettings {
    const SECTION: Section = Section {
        name: "sidecar",
        about: "worker sidecar",
        settings: &[
            Setting::new(
                "ledgerUrl",
                "LEASEHOLD_SIDECAR_LEDGER_URL",
                ValueKind::Parsed { name: "url", check: check_ledger_url, allowed: LEDGER_URL },
                "the ledger, for example https://ledger:9090",
            )
            .flag("ledger-url"),
            Setting::new(
                "ledgerCaFile",
                "LEASEHOLD_SIDECAR_LEDGER_CA_FILE",
                ValueKind::Path,
                "the certificates that a ledger at https is checked against, PEM",
            )
            .flag("ledger-ca-file"),
            Setting::new(
                "ledgerCertFile",
                "LEASEHOLD_SIDECAR_LEDGER_CERT_FILE",
                ValueKind::Path,
                "the certificate that the sidecar shows to the ledger, PEM",
            )
            .flag("ledger-cert-file"),
            Setting::new(
                "ledgerKeyFile",
                "LEASEHOLD_SIDECAR_LEDGER_KEY_FILE",
                ValueKind::Path,
                "the key of that certificate, PEM",
            )
            .flag("ledger-key-file"),
            Setting::new(
                "ledgerServerName",
                "LEASEHOLD_SIDECAR_LEDGER_SERVER_NAME",
                NAME,
                "the name in the ledger's certificate",
            )
            .unset("the host of ledgerUrl")
            .flag("ledger-server-name"),
            Setting::new(
                "ledgerTokenFile",
                "LEASEHOLD_SIDECAR_LEDGER_TOKEN_FILE",
                ValueKind::Path,
                "a file with the bearer token that is shown to the ledger",
            )
            .unset("no token is shown")
            .flag("ledger-token-file"),
            Setting::new("fencingScopeId", "LEASEHOLD_SIDECAR_FENCING_SCOPE_ID", NAME, "the scope to serve")
                .flag("fencing-scope"),
            Setting::new(
                "fencingScopeMode",
                "LEASEHOLD_SIDECAR_FENCING_SCOPE_MODE",
                ValueKind::OneOf(&[SHARED, PER_POD]),
                "one sidecar at a time for the scope, or one on each node for <fencingScopeId>/<nodeName>",
            )
            .default(SHARED)
            .flag("fencing-scope-mode"),
            Setting::new("tenantId", "LEASEHOLD_SIDECAR_TENANT_ID", NAME, "the tenant that owns the scope")
                .flag("tenant"),
            Setting::new(
                "nodeName",
                "LEASEHOLD_SIDECAR_NODE_NAME",
                ValueKind::Checked {
                    check: |text| {
                        (1..=253).contains(&text.len())
                            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
                    },
                    allowed: "use the node's name: letters, digits, '-', '.' and '_'",
                },
                "the node that this sidecar serves, needed in fencingScopeMode perPod",
            )
            .flag("node-name"),
            Setting::new(
                "fencingTtlSeconds",
                "SPENDGUARD_SIDECAR_FENCING_TTL_SECONDS",
                ValueKind::Integer { min: 1, max: 3_600 },
                "how long the scope is held without an acknowledged renewal; a third of it lies between renewals",
            )
            .default("30")
            .flag("fencing-ttl-seconds"),
            Setting::new(
                "standby",
                "LEASEHOLD_SIDECAR_STANDBY",
                ValueKind::Bool,
                "wait for a scope that another sidecar holds, instead of ending with an error",
            )
            .default("false")
            .flag("standby"),
            Setting::new(
                "pollIntervalMs",
                "LEASEHOLD_SIDECAR_POLL_INTERVAL_MS",
                ValueKind::Millis { min: 10, max: 3_600_000 },
                "how often a standby asks for the scope, and the longest pause after a failure",
            )
            .default("1000")
            .flag("sidecar-poll-interval"),
            Setting::new(
                "socketPath",
                "LEASEHOLD_SIDECAR_SOCKET_PATH",
                ValueKind::Checked {
                    check: |text| {
                        text.len() <= LONGEST_SOCKET_PATH
                            && text.starts_with('/')
                            && !text.ends_with('/')
                            && !text.chars().any(char::is_control)
                    },
                    allowed: "use an absolute path of at most 100 bytes, for example /run/spendguard/sidecar.sock",
                },
                "the Unix socket that serves this node's pods",
            )
            .flag("socket"),
            Setting::new(
                "socketMode",
                "LEASEHOLD_SIDECAR_SOCKET_MODE",
                ValueKind::Checked {
                    check: |text| socket_mode(text).is_some(),
                    allowed: "use three or four octal digits, in quotes in a file, for example 0660",
                },
                "the permissions of the socket",
            )
            .default("0660")
            .flag("socket-mode"),
            Setting::new(
                "maxRequests",
                "LEASEHOLD_SIDECAR_MAX_REQUESTS",
                ValueKind::Integer { min: 1, max: 10_000 },
                "how many requests may be under way at once; others are told to come back",
            )
            .default("256")
            .flag("sidecar-max-requests"),
            Setting::new(
                "callTimeoutMs",
                "LEASEHOLD_SIDECAR_CALL_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 3_600_000 },
                "how long the ledger may take for one request",
            )
            .default("5000")
            .flag("sidecar-call-timeout"),
        ],
    };
}

fn socket_mode(text: &str) -> Option<u32> {
    let fine = (3..=4).contains(&text.len());
    u32::from_str_radix(text, 8).ok().filter(|mode| fine && *mode <= 0o777)
}

/// Which scope, as whom, and for how long.
#[derive(Clone, Debug)]
pub(super) struct ScopePlan {
    pub(super) scope: String,
    pub(super) tenant: String,
    pub(super) instance: String,
    pub(super) ttl_seconds: u32,
    pub(super) standby: bool,
    pub(super) poll_every: Duration,
}

/// The role's checked settings.
#[derive(Clone)]
pub(super) struct SidecarPlan {
    pub(super) ledger_url: String,
    pub(super) ledger: Ledger,
    pub(super) scope: ScopePlan,
    pub(super) socket: PathBuf,
    pub(super) socket_mode: u32,
    pub(super) max_requests: usize,
    pub(super) call_limit: Duration,
    pub(super) stop_budget: Duration,
    pub(super) listen: String,
}

impl SidecarPlan {
    pub(super) fn of(all: &All) -> Result<Self, BadSettings> {
        let role: SidecarSettings = all.block()?;
        let required = |key, value: &Option<String>| all.required::<SidecarSettings, _>(key, value.clone());
        let node = match role.fencing_scope_mode.as_str() {
            PER_POD => required("nodeName", &role.node_name).map(Some),
            _ => Ok(None),
        };
        let scope = (required("fencingScopeId", &role.fencing_scope_id), node).together();
        let mode = socket_mode(&role.socket_mode);
        let token = Token::of::<SidecarSettings>(all, "ledgerTokenFile", role.ledger_token_file.as_deref());
        let url = required("ledgerUrl", &role.ledger_url);
        let ledger = (url, token).together().and_then(|(url, token)| {
            let ledger = ledger(all, &role, &url, token)?;
            Ok((url, ledger))
        });
        let ((url, ledger), (scope, node), tenant, socket, mode, (instance, election)) = (
            ledger,
            scope,
            required("tenantId", &role.tenant_id),
            all.required::<SidecarSettings, _>("socketPath", role.socket_path.clone()),
            mode.ok_or_else(|| all.refuse::<SidecarSettings>("socketMode", "use octal digits")),
            (all.workload_id(), all.leader_election()).together(),
        )
            .together()?;
        let scope = node.map_or(scope.clone(), |node| format!("{scope}/{node}"));
        Ok(Self {
            ledger_url: url,
            ledger,
            scope: ScopePlan {
                scope,
                tenant,
                instance: instance.as_str().to_owned(),
                ttl_seconds: role.fencing_ttl_seconds,
                standby: role.standby,
                poll_every: role.poll_interval_ms.into(),
            },
            socket,
            socket_mode: mode,
            max_requests: role.max_requests as usize,
            call_limit: role.call_timeout_ms.into(),
            stop_budget: election.stop_budget_ms.into(),
            listen: all.block::<lease_worker_common::health::HealthSettings>()?.listen,
        })
    }
}

/// The ledger, by a connection whose certificates are checked before the start, and read again when they change.
fn ledger(all: &All, role: &SidecarSettings, url: &str, token: Option<Token>) -> Result<Ledger, BadSetting> {
    let files = [
        ("ledgerCaFile", &role.ledger_ca_file),
        ("ledgerCertFile", &role.ledger_cert_file),
        ("ledgerKeyFile", &role.ledger_key_file),
    ];
    let tls = url.starts_with("https:");
    if tls {
        all.required::<SidecarSettings, _>("ledgerCaFile", role.ledger_ca_file.as_ref())?;
        if role.ledger_cert_file.is_some() != role.ledger_key_file.is_some() {
            all.required::<SidecarSettings, _>("ledgerCertFile", role.ledger_cert_file.as_ref())?;
            all.required::<SidecarSettings, _>("ledgerKeyFile", role.ledger_key_file.as_ref())?;
        }
    } else if let Some((key, _)) = files.iter().find(|(_, file)| file.is_some()) {
        let why =
            "the ledger is not at https, so it would not be used: use an https:// ledgerUrl, or remove it";
        return Err(all.refuse::<SidecarSettings>(key, why));
    }
    let named: Vec<_> = files.iter().filter_map(|(key, file)| Some((*key, Option::clone(file)?))).collect();
    let paths = named.iter().map(|(_, path)| path.clone()).collect();
    let server_name = role.ledger_server_name.clone();
    let pem = move |contents: &[Vec<u8>]| {
        let [ca, identity @ ..] = contents else { return None };
        let identity = match identity {
            [certificate, key] => Some((certificate.clone(), key.clone())),
            _ => None,
        };
        Some(TlsPem { ca: ca.clone(), identity, server_name: server_name.clone() })
    };
    Ledger::from_files(url, paths, pem, token).map_err(|unusable| {
        let key = named.get(unusable.file).map_or("ledgerUrl", |(key, _)| key);
        all.refuse::<SidecarSettings>(key, unusable.why)
    })
}
