//! The history of one process as a file of lines, read while it grows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use anyhow::Context;

use crate::history::HistoryEntry;

/// Reads the file of a [`Recorder::appending`](crate::recorder::Recorder::appending).
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    offset: u64,
}

impl Tail {
    /// From the beginning of a file, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The events that were written since the last call.
    ///
    /// # Errors
    /// The file can't be read, or holds something else.
    pub fn read(&mut self) -> anyhow::Result<Vec<HistoryEntry>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", self.path.display()));
            }
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // A process that is killed within its write leaves at most one line without an end.
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.offset += complete as u64;
        bytes[..complete]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                serde_json::from_slice(line).with_context(|| format!("bad line in {}", self.path.display()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lease_core::{Instant, LeaseName};

    use super::*;
    use crate::history::What;
    use crate::recorder::Recorder;

    #[test]
    fn a_tail_reads_each_complete_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace");
        let mut tail = Tail::new(path.clone());
        assert_eq!(tail.read().unwrap(), []);
        let (recorder, lease) = (Recorder::appending(&path).unwrap(), LeaseName::new("lease").unwrap());
        recorder.record(&lease, Instant::ZERO, "a", What::Paused);
        let event = HistoryEntry { at: Instant::ZERO, actor: "a".into(), what: What::Paused };
        let (first, rest) = (b"{\"at\":7,", b"\"actor\":\"a\",\"what\":\"died\"}\n");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(first).unwrap();
        assert_eq!(tail.read().unwrap(), [event]);
        file.write_all(rest).unwrap();
        let late = tail.read().unwrap();
        assert_eq!(late.iter().map(|event| &event.what).collect::<Vec<_>>(), [&What::Died]);
        file.write_all(b"nonsense\n").unwrap();
        assert!(tail.read().unwrap_err().to_string().contains("bad line in"));
    }
}
