// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets with state of one device that follow each other on a channel: many become one entry.

use crate::inspect::device::Packet;
use crate::inspect::entry::Entry;
use crate::inspect::words::size;

/// Up to so many are shown one by one.
const SHOWN_MAX: usize = 4;

/// Packets with state that follow each other.
#[derive(Debug, Default)]
pub(super) struct Packets {
    first: Vec<Entry>,
    count: u64,
    bytes: u64,
    /// The lowest and highest index.
    low: u32,
    high: u32,
    end: u64,
}

impl Packets {
    /// Whether the packet belongs into the row.
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        self.first.first().is_none_or(|first| first.name == entry.name)
    }

    pub(super) fn add(&mut self, entry: Entry, packet: &Packet) {
        let is_first = self.count == 0;
        self.low = if is_first { packet.index } else { self.low.min(packet.index) };
        self.high = self.high.max(packet.index);
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(packet.bytes);
        self.end = entry.end();
        if self.first.len() < SHOWN_MAX {
            self.first.push(entry);
        }
    }

    /// The entries of the row, which is over.
    pub(super) fn finish(&mut self) -> Vec<Entry> {
        let Self { mut first, count, bytes, low, high, end } = core::mem::take(self);
        if usize::try_from(count).is_ok_and(|count| count <= SHOWN_MAX) || first.is_empty() {
            return first;
        }
        let mut entry = first.swap_remove(0);
        entry.facts.remove("index");
        entry.facts.remove("payload_bytes");
        entry.reach(end);
        let entry =
            entry.fact("packets", count).fact("data_bytes", bytes).fact("index_min", low).fact("index_max", high);
        vec![entry.text(format!("×{count}, packets between {low} and {high}, {} of state", size(bytes)))]
    }
}
