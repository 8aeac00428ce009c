//! The proxy to the API server, as kubectl chooses it.
//!
//! kube chooses one too, but asks NO_PROXY about the proxy's own address, and knows no exception for this host.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// The proxy for `server`: the one that its kubeconfig names; else the environment's, unless NO_PROXY excepts the
/// server, or it is on this host.
///
/// # Errors
/// Where the proxy was named, and what would be allowed there.
pub(crate) fn choose(
    named: Option<&str>,
    server: &Uri,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, String> {
    let first = |names: [&'static str; 2]| {
        names.into_iter().find_map(|name| Some((name, environment(name).filter(|text| !text.is_empty())?)))
    };
    if let Some(text) = named.filter(|text| !text.is_empty()) {
        return parse("proxy-url in the kubeconfig", text).map(Some);
    }
    let variables = match server.scheme_str() {
        Some("http") => ["HTTP_PROXY", "http_proxy"],
        _ => ["HTTPS_PROXY", "https_proxy"],
    };
    let Some((variable, text)) = first(variables) else { return Ok(None) };
    let exceptions = first(["NO_PROXY", "no_proxy"]).map(|(_, text)| text);
    if is_here(server) || exceptions.is_some_and(|exceptions| is_excepted(server, exceptions)) {
        return Ok(None);
    }
    parse(variable, &text).map(Some)
}

fn is_here(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_excepted(server: &Uri, exceptions: String) -> bool {
    Matcher::builder().all("http://any").no(exceptions).build().intercept(server).is_none()
}

/// The text may hold a password: it is not shown.
fn parse(source: &str, text: &str) -> Result<Uri, String> {
    const ALLOWED: &str = "use http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT";
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // By socks5 the proxy looks the server's name up, too.
    let text = text.replacen("socks5h://", "socks5://", 1);
    let proxy: Uri =
        text.parse().map_err(|_| format!("{source} can't be read as a proxy's URL: {ALLOWED}"))?;
    match proxy.scheme_str() {
        Some("http" | "https" | "socks5") => Ok(proxy),
        scheme => {
            let scheme = scheme.unwrap_or_default();
            Err(format!("{source} names a proxy of the kind {scheme}, which is not supported: {ALLOWED}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://api.example.com:6443";

    fn chosen(named: Option<&str>, server: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let of =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, text)| (*text).to_owned());
        let proxy = choose(named, &server.parse().expect("a URL"), of)?;
        Ok(proxy.map_or_else(|| "direct".to_owned(), |proxy| proxy.to_string()))
    }

    #[test]
    fn the_environments_proxy_is_used_unless_the_server_is_excepted_from_it() {
        let proxy = ("HTTPS_PROXY", "http://proxy:3128");
        let direct = |server: &str, no: &str| {
            let chosen = chosen(None, server, &[proxy, ("no_proxy", no)]).expect("a choice");
            assert!(["direct", "http://proxy:3128/"].contains(&&*chosen), "{chosen}");
            chosen == "direct"
        };
        for no in ["api.example.com", ".example.com", "example.com", "other, api.example.com", "*"] {
            assert!(direct(SERVER, no), "{no}");
        }
        assert!(direct("https://10.0.0.1", "10.0.0.0/8"));
        assert!(direct("https://[fd00::1]:6443", "fd00::/8"));
        assert!(direct("https://127.0.0.1:6443", "") && direct("https://[::1]:6443", "other"));
        assert!(direct("https://localhost", "other"));
        // The exceptions are the server's, not the proxy's.
        for no in ["", "proxy", "ample.com", "10.0.0.0/8"] {
            assert!(!direct(SERVER, no), "{no}");
        }
        assert_eq!(chosen(None, SERVER, &[]), Ok("direct".to_owned()));
        assert_eq!(chosen(None, "http://api", &[proxy]), Ok("direct".to_owned()));
    }

    #[test]
    fn the_kubeconfigs_own_proxy_comes_first_and_has_no_exceptions() {
        let variables = [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", "*")];
        assert_eq!(
            chosen(Some("socks5h://own:1080"), SERVER, &variables),
            Ok("socks5://own:1080/".to_owned())
        );
        assert_eq!(chosen(Some(""), SERVER, &variables), Ok("direct".to_owned()));
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_without_its_password() {
        assert_eq!(
            chosen(None, SERVER, &[("https_proxy", "proxy:3128")]),
            Ok("http://proxy:3128/".to_owned())
        );
        for (text, part) in
            [("socks4://me:secret@proxy:1080", "socks4"), ("http://me:secret@pro xy", "HTTPS_PROXY")]
        {
            let why = chosen(None, SERVER, &[("HTTPS_PROXY", text)]).expect_err(text);
            assert!(
                why.contains(part) && why.contains("socks5://HOST:PORT") && !why.contains("secret"),
                "{why}"
            );
        }
    }
}
