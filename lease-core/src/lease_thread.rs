//! One thread and runtime per process, on which all lease I/O runs (docs/protocol.md, "One lease thread").
//!
//! A backend is *connected* here too, so that its sockets are served by this runtime: a caller whose own runtime is
//! blocked for seconds still renews in time. Nothing but lease I/O may ever run here.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

static RUNTIME: OnceLock<Handle> = OnceLock::new();

/// The lease thread's runtime, started when first asked for. It lives as long as the process.
///
/// # Panics
/// If the operating system can't start a thread.
pub fn handle() -> &'static Handle {
    RUNTIME.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("leasehold".to_owned())
            .spawn(move || {
                let runtime =
                    Builder::new_current_thread().enable_all().build().expect("a runtime must start");
                let _ = tell.send(runtime.handle().clone());
                runtime.block_on(std::future::pending::<()>());
            })
            .expect("the lease thread must start");
        told.recv().expect("the lease thread must start")
    })
}
