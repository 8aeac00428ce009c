//! The stand-in for a container image.

use std::path::PathBuf;

/// The stand-in for a container image: files of this machine, beside the system's own programs and libraries, which
/// every container sees.
///
/// ```
/// use lease_node::Image;
/// let image = Image::new("leasehold:e2e")
///     .file("/usr/local/bin/leasehold", "target/debug/leasehold")
///     .entrypoint(["/usr/local/bin/leasehold"])
///     .user(65532, 65532);
/// ```
#[derive(Clone, Debug)]
pub struct Image {
    pub(crate) name: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) files: Vec<(String, PathBuf)>,
    pub(crate) user: (u32, u32),
}

impl Image {
    /// An image for the containers whose `image` is `name`, with any tag or digest or none.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), entrypoint: Vec::new(), files: Vec::new(), user: (0, 0) }
    }

    /// The command of containers that have no `command`.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, entrypoint: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = entrypoint.into_iter().map(Into::into).collect();
        self
    }

    /// Shows the file `here` as `path` in the image; `path` must not be in a folder of the system, as `/usr/bin` and
    /// `/lib` are.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, here: impl Into<PathBuf>) -> Self {
        self.files.push((path.into(), here.into()));
        self
    }

    /// The user and group of pods that set none, as `USER` in a Containerfile; root unless set.
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.user = (user, group);
        self
    }

    pub(crate) fn is(&self, asked: &str) -> bool {
        asked.strip_prefix(&self.name).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
    }
}
