//! Servers built from pinned Go modules of ours: once, into the cache folder, offline afterwards.

use std::{
    collections::VecDeque,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use crate::{
    cache,
    process::find_program,
    supervisor::{Ending, supervisor},
};

/// Far beyond the slowest machine's cold build.
const BUILD_LIMIT: Duration = Duration::from_secs(45 * 60);

const TELL_EVERY: Duration = Duration::from_secs(10);

/// A program that a Go module of ours builds. Its sources are compiled into this library, so that every user of the
/// library can build it.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Module {
    /// The program's file name.
    pub(crate) name: &'static str,
    /// The version that `go.mod` pins; for people, and for the name of the folder.
    pub(crate) version: &'static str,
    /// `go.mod`, `go.sum` and what is compiled: names and contents.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// The package to build: `.`, or the path of one that `go.mod` requires.
    pub(crate) package: &'static str,
    /// More for the linker, as `-X name=value`.
    pub(crate) ldflags: &'static str,
    /// Further names of a program that acts by its name: links beside it.
    pub(crate) aliases: &'static [&'static str],
    /// The time that a build takes, as in `about a minute`.
    pub(crate) takes: &'static str,
    /// The alternative to a Go toolchain, as in `name a running server in LEASEHOLD_TEST_ETCD_ENDPOINTS`.
    pub(crate) instead: &'static str,
}

/// The path of the program, which is built if it isn't in the cache. Many processes may ask at once: one builds.
///
/// # Errors
/// When there is no Go toolchain, or the build fails; the message says what to do.
pub(crate) async fn build(module: Module) -> anyhow::Result<PathBuf> {
    // On a thread of its own: it waits for a file's lock, and goes on if the caller gives up.
    tokio::task::spawn_blocking(move || module.build()).await?
}

// === impl Module ===

impl Module {
    fn build(&self) -> anyhow::Result<PathBuf> {
        let cache = cache::folder().context("no folder to keep servers in: set LEASEHOLD_CACHE to one")?;
        self.build_below(&cache)
    }

    fn build_below(&self, cache: &Path) -> anyhow::Result<PathBuf> {
        let program = cache.join(self.folder()).join(self.name);
        if program.is_file() {
            return Ok(program);
        }
        let folder = program.parent().context("the program is in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = File::create(folder.join("lock"))?;
        if lock.try_lock().is_err() {
            eprintln!("testbed: another process is building {} {}", self.name, self.version);
            lock.lock().context("cannot lock a file in the cache folder")?;
        }
        if !program.is_file() {
            self.make(&program)
                .with_context(|| format!("there is no {} {} to start", self.name, self.version))?;
        }
        Ok(program) // closing the file ends the lock
    }

    /// Below the cache folder.
    fn folder(&self) -> String {
        // Stable enough: another hash only builds once more.
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let (name, version, arch) = (self.name, self.version, std::env::consts::ARCH);
        format!("servers/{name}-{version}-{arch}-{:016x}", hasher.finish())
    }

    /// Builds under another name, so that the program is there whole or not at all. The lock is ours.
    fn make(&self, program: &Path) -> anyhow::Result<()> {
        let go = find_program(Path::new("go")).with_context(|| {
            format!(
                "it is built from source, and no Go toolchain was found on PATH: install Go from https://go.dev/dl \
                 (the version that {}'s go.mod names, or 1.21 and later, which fetch it), or {}",
                self.name, self.instead
            )
        })?;
        let sources = supervisor()?.folder(&format!("build-{}", self.name))?;
        for (name, text) in self.files {
            fs::write(sources.path().join(name), text)?;
        }
        let partial = program.with_extension("partial");
        let mut command = supervisor()?.command(&go, Ending::Kill)?;
        command
            .args(["build", "-v", "-trimpath", "-ldflags", &format!("-s -w {}", self.ldflags), "-o"])
            .arg(&partial)
            .arg(self.package)
            .current_dir(sources.path())
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut building = Building(command.spawn().context("cannot start go")?);
        self.follow(&mut building.0).with_context(|| {
            format!(
                "go build failed; the first build needs the network (the module proxy that `go env GOPROXY` names), \
                 the toolchain that its go.mod asks for, and room in {} and in Go's own caches; fix the cause and retry, or {}",
                program.display(),
                self.instead
            )
        })?;
        for alias in self.aliases {
            let link = program.with_file_name(alias);
            let _ = fs::remove_file(&link); // of a build that was broken off
            std::os::unix::fs::symlink(self.name, link)?;
        }
        fs::rename(&partial, program).context("cannot move the program into the cache")
    }

    /// Waits for the build, and says on standard error how far it is.
    fn follow(&self, go: &mut Child) -> anyhow::Result<()> {
        let (name, version, start) = (self.name, self.version, Instant::now());
        eprintln!("testbed: building {name} {version} from source, once ({})", self.takes);
        let stderr = go.stderr.take().context("no standard error")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let (mut downloaded, mut compiled, mut tail) = (0, 0, VecDeque::new());
        let mut tell = start + TELL_EVERY;
        loop {
            match lines.recv_timeout(tell.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with("go: downloading") => downloaded += 1,
                // `-v` prints a package's path and no more. Errors have blanks.
                Ok(line) if !line.contains([' ', '\t']) => compiled += 1,
                Ok(line) => {
                    tail.push_back(line);
                    tail.drain(..tail.len().saturating_sub(20));
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if start.elapsed() > BUILD_LIMIT => {
                    bail!("it took longer than {BUILD_LIMIT:?}")
                }
                Err(RecvTimeoutError::Timeout) => {
                    let so_far = start.elapsed().as_secs();
                    eprintln!(
                        "testbed: building {name}: {so_far} s, {downloaded} modules downloaded, {compiled} packages \
                         compiled"
                    );
                    tell += TELL_EVERY;
                }
            }
        }
        let status = go.wait()?;
        if !status.success() {
            bail!("{status}: {}", Vec::from(tail).join("\n"));
        }
        eprintln!("testbed: built {name} {version} in {} s", start.elapsed().as_secs());
        Ok(())
    }
}

/// A build that runs; ended with all its compilers if it hasn't ended by itself.
struct Building(Child);

impl Drop for Building {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.0);
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            let _ = self.0.wait();
        }
        if let Ok(supervisor) = supervisor() {
            supervisor.forget(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETER: Module = Module {
        name: "greeter",
        version: "1",
        files: &[
            ("go.mod", "module leasehold.invalid/greeter\n\ngo 1.21\n"),
            (
                "main.go",
                "package main\n\nimport \"os\"\n\nvar word string\n\nfunc main() { os.Stdout.WriteString(word + os.Args[1]) }\n",
            ),
        ],
        package: ".",
        ldflags: "-X main.word=hello",
        aliases: &["welcomer"],
        takes: "seconds",
        instead: "greet by hand",
    };

    const BROKEN: &[(&str, &str)] =
        &[GREETER.files[0], ("main.go", "package main\n\nfunc main() { greet() }\n")];

    #[test]
    fn is_built_once_however_many_ask() -> anyhow::Result<()> {
        let cache = supervisor()?.folder("cache")?;
        let build = || GREETER.build_below(cache.path());
        let programs: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(build)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let program = programs[0].as_ref().expect("it is built");
        let made = fs::metadata(program)?.modified()?;
        assert!(programs.iter().all(|other| other.as_ref().is_ok_and(|other| other == program)));
        assert_eq!(build()?, *program);
        assert_eq!(fs::metadata(program)?.modified()?, made);
        let output = std::process::Command::new(program.with_file_name("welcomer")).arg(" you").output()?;
        assert_eq!(String::from_utf8(output.stdout)?, "hello you");
        Ok(())
    }

    #[test]
    fn a_failed_build_leaves_no_program_and_says_what_to_do() -> anyhow::Result<()> {
        let cache = supervisor()?.folder("cache")?;
        let broken = Module { files: BROKEN, ..GREETER };
        let error = format!("{:#}", broken.build_below(cache.path()).expect_err("it can't be built"));
        for part in ["greeter 1", "GOPROXY", "greet by hand", "undefined: greet"] {
            assert!(error.contains(part), "no {part:?} in {error:?}");
        }
        assert!(!cache.path().join(broken.folder()).join("greeter").exists());
        Ok(())
    }

    #[test]
    fn a_change_of_any_file_is_another_program() {
        let changed = Module { files: BROKEN, ..GREETER };
        assert_ne!(GREETER.folder(), changed.folder());
    }
}
