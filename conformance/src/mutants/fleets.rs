//! Mutants in simulated fleets, where nothing but the invariants judges.

use std::sync::Arc;

use futures::FutureExt;
use lease_judge::FencedResource;
use lease_judge::history::History;

use super::{Kind, Mutant};
use crate::fleet::{Parts, play};
use crate::harness::Harness;
use crate::memory::MemoryHarness;
use crate::step::real_core;

/// The history of this seed's fleet with everything right.
pub fn play_right(seed: u64) -> History {
    play(seed, Parts { core: real_core(), store: None, resource: resource() })
}

impl Mutant {
    /// The history of this seed's fleet with this mutant in it.
    pub fn play(&self, seed: u64) -> History {
        let core = match self.kind {
            Kind::Core(make) => make(),
            _ => real_core(),
        };
        let resource = match self.kind {
            Kind::Fence(make) => make(),
            _ => resource(),
        };
        play(seed, Parts { core, store: self.store(), resource })
    }
}

fn resource() -> Arc<dyn FencedResource> {
    let resource = MemoryHarness::keeping().resource("resource").now_or_never();
    resource.and_then(Result::ok).expect("memory makes a resource at once")
}
