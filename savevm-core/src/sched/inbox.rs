// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Chunks that arrived, until they are written: in order, and inside the window.
//!
//! The memory of it is bounded by the window divided by the least chunk that counts: an empty chunk is refused, so a
//! window of `w` bytes holds at most `w` chunks, and a sequence number far ahead costs no more than one near by.

use alloc::collections::BTreeMap;

/// Why a chunk is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// More than was granted.
    Overrun,
    /// It was here before, or is empty.
    Repeated,
}

#[derive(Clone, Debug)]
pub(super) struct Inbox {
    window_bytes: u64,
    waiting: BTreeMap<u64, u64>,
    waiting_bytes: u64,
    /// The next chunk to write.
    next: u64,
    written: u64,
}

impl Inbox {
    pub(super) const fn new(window_bytes: u64) -> Self {
        Self { window_bytes, waiting: BTreeMap::new(), waiting_bytes: 0, next: 0, written: 0 }
    }

    pub(super) const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    pub(super) const fn written_chunks(&self) -> u64 {
        self.written
    }

    /// Nothing has arrived.
    pub(super) fn is_untouched(&self) -> bool {
        self.next == 0 && self.waiting.is_empty()
    }

    pub(super) fn arrived(&mut self, sequence: u64, bytes: u64) -> Result<(), Refusal> {
        if bytes == 0 || sequence < self.next || self.waiting.contains_key(&sequence) {
            return Err(Refusal::Repeated);
        }
        let total = self.waiting_bytes.saturating_add(bytes);
        if total > self.window_bytes {
            return Err(Refusal::Overrun);
        }
        self.waiting.insert(sequence, bytes);
        self.waiting_bytes = total;
        Ok(())
    }

    /// The next chunk in order, if it is here. It counts against the window until it is written.
    pub(super) fn take_next(&mut self) -> Option<(u64, u64)> {
        let bytes = self.waiting.remove(&self.next)?;
        let sequence = self.next;
        self.next = self.next.saturating_add(1);
        Some((sequence, bytes))
    }

    pub(super) fn written(&mut self, bytes: u64) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        self.written = self.written.saturating_add(1);
    }

    /// Whether the stream can end after so many chunks.
    pub(super) fn accepts_end(&self, chunks: u64) -> bool {
        chunks >= self.next && self.waiting.last_key_value().is_none_or(|(last, _)| *last < chunks)
    }
}
