//! A real PgBouncer in front of a server.

use std::{fs::File, net::SocketAddr, path::Path, process::Child, time::Duration};

use anyhow::{Context, bail};
use rustix::process::Pid;
use tokio::net::TcpStream;

use super::{PASSWORD, Postgres, SUPERUSER};
use crate::{
    ports::ReservedPort,
    process::find_program,
    supervisor::{Ending, Folder, supervisor},
    wait::wait_until,
};

const READY_LIMIT: Duration = Duration::from_secs(60);

/// A PgBouncer that pools transactions over a fixed number of a server's connections, used in turn. Whoever connects is
/// the superuser. Dropping it ends it.
pub struct PgBouncer {
    child: Child,
    port: ReservedPort,
    _folder: Folder,
}

impl PgBouncer {
    /// Starts one in front of `server`.
    ///
    /// # Errors
    /// When PgBouncer isn't installed (the message says what to install), or doesn't start.
    pub async fn start(server: &Postgres, connections: u32) -> anyhow::Result<Self> {
        let program =
            ["pgbouncer", "/usr/sbin/pgbouncer"].iter().find_map(|name| find_program(Path::new(name)));
        let program = program.context(
            "PgBouncer was not found on PATH nor in /usr/sbin: install it (Debian and Ubuntu: `apt-get install \
             pgbouncer`; Fedora: `dnf install pgbouncer`; macOS: `brew install pgbouncer`)",
        )?;
        let (port, folder) = (ReservedPort::new()?, Folder::new("pgbouncer")?);
        server.binaries.user.own(folder.path())?;
        let (conf, log) = (folder.path().join("pgbouncer.ini"), folder.path().join("log"));
        let settings = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={} user={SUPERUSER} password={PASSWORD}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {}\n\
             unix_socket_dir =\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = {connections}\n\
             min_pool_size = {connections}\n\
             server_round_robin = 1\n\
             ignore_startup_parameters = options, extra_float_digits\n",
            server.port(),
            port.number(),
        );
        server.binaries.user.write(&conf, &settings)?;
        let mut command = server.binaries.command(&program.to_string_lossy(), Ending::Kill, folder.path())?;
        command.arg(&conf).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        let child = command.spawn().context("cannot start pgbouncer")?;
        let mut this = Self { child, port, _folder: folder };
        let addr = this.addr();
        let listens = async || TcpStream::connect(addr).await.is_ok();
        if let Err(error) = wait_until("PgBouncer listens", READY_LIMIT, listens).await {
            bail!("{error}: {:?}: {}", this.child.try_wait()?, std::fs::read_to_string(log)?);
        }
        Ok(this)
    }

    /// The address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The url of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://{SUPERUSER}@{}/postgres", self.addr())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(supervisor) = supervisor() {
            supervisor.forget(pid);
        }
    }
}
