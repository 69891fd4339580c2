// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! DMA of a simulated device: what it writes and where, and in which states it may.
//!
//! The device writes to a window of addresses that a driver in the guest has told it, and sends its peer a number now and
//! then. Where each write goes and what it says follows from the device's seed and the number of the write alone, so whoever
//! knows how many there were can tell what memory must look like, and find every one that got lost.

use super::{Errno, SimDevice, fill_contents};
use vfio_mig_fsm::State;

/// What is constant about a device's DMA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs)] // Models build it.
pub struct DmaFacts {
    /// How fast it writes, in bytes per second. Whoever carries its writes keeps to that.
    pub rate: u64,
    /// Bytes of one write: a multiple of 16, a page at most.
    pub write_bytes: usize,
    /// Whether it goes on writing to memory in the P2P states. A device that cannot tell its peers from memory stops there
    /// altogether (`vfio.h`).
    pub writes_in_p2p: bool,
    /// The page size of its dirty log; `None`: whatever is asked for.
    pub log_page_bytes: Option<u64>,
}

/// Where a device's DMA has got to. All but what is said to stay moves with a migration.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Dma {
    /// What the writes derive from.
    pub seed: u64,
    /// The first address of the window.
    pub base: u64,
    /// Bytes of the window.
    pub bytes: u64,
    /// What it is to do: [`MEMORY`](Self::MEMORY), [`PEER`](Self::PEER).
    pub control: u64,
    /// Writes to memory so far. The next one has this number.
    pub writes: u64,
    /// Numbers sent to the peer so far.
    pub peer_writes: u64,
    /// Numbers that have come from a peer.
    pub inbox_writes: u64,
    /// The last of them.
    pub inbox_last: u64,
    /// Writes that the IOMMU refused, in whole or in part. Stays.
    pub faults: u64,
    /// Numbers that came while this device was stopped, and were lost: somebody has broken the P2P barrier. Stays.
    pub inbox_stopped: u64,
}

/// What carries the writes of a device: the IOMMU, the memory behind it, the dirty logs, and the peer.
pub trait DmaBus {
    /// Writes `data` at `iova`.
    ///
    /// # Errors
    /// Whatever keeps it, or a part of it, from arriving: an address that is not mapped, or not for writing.
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno>;

    /// Sends `number`, which counts from 1, to the peer.
    fn write_peer(&mut self, number: u64);
}

impl Dma {
    /// In `control`: writes to memory.
    pub const MEMORY: u64 = 1;
    /// In `control`: sends numbers to the peer, one after every 16 writes to memory.
    pub const PEER: u64 = 2;

    const WRITES_PER_PEER_WRITE: u64 = 16;

    /// Whether a driver has given it anything to do, and a window that one write fits in.
    fn is_programmed(&self, facts: DmaFacts) -> bool {
        self.control & Self::MEMORY != 0 && u64::try_from(facts.write_bytes).is_ok_and(|bytes| bytes <= self.bytes)
    }
}

/// Write number `number`, from 0, of a device with `seed` to a window of `window_bytes`: fills `data` and returns where in
/// the window it goes, a multiple of 16.
///
/// The first eight bytes say which write it was, from 1, little-endian.
#[must_use]
pub fn dma_write(seed: u64, window_bytes: u64, number: u64, data: &mut [u8]) -> u64 {
    let mut place = [0; 8];
    fill_contents(seed, number.wrapping_mul(8), &mut place);
    let room = window_bytes.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
    let slots = (room / 16).saturating_add(1);
    let place = u64::from_le_bytes(place);
    fill_contents(place, 0, data);
    for (to, from) in data.iter_mut().zip(number.wrapping_add(1).to_le_bytes()) {
        *to = from;
    }
    place.checked_rem(slots).unwrap_or_default().saturating_mul(16)
}

/// What a device may do by itself in `state`: write to memory, and to its peers.
fn allowed(state: State, facts: DmaFacts) -> (bool, bool) {
    match state {
        State::Running | State::PreCopy => (true, true),
        State::RunningP2p | State::PreCopyP2p => (facts.writes_in_p2p, false),
        _ => (false, false),
    }
}

impl SimDevice {
    /// Has the device do at most `writes` of its DMA, over `bus`, and returns how many it did: none when its state or its
    /// driver has it keep still.
    ///
    /// A transition, a reset, a write of registers and a close wait for the ones under way, so that none come after them.
    /// `bus` must not call back into this device, but for [`take_peer_write`](Self::take_peer_write).
    pub fn dma(&self, writes: u64, bus: &mut dyn DmaBus) -> u64 {
        let Some(facts) = self.shared.facts.dma else { return 0 };
        let _gate = self.shared.gate();
        let (state, mut dma) = {
            let mut core = self.shared.core();
            let state = core.state;
            let Some(dma) = core.model.dma().copied() else { return 0 };
            (state, dma)
        };
        let (memory, peers) = allowed(state, facts);
        if !memory || !dma.is_programmed(facts) {
            return 0;
        }
        let mut data = [0; 4096];
        let data = data.get_mut(..facts.write_bytes).unwrap_or_default();
        for _ in 0..writes {
            let offset = dma_write(dma.seed, dma.bytes, dma.writes, data);
            if bus.write(dma.base.wrapping_add(offset), data).is_err() {
                dma.faults = dma.faults.saturating_add(1);
            }
            dma.writes = dma.writes.saturating_add(1);
            let is_due = dma.writes % Dma::WRITES_PER_PEER_WRITE == 0;
            if is_due && peers && dma.control & Dma::PEER != 0 {
                dma.peer_writes = dma.peer_writes.saturating_add(1);
                bus.write_peer(dma.peer_writes);
            }
        }
        if let Some(current) = self.shared.core().model.dma() {
            // What a peer has sent meanwhile is not this side's to write.
            (current.writes, current.peer_writes, current.faults) = (dma.writes, dma.peer_writes, dma.faults);
        }
        writes
    }

    /// Whether [`dma`](Self::dma) would do anything now.
    #[must_use]
    pub fn has_dma_to_do(&self) -> bool {
        let Some(facts) = self.shared.facts.dma else { return false };
        let mut core = self.shared.core();
        let (memory, _) = allowed(core.state, facts);
        memory && core.model.dma().is_some_and(|dma| dma.is_programmed(facts))
    }

    /// A peer's `number` arrives. A device that is stopped loses it, and keeps account of that.
    pub fn take_peer_write(&self, number: u64) {
        let mut core = self.shared.core();
        let takes = matches!(core.state, State::Running | State::PreCopy | State::RunningP2p | State::PreCopyP2p);
        let Some(dma) = core.model.dma() else { return };
        if takes {
            (dma.inbox_writes, dma.inbox_last) = (dma.inbox_writes.saturating_add(1), number);
        } else {
            dma.inbox_stopped = dma.inbox_stopped.saturating_add(1);
        }
    }
}

#[cfg(test)]
#[path = "dma_test.rs"]
mod test;
