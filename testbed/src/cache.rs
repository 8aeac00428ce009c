//! The cache folder: outside the source tree, shared by all processes of a user.

use std::path::PathBuf;

/// `$LEASEHOLD_CACHE`, `$XDG_CACHE_HOME/leasehold` or `~/.cache/leasehold`; `None` if none of them is known.
pub(crate) fn folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("LEASEHOLD_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("leasehold")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/leasehold")))
}
