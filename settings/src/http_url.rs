//! URLs of servers that are reached over HTTP or gRPC.

use url::Url;

use crate::secret::unclear;

/// Reads `http://…` or `https://…`.
///
/// # Errors
/// The reason, without what may be a password.
pub fn http_url(text: &str) -> Result<Url, &'static str> {
    let rest = ["http://", "https://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or("it begins with neither http:// nor https://")?;
    if let Some(problem) = unclear(rest) {
        return Err(problem);
    }
    if text.contains("$(") {
        return Err("it holds a variable that nobody has replaced by its value");
    }
    Url::parse(text).map_err(|_| "its host or its port can't be read")
}
