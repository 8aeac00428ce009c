//! `etcd`: the keys below a prefix of an etcd cluster.

use std::path::Path;

use lease_core::InvalidSettings;
use lease_etcd::{Etcd as Backend, EtcdConfig};
use lease_settings::{
    BadSetting, Block, LeaseStore, Millis, Mode, Secret, Section, Setting, Settings, ValueKind,
};
use serde::Deserialize;

pub(super) struct EtcdMode;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    endpoints: Option<String>,
    prefix: String,
    user: Option<String>,
    password: Option<Secret>,
    password_file: Option<String>,
    ca_file: Option<String>,
    cert_file: Option<String>,
    key_file: Option<String>,
    server_name: Option<String>,
    call_timeout_ms: Millis,
}

impl Block for Config {
    const SECTION: Section = Section {
        name: "leaderElection.etcd",
        about: "mode etcd: keys below a prefix of an etcd cluster",
        settings: &[
            Setting::new(
                "endpoints",
                "SPENDGUARD_LEADER_ETCD_ENDPOINTS",
                ValueKind::Parsed {
                    name: "endpoints",
                    check: |text| EtcdConfig::new(nodes(text)).map(drop).map_err(|error| error.why),
                    allowed: "use http://host:2379, or https://host:2379 over a network",
                },
                "the nodes' URLs with commas between them, as https://etcd-0:2379,https://etcd-1:2379",
            )
            .flag("etcd-endpoints"),
            Setting::new("prefix", "SPENDGUARD_LEADER_ETCD_PREFIX", ValueKind::Text, "what all keys begin with")
                .default(EtcdConfig::PREFIX)
                .flag("etcd-prefix"),
            Setting::new(
                "user",
                "SPENDGUARD_LEADER_ETCD_USER",
                ValueKind::Text,
                "who we are to etcd; it may read and write everything below the prefix",
            )
            .flag("etcd-user"),
            Setting::new("password", "SPENDGUARD_LEADER_ETCD_PASSWORD", ValueKind::Text, "the user's password").secret(),
            Setting::new(
                "passwordFile",
                "SPENDGUARD_LEADER_ETCD_PASSWORD_FILE",
                ValueKind::Text,
                "the file with the user's password, read anew for each connection",
            )
            .flag("etcd-password-file"),
            Setting::new(
                "caFile",
                "SPENDGUARD_LEADER_ETCD_CA_FILE",
                ValueKind::Text,
                "the authority that has signed the nodes' certificates, in PEM; files are read anew for each connection",
            )
            .unset("the system's root certificates")
            .flag("etcd-ca-file"),
            Setting::new(
                "certFile",
                "SPENDGUARD_LEADER_ETCD_CERT_FILE",
                ValueKind::Text,
                "our own certificate, in PEM, for nodes that ask for one",
            )
            .flag("etcd-cert-file"),
            Setting::new("keyFile", "SPENDGUARD_LEADER_ETCD_KEY_FILE", ValueKind::Text, "our certificate's key, in PEM")
                .flag("etcd-key-file"),
            Setting::new(
                "serverName",
                "SPENDGUARD_LEADER_ETCD_SERVER_NAME",
                ValueKind::Text,
                "the name in the nodes' certificates",
            )
            .unset("the URLs' host"),
            Setting::new(
                "callTimeoutMs",
                "SPENDGUARD_LEADER_ETCD_CALL_TIMEOUT_MS",
                ValueKind::Millis { min: 10, max: 60_000 },
                "how long any call may take",
            )
            .default("10000"),
        ],
    };
}

fn nodes(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).collect()
}

const ADVICE: &str = "check that a majority of the nodes runs, that the endpoints are right, and that no firewall or \
    NetworkPolicy is in the way";

impl Mode for EtcdMode {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn section(&self) -> Section {
        Config::SECTION
    }

    fn open(&self, settings: &Settings) -> Result<LeaseStore, BadSetting> {
        let set = settings.block::<Config>()?;
        let endpoints = settings.required::<Config, _>("endpoints", set.endpoints)?;
        let endpoints = nodes(&endpoints);
        let refuse = |key| move |error: InvalidSettings| settings.refuse::<Config>(key, error.why);
        let readable = |key, file: &str| match std::fs::read(Path::new(file)) {
            Ok(_) => Ok(()),
            Err(error) => Err(settings.refuse::<Config>(key, format!("it can't be read: {error}"))),
        };
        let mut config = EtcdConfig::new(&endpoints)
            .map_err(refuse("endpoints"))?
            .prefix(&set.prefix)
            .map_err(refuse("prefix"))?
            .call_timeout(set.call_timeout_ms.into())
            .map_err(refuse("callTimeoutMs"))?;
        config = match (&set.user, &set.password, &set.password_file) {
            (None, None, None) => config,
            (Some(user), Some(password), None) => config.user(user, password.expose()),
            (Some(user), None, Some(file)) => {
                readable("passwordFile", file)?;
                config.user_with_password_file(user, file)
            }
            (Some(_), None, None) => {
                return Err(settings.refuse::<Config>("user", "set passwordFile (or password) as well"));
            }
            (Some(_), Some(_), Some(_)) => {
                return Err(settings.refuse::<Config>("passwordFile", "set it or password, not both"));
            }
            (None, ..) => {
                let key = if set.password.is_some() { "password" } else { "passwordFile" };
                return Err(settings.refuse::<Config>(key, "set user as well"));
            }
        };
        let secure = endpoints.iter().all(|endpoint| endpoint.starts_with("https://"));
        let files = [("caFile", &set.ca_file), ("certFile", &set.cert_file), ("keyFile", &set.key_file)];
        for (key, file) in files {
            let Some(file) = file else { continue };
            if !secure {
                return Err(settings
                    .refuse::<Config>(key, "it is for https:// endpoints only; use these, or remove it"));
            }
            readable(key, file)?;
        }
        if let Some(file) = &set.ca_file {
            config = config.ca_file(file);
        }
        config = match (&set.cert_file, &set.key_file) {
            (None, None) => config,
            (Some(certificate), Some(key)) => config.client_certificate(certificate, key),
            (Some(_), None) => return Err(settings.refuse::<Config>("certFile", "set keyFile as well")),
            (None, Some(_)) => return Err(settings.refuse::<Config>("keyFile", "set certFile as well")),
        };
        if let Some(name) = &set.server_name {
            config = config.server_name(name);
        }
        let description = format!("etcd at {}, prefix {}", endpoints.join(", "), set.prefix);
        Ok(LeaseStore::new("etcd", description, ADVICE, Backend::connector(config)))
    }
}
