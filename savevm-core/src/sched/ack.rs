// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's word that a section's initial bytes are loaded, which is worth something for one generation.
//!
//! QEMU counts such words without saying whose they are; a device that begins anew (vfio.h, `VFIO_PRECOPY_INFO_REINIT`) after
//! its word was given would switch over with the whole initial state still to move.

/// One section's generations, counted from 1.
#[derive(Clone, Debug)]
pub(super) struct Acknowledgement {
    wanted: bool,
    generation: u32,
    announced: u32,
    acknowledged: u32,
}

/// What became of an acknowledgement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Received {
    Accepted,
    /// It belongs to a generation that is over.
    Stale,
    /// Nothing of the kind was announced.
    Unexpected,
}

impl Acknowledgement {
    pub(super) const fn new(wanted: bool) -> Self {
        Self { wanted, generation: 1, announced: 0, acknowledged: 0 }
    }

    /// The generation awaited, if one is.
    pub(super) fn missing(&self) -> Option<u32> {
        (self.wanted && self.acknowledged < self.generation).then_some(self.generation)
    }

    /// The generation to announce, if its announcement is due once the initial bytes are out.
    pub(super) fn to_announce(&self) -> Option<u32> {
        self.missing().filter(|generation| self.announced < *generation)
    }

    pub(super) fn announce(&mut self) {
        self.announced = self.generation;
    }

    pub(super) fn receive(&mut self, generation: u32) -> Received {
        if generation > self.announced || !self.wanted {
            return Received::Unexpected;
        }
        if generation < self.generation {
            return Received::Stale;
        }
        self.acknowledged = generation;
        Received::Accepted
    }

    /// A new initial phase: returns its generation.
    pub(super) fn reopen(&mut self) -> u32 {
        self.generation = self.generation.saturating_add(1);
        self.generation
    }
}
