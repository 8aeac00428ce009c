//! What must hold of any bytes that come from outside: never a panic, never a leader too many, never a lease that
//! nobody can take any more.
//!
//! `cargo test -p lease-fuzz` plays the kept inputs and seeded variations of them; `scripts/fuzz.sh` lets libFuzzer
//! look for others.
#![forbid(unsafe_code)]

mod candidate;
mod registers;
mod requests;
mod settings;

/// Judges one input. Panics if something doesn't hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder of inputs.
pub const TARGETS: &[(&str, Target)] = &[
    ("record", registers::record),
    ("etcd", registers::etcd),
    ("k8s", registers::k8s),
    ("notification", registers::notification),
    ("mark", registers::mark),
    ("settings", settings::file),
    ("access", requests::access),
    ("batch", requests::batch),
    ("grpc", requests::grpc),
];

/// Judges one input by the target of this name.
///
/// # Panics
/// If something doesn't hold, or there is no such target.
pub fn judge(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no target is called {name}")).1(input);
}
