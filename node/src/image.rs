//! What stands for a container image.

use std::path::PathBuf;

/// What stands for a container image: files of this machine's, beside the system's own programs and libraries, which
/// every container sees.
///
/// ```
/// use lease_testbed::Image;
/// let image = Image::new("leasehold:e2e")
///     .file("/usr/local/bin/leasehold", "target/debug/leasehold")
///     .entrypoint(["/usr/local/bin/leasehold"])
///     .user(65532, 65532);
/// ```
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) name: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) files: Vec<(String, PathBuf)>,
    pub(super) env: Vec<(String, String)>,
    pub(super) user: (u32, u32),
}

impl Image {
    /// An image for the containers whose `image` is `name`, or is `name` with a tag or digest, whatever that is.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), entrypoint: Vec::new(), files: Vec::new(), env: Vec::new(), user: (0, 0) }
    }

    /// What it runs, where a container gives no `command`.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, entrypoint: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = entrypoint.into_iter().map(Into::into).collect();
        self
    }

    /// Shows the file `here` as `path` in the image: not in a folder of the system's, as `/usr/bin` and `/lib` are.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, here: impl Into<PathBuf>) -> Self {
        self.files.push((path.into(), here.into()));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Who it runs as, where a pod doesn't say: the `USER` of a Containerfile. Else it is root.
    #[must_use]
    pub fn user(mut self, user: u32, group: u32) -> Self {
        self.user = (user, group);
        self
    }

    pub(super) fn is(&self, asked: &str) -> bool {
        asked.strip_prefix(&self.name).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']))
    }
}
