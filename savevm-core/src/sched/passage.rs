// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How long a section's bytes take to get from one end to the other, were the channel its own.

use core::time::Duration;

use super::config::Section;
use super::model::Term;
use super::section::Progress;
use super::units;

/// One deviation of a measured or remembered speed.
const SPEED_SPREAD_PER_MILLE: u32 = 60;

/// What is between the two ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) chunk_bytes: u64,
    /// What it carries.
    pub(super) bytes_per_s: u64,
    /// What it was seen to take from those who send, in time without reading.
    pub(super) sent_bytes_per_s: Option<u64>,
}

impl Progress {
    /// How long a last chunk takes to be written once the channel has it.
    pub(super) fn write_time(&self, chunk_bytes: u64) -> Duration {
        self.write_bytes_per_s().map(|speed| units::time_for(chunk_bytes, speed)).unwrap_or_default()
    }

    /// Stopping and moving `bytes` in chunks, were the channel its own.
    pub(super) fn own_term(&self, section: &Section, bytes: u64, way: &Way) -> Term {
        let stop = Term::from(section.profile.stop);
        let (read, write) = (self.read_bytes_per_s(section), self.write_bytes_per_s());
        let takes =
            |piece: u64, speed: Option<u64>| speed.map(|speed| units::time_for(piece, speed)).unwrap_or_default();
        // Read and sent in turn, a chunk takes both times, and is past the channel then. Small chunks of another section make sending look
        // slow, and so does sharing the channel with it: the best that was seen counts.
        let sent = self.sent_bytes_per_s().max(way.sent_bytes_per_s);
        let in_turn = read.zip(sent).filter(|_| section.in_turn);
        let source = in_turn.map(|(read, sent)| units::scale(read, sent, read.saturating_add(sent))).or(read);
        let channel = in_turn.is_none().then_some(way.bytes_per_s);
        let Some(bytes_per_s) = [source, write].into_iter().flatten().min() else { return stop };
        let spread =
            units::hypotenuse(u64::from(SPEED_SPREAD_PER_MILLE), u64::from(section.profile.size_spread_per_mille));
        // The two ends go on beside each other. What the slower of them does not cover is the way of the first chunk to a slow
        // writer, or that of the last from a slow reader, which waits for the one before it.
        let whole = way.chunk_bytes.min(bytes);
        let through = if source.zip(write).is_some_and(|(source, write)| source > write) {
            takes(whole, channel).saturating_add(takes(whole, source))
        } else {
            let last = last_piece(bytes, way.chunk_bytes);
            let before =
                if bytes > last { takes(whole, write).saturating_sub(takes(last, source)) } else { Duration::ZERO };
            takes(last, channel).saturating_add(takes(last, write)).saturating_add(before)
        };
        let moving = units::time_for(bytes, bytes_per_s).saturating_add(through);
        stop.then(Term::new(moving, u32::try_from(spread).unwrap_or(u32::MAX)))
    }
}

/// What is left of `bytes` after all whole chunks but the last.
pub(super) fn last_piece(bytes: u64, chunk_bytes: u64) -> u64 {
    match bytes.checked_rem(chunk_bytes) {
        Some(0) | None => chunk_bytes.min(bytes),
        Some(rest) => rest,
    }
}
