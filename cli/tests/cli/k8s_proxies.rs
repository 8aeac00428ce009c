//! Mode k8s behind proxies, and with more than one kubeconfig: the real binary on a real API server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lease_testbed::{Certificates, ControlPlane, ControlPlaneOptions};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::common::{Leasehold, Ran};
use crate::store::Store;

/// A name in the API server's certificate, which only a proxy can resolve here.
const SERVER: &str = "kubernetes.default.svc";

/// What a proxy's clients speak to it.
#[derive(Clone)]
enum Spoken {
    Http,
    Https(TlsAcceptor),
    Socks,
}

impl Spoken {
    /// HTTP in TLS, as a server on 127.0.0.1 whose certificate and key are in `folder`.
    fn https(folder: &Path) -> anyhow::Result<Self> {
        // Which other crates may have chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = CertificateDer::from_pem_file(folder.join("server.crt"))?;
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
        let mut tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
        // As proxies do that know both.
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self::Https(TlsAcceptor::from(Arc::new(tls))))
    }
}

/// A proxy that takes everybody to one address, wherever they want to go, and remembers where that was.
struct Gateway {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    async fn start(to: SocketAddr, spoken: Spoken) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, asked) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        let remembered = asked.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (remembered, spoken) = (remembered.clone(), spoken.clone());
                tokio::spawn(async move {
                    match spoken {
                        Spoken::Http => carry(client, by_connect, to, &remembered).await,
                        Spoken::Socks => carry(client, by_socks, to, &remembered).await,
                        Spoken::Https(tls) => {
                            carry(tls.accept(client).await?, by_connect, to, &remembered).await
                        }
                    }
                });
            }
        });
        Ok(Self { address, asked })
    }

    fn was_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("not poisoned"))
    }
}

/// Takes one client there, once it has said where it wants to go.
async fn carry<C: AsyncRead + AsyncWrite + Unpin>(
    mut client: C,
    by: impl AsyncFnOnce(&mut C) -> anyhow::Result<String>,
    to: SocketAddr,
    remembered: &Mutex<Vec<String>>,
) -> anyhow::Result<()> {
    let target = by(&mut client).await?;
    remembered.lock().expect("not poisoned").push(target);
    copy_bidirectional(&mut client, &mut TcpStream::connect(to).await?).await?;
    Ok(())
}

async fn by_connect<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    let head = String::from_utf8(head)?;
    Ok(head.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

async fn by_socks<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) -> anyhow::Result<String> {
    let mut hello = [0; 2];
    client.read_exact(&mut hello).await?;
    client.read_exact(&mut vec![0; hello[1].into()]).await?;
    client.write_all(&[5, 0]).await?;
    let mut request = [0; 5];
    client.read_exact(&mut request).await?;
    anyhow::ensure!(request[3] == 3, "a name, which the proxy resolves");
    let mut name = vec![0; request[4].into()];
    client.read_exact(&mut name).await?;
    let port = client.read_u16().await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    Ok(format!("{}:{port}", String::from_utf8(name)?))
}

struct Site {
    _plane: ControlPlane,
    address: SocketAddr,
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl Site {
    async fn new() -> anyhow::Result<Self> {
        let plane = ControlPlane::start(ControlPlaneOptions::default()).await?;
        let access = plane.access();
        access.create_namespace("app").await?;
        let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
            "verbs": ["get", "list", "watch", "update", "create"]}]);
        let worker = access.create_identity("app", "worker", rules).await?;
        let kubeconfig = worker.kubeconfig().to_owned();
        let server = Self::read(&kubeconfig)?["clusters"][0]["cluster"]["server"].clone();
        let address = server.as_str().unwrap_or_default().trim_start_matches("https://").parse()?;
        Ok(Self { address, _plane: plane, folder: tempfile::tempdir()?, kubeconfig })
    }

    fn read(path: &Path) -> anyhow::Result<serde_json::Value> {
        Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
    }

    /// A kubeconfig that names the server as only a proxy knows it, and perhaps a proxy of its own.
    fn elsewhere(&self, name: &str, proxy: Option<&str>) -> anyhow::Result<String> {
        let mut config = Self::read(&self.kubeconfig)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = json!(format!("https://{SERVER}:{}", self.address.port()));
        if let Some(proxy) = proxy {
            cluster["proxy-url"] = json!(proxy);
        }
        self.file(name, &config.to_string())
    }

    fn file(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// `leasehold init`, with these variables.
    async fn init(&self, lease: &str, variables: &[(&str, &str)]) -> Ran {
        let cli = Leasehold::bare()
            .with("SPENDGUARD_LEADER_ELECTION_MODE", "k8s")
            .with("SPENDGUARD_LEADER_K8S_CALL_TIMEOUT_MS", "5000");
        let cli = variables.iter().fold(cli, |cli, (name, value)| cli.with(name, value));
        Store::reached_by(cli).run(&["init", lease]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environments_proxy_is_used_but_for_servers_that_are_excepted() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let gateway = Gateway::start(site.address, Spoken::Http).await?;
    let proxy = format!("http://me:hunter2@{}", gateway.address);
    let (there, here) = (site.elsewhere("there", None)?, site.kubeconfig.display().to_string());

    site.init("one", &[("KUBECONFIG", &there), ("HTTPS_PROXY", &proxy)]).await.ok();
    let asked = gateway.was_asked();
    assert!(!asked.is_empty() && asked.iter().all(|target| target.starts_with(SERVER)), "{asked:?}");

    // kube itself would ask about the proxy's address.
    site.init("two", &[("KUBECONFIG", &there), ("https_proxy", &proxy), ("NO_PROXY", "127.0.0.1")])
        .await
        .ok();
    assert!(!gateway.was_asked().is_empty());
    let excepted = [("KUBECONFIG", &*there), ("HTTPS_PROXY", &proxy), ("NO_PROXY", "other.example, .svc")];
    site.init("three", &excepted).await.failed(&["no connection to the API server"]);
    assert_eq!(gateway.was_asked(), [] as [&str; 0], "it is asked for directly, where nobody knows it");

    let unreadable = [("KUBECONFIG", &*there), ("HTTPS_PROXY", &proxy), ("NO_PROXY", "one,,two")];
    site.init("three", &unreadable).await.failed(&["NO_PROXY can't be read", "with one comma"]);

    site.init("four", &[("KUBECONFIG", &here), ("HTTPS_PROXY", &proxy)]).await.ok();
    assert_eq!(gateway.was_asked(), [] as [&str; 0], "a server on this host");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kubeconfig_may_name_a_proxy_of_its_own_by_http_or_socks() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let (http, socks) = (
        Gateway::start(site.address, Spoken::Http).await?,
        Gateway::start(site.address, Spoken::Socks).await?,
    );
    for (lease, gateway, scheme) in
        [("one", &http, "http"), ("two", &socks, "socks5"), ("three", &socks, "socks5h")]
    {
        let own = format!("{scheme}://{}", gateway.address);
        let kubeconfig = site.elsewhere(scheme, Some(&own))?;
        let variables =
            [("KUBECONFIG", &*kubeconfig), ("HTTPS_PROXY", "http://127.0.0.1:1"), ("NO_PROXY", "*")];
        site.init(lease, &variables).await.ok();
        assert!(!gateway.was_asked().is_empty(), "{scheme}");
    }
    for proxy in ["socks4://me:hunter2@127.0.0.1:1", "ftp://me:hunter2@127.0.0.1:1"] {
        let (scheme, _) = proxy.split_once(':').unwrap_or_default();
        let kubeconfig = site.elsewhere(scheme, Some(proxy))?;
        let allowed = "use http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT";
        let ran = site.init("four", &[("KUBECONFIG", &kubeconfig)]).await;
        ran.failed(&["proxy-url in the kubeconfig", scheme, allowed]);
    }
    Ok(())
}

/// Its certificate is checked against what the kubeconfig trusts, as kubectl does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_at_https_is_reached_by_tls_and_has_to_be_trusted() -> anyhow::Result<()> {
    let (site, folder) = (Site::new().await?, tempfile::tempdir()?);
    let certificates = Certificates::make(folder.path())?;
    let gateway = Gateway::start(site.address, Spoken::https(folder.path())?).await?;
    let proxy = format!("https://me:hunter2@{}", gateway.address);
    let named = site.elsewhere("named", Some(&proxy))?;
    let refused = site.init("one", &[("KUBECONFIG", &named)]).await;
    refused.failed(&[
        "the proxy's certificate isn't trusted; add its authority to the certificate authority in the",
    ]);
    assert!(!refused.err.contains("hunter2"), "{}", refused.err);
    assert_eq!(gateway.was_asked(), [] as [&str; 0]);

    let mut config = Site::read(named.as_ref())?;
    let cluster = &mut config["clusters"][0]["cluster"];
    let of_cluster = std::fs::read_to_string(cluster["certificate-authority"].as_str().unwrap_or_default())?;
    let both = of_cluster + &std::fs::read_to_string(certificates.ca_file())?;
    cluster["certificate-authority"] = json!(site.file("both.crt", &both)?);
    let trusting = site.file("trusting", &config.to_string())?;
    site.init("one", &[("KUBECONFIG", &trusting)]).await.ok();
    let asked = gateway.was_asked();
    assert!(!asked.is_empty() && asked.iter().all(|target| target.starts_with(SERVER)), "{asked:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_not_there_are_left_out_of_a_list_of_kubeconfigs() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let (present, absent) = (site.kubeconfig.display().to_string(), site.folder.path().join("not-there"));
    let absent = absent.display().to_string();
    for (lease, list) in [
        ("one", format!("{absent}:{present}")),
        ("two", format!("{present}:{absent}:")),
        ("three", format!(":{absent}:{present}")),
    ] {
        site.init(lease, &[("KUBECONFIG", &list)]).await.ok();
    }
    let none = site.init("four", &[("KUBECONFIG", &format!("{absent}:{absent}"))]).await;
    none.failed(&["KUBECONFIG names no file that is there", &absent, "leaderElection.k8s.kubeconfig"]);
    let bad = site.file("bad", "clusters: {")?;
    site.init("five", &[("KUBECONFIG", &format!("{bad}:{present}"))]).await.failed(&["no usable kubeconfig"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_two_credentials_says_which_it_uses_and_why() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let present = site.kubeconfig.display().to_string();
    let in_a_pod = ("KUBERNETES_SERVICE_HOST", "127.0.0.1");
    let port = site.address.port().to_string();
    let port = ("KUBERNETES_SERVICE_PORT", &*port);
    let ran = site.init("one", &[in_a_pod, port, ("KUBECONFIG", &present)]).await;
    ran.ok();
    let said =
        "KUBECONFIG names is used, and not this pod's service account, because KUBECONFIG is set: unset it";
    assert!(ran.err.contains(said), "{}", ran.err);

    // The service account of a pod is not here; what matters is that it is looked for.
    let stale = site.init("two", &[in_a_pod, port, ("KUBECONFIG", "/not/there")]).await;
    stale.failed(&[
        "no access from within the cluster",
        "because KUBECONFIG names no file that is there: unset it",
    ]);
    let plain = site.init("three", &[in_a_pod, port]).await;
    plain.failed(&["no access from within the cluster"]);
    assert!(!plain.err.contains("KUBECONFIG"), "{}", plain.err);
    Ok(())
}
