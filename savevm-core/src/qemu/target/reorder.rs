// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which packet may be written now, which may be kept, and which must wait where it is.
//!
//! A stock QEMU hands packets to its channels one after the other, so the oldest one that has not been written is always
//! the first on its channel and the next for its device: nothing ever needs to be kept for it. Keeping some lets
//! the channels run ahead of a slow one, and a sender that deals its packets otherwise go on. The bound holds for any sender.

use std::collections::BTreeMap;
use std::vec::Vec;

/// What keeping a packet costs beside its bytes: generously, a node of the map and the allocator's share.
const KEEPING_BYTES: usize = 128;

/// A packet that is kept until it is its turn.
#[derive(Debug, Default)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) is_config: bool,
}

#[derive(Debug)]
enum Kept {
    /// Its bytes are being received.
    Coming {
        charge: usize,
    },
    Whole {
        charge: usize,
        packet: Packet,
    },
}

/// What becomes of a packet that arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It is the next of its device, which is now its: write it, then call [`Reorder::leave`].
    Now,
    /// There is room for it: receive it, then call [`Reorder::keep`].
    Keep,
    /// Neither: leave it in the channel.
    Wait,
}

/// A sender broke the rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Breach {
    /// A packet came twice.
    Twice,
    /// A packet beyond the device's last.
    BeyondEnd { end: u32 },
    /// A packet further ahead than any may be.
    TooFar,
}

#[derive(Debug, Default)]
struct Queue {
    next: u32,
    is_busy: bool,
    kept: BTreeMap<u32, Kept>,
    end: Option<u32>,
}

/// The packets of all devices.
#[derive(Debug)]
pub(super) struct Reorder {
    bytes_max: usize,
    ahead_max: u32,
    kept_bytes: usize,
    peak_bytes: usize,
    has_started: bool,
    queues: Vec<Queue>,
}

impl Reorder {
    pub(super) fn new(devices: usize, bytes_max: usize, ahead_max: u32) -> Self {
        let queues = (0..devices).map(|_| Queue::default()).collect();
        Self { bytes_max, ahead_max, kept_bytes: 0, peak_bytes: 0, has_started: false, queues }
    }

    /// From now on packets may be written: all that came before on the main connection has been.
    pub(super) fn start(&mut self) {
        self.has_started = true;
    }

    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    pub(super) fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// The packet the device waits for.
    pub(super) fn next(&self, device: usize) -> u32 {
        self.queues.get(device).map_or(0, |queue| queue.next)
    }

    /// Whether the device has had its last packet.
    pub(super) fn is_complete(&self, device: usize) -> bool {
        self.queues.get(device).is_some_and(|queue| queue.end.is_some_and(|end| queue.next > end))
    }

    /// Whether no packet is being written and none can be: if every channel waits, nothing will ever move.
    pub(super) fn is_idle(&self) -> bool {
        let can_move = |queue: &Queue| queue.is_busy || matches!(queue.kept.get(&queue.next), Some(Kept::Whole { .. }));
        self.has_started && !self.queues.iter().any(can_move)
    }

    /// Whether a packet that had to wait need not any more.
    pub(super) fn may_enter(&self, device: usize, index: u32, length: usize) -> bool {
        let has_turn = self.has_started && self.queues.get(device).is_some_and(|queue| queue.next == index);
        has_turn || self.kept_bytes.saturating_add(length).saturating_add(KEEPING_BYTES) <= self.bytes_max
    }

    /// Asks for a packet whose header has come.
    pub(super) fn ask(&mut self, device: usize, index: u32, length: usize, is_config: bool) -> Result<Turn, Breach> {
        let (bytes_max, ahead_max, has_started) = (self.bytes_max, self.ahead_max, self.has_started);
        let Some(queue) = self.queues.get_mut(device) else { return Err(Breach::BeyondEnd { end: 0 }) };
        if index < queue.next || queue.kept.contains_key(&index) || (index == queue.next && queue.is_busy) {
            return Err(Breach::Twice);
        }
        let last_kept = queue.kept.last_key_value().map(|(index, _)| *index);
        match (queue.end, is_config) {
            (Some(end), _) if index > end => return Err(Breach::BeyondEnd { end }),
            (None, true) if last_kept.is_some_and(|last| last > index) => return Err(Breach::BeyondEnd { end: index }),
            _ => {}
        }
        // The packet itself is one of those ahead.
        if index.saturating_sub(queue.next) > ahead_max {
            return Err(Breach::TooFar);
        }
        let charge = length.saturating_add(KEEPING_BYTES);
        let after = self.kept_bytes.saturating_add(charge);
        let turn = if has_started && index == queue.next {
            queue.is_busy = true;
            Turn::Now
        } else if after <= bytes_max {
            queue.kept.insert(index, Kept::Coming { charge });
            self.kept_bytes = after;
            self.peak_bytes = self.peak_bytes.max(after);
            Turn::Keep
        } else {
            return Ok(Turn::Wait);
        };
        if is_config {
            queue.end = Some(index);
        }
        Ok(turn)
    }

    /// A packet that was to be kept has come whole.
    pub(super) fn keep(&mut self, device: usize, index: u32, packet: Packet) {
        let kept = self.queues.get_mut(device).and_then(|queue| queue.kept.get_mut(&index));
        if let Some(kept) = kept {
            if let Kept::Coming { charge } = *kept {
                *kept = Kept::Whole { charge, packet };
            }
        }
    }

    /// The device's next packet, if it is kept and nobody writes to the device. It counts until [`Reorder::leave`].
    pub(super) fn take(&mut self, device: usize) -> Option<(Packet, usize)> {
        let queue = self.queues.get_mut(device).filter(|queue| self.has_started && !queue.is_busy)?;
        if !matches!(queue.kept.get(&queue.next), Some(Kept::Whole { .. })) {
            return None;
        }
        queue.is_busy = true;
        match queue.kept.remove(&queue.next) {
            Some(Kept::Whole { charge, packet }) => Some((packet, charge)),
            _ => None,
        }
    }

    /// The packet whose turn it was is written; `charge` is what [`Reorder::take`] said, or zero.
    pub(super) fn leave(&mut self, device: usize, charge: usize) {
        self.kept_bytes = self.kept_bytes.saturating_sub(charge);
        if let Some(queue) = self.queues.get_mut(device) {
            queue.is_busy = false;
            queue.next = queue.next.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn started(bytes_max: usize) -> Reorder {
        let mut reorder = Reorder::new(2, bytes_max, 8);
        reorder.start();
        reorder
    }

    fn packet(byte: u8) -> Packet {
        Packet { bytes: std::vec![byte], is_config: false }
    }

    #[test]
    fn the_next_packet_needs_no_room() {
        let mut reorder = started(0);
        for index in 0..4 {
            assert_eq!(reorder.ask(0, index, 1 << 20, false), Ok(Turn::Now));
            reorder.leave(0, 0);
        }
        assert_eq!(reorder.ask(0, 5, 1, false), Ok(Turn::Wait));
        assert_eq!(reorder.peak_bytes(), 0);
    }

    #[test]
    fn what_is_kept_comes_out_in_order_and_makes_room() {
        let mut reorder = started(2 * (KEEPING_BYTES + 1));
        for index in [2, 1] {
            assert_eq!(reorder.ask(0, index, 1, false), Ok(Turn::Keep));
        }
        assert_eq!(reorder.ask(1, 1, 1, false), Ok(Turn::Wait), "one bound for all devices");
        reorder.keep(0, 1, packet(11));
        assert!(reorder.take(0).is_none(), "packet 0 has not come");
        assert_eq!(reorder.ask(0, 0, 1, false), Ok(Turn::Now));
        reorder.leave(0, 0);
        let (first, charge) = reorder.take(0).unwrap();
        assert_eq!(first.bytes, [11]);
        assert_eq!(reorder.ask(1, 1, 1, false), Ok(Turn::Wait), "it counts while it is written");
        reorder.leave(0, charge);
        assert!(reorder.take(0).is_none(), "packet 2 is still coming");
        assert_eq!(reorder.ask(1, 1, 1, false), Ok(Turn::Keep));
        assert_eq!(reorder.peak_bytes(), 2 * (KEEPING_BYTES + 1));
    }

    #[test]
    fn nothing_is_written_before_the_start() {
        let mut reorder = Reorder::new(1, 1000, 8);
        assert_eq!(reorder.ask(0, 0, 1, false), Ok(Turn::Keep));
        reorder.keep(0, 0, packet(7));
        assert!(reorder.take(0).is_none() && !reorder.is_idle());
        reorder.start();
        assert_eq!(reorder.take(0).unwrap().0.bytes, [7]);
    }

    #[test]
    fn the_config_packet_is_the_last() {
        let mut reorder = started(10_000);
        assert_eq!(reorder.ask(0, 1, 5, true), Ok(Turn::Keep));
        assert_eq!(reorder.ask(0, 2, 5, false), Err(Breach::BeyondEnd { end: 1 }));
        assert!(!reorder.is_complete(0));
        assert_eq!(reorder.ask(0, 0, 5, false), Ok(Turn::Now));
        reorder.leave(0, 0);
        reorder.keep(0, 1, Packet { bytes: Vec::new(), is_config: true });
        let (last, charge) = reorder.take(0).unwrap();
        assert!(last.is_config);
        reorder.leave(0, charge);
        assert!(reorder.is_complete(0) && reorder.kept_bytes() == 0);

        assert_eq!(reorder.ask(1, 3, 5, false), Ok(Turn::Keep));
        assert_eq!(reorder.ask(1, 2, 5, true), Err(Breach::BeyondEnd { end: 2 }), "one beyond it is here already");
    }

    #[test]
    fn twice_and_too_far_are_refused() {
        let mut reorder = started(10_000);
        assert_eq!(reorder.ask(0, 0, 1, false), Ok(Turn::Now));
        assert_eq!(reorder.ask(0, 0, 1, false), Err(Breach::Twice), "it is being written");
        assert_eq!(reorder.ask(0, 8, 1, false), Ok(Turn::Keep));
        assert_eq!(reorder.ask(0, 8, 1, false), Err(Breach::Twice), "it is kept");
        assert_eq!(reorder.ask(0, 9, 1, false), Err(Breach::TooFar));
        assert_eq!(reorder.ask(0, 0xffff_fffe, 1, false), Err(Breach::TooFar));
        reorder.leave(0, 0);
        assert_eq!(reorder.ask(0, 0, 1, false), Err(Breach::Twice), "it is written");
    }

    #[test]
    fn idle_means_that_only_what_waits_can_help() {
        let mut reorder = started(0);
        assert!(reorder.is_idle());
        assert_eq!(reorder.ask(0, 0, 1, false), Ok(Turn::Now));
        assert!(!reorder.is_idle(), "one is being written");
        reorder.leave(0, 0);
        assert_eq!(reorder.ask(0, 3, 1, false), Ok(Turn::Wait));
        assert!(reorder.is_idle() && !reorder.may_enter(0, 3, 1) && reorder.may_enter(0, 1, 1));
    }
}
