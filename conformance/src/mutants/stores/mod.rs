//! Wrong stores: wrappers around any backend.

mod compares;
pub(super) mod dangerous;
mod failures;
mod hints;
mod lies;
pub(super) mod others;
mod twist;
mod wrong;

use lease_core::BackendError;

use super::{Kind, Mutant, WrongStore};

const fn mutant(name: &'static str, make: fn() -> WrongStore, killers: &'static [&'static str]) -> Mutant {
    Mutant { name, killers, kind: Kind::Store(make), losing: false }
}

/// Over a store that can lose its registers.
const fn losing(name: &'static str, make: fn() -> WrongStore, killers: &'static [&'static str]) -> Mutant {
    Mutant { losing: true, ..mutant(name, make, killers) }
}

/// Wrong only in how it fails to connect.
const fn connecting(
    name: &'static str,
    failure: fn(BackendError) -> BackendError,
    killers: &'static [&'static str],
) -> Mutant {
    Mutant { name, killers, kind: Kind::Connection(failure), losing: false }
}
