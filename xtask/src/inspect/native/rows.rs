// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data frames between two control frames: those of one device that follow each other become one entry, and where
//! devices take turns for long, each becomes one.

use crate::inspect::entry::Entry;
use crate::inspect::words::size;

use super::HEADER_BYTES;

/// Up to so many turns are shown one by one.
const TURNS_MAX: usize = 8;

/// Frames of one device.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) device: u32,
    offset: u64,
    /// Bytes of the frames.
    frame_bytes: u64,
    end: u64,
    frames: u64,
    bytes: u64,
    first: u64,
    last: u64,
    /// Whether frames of other devices stand between them.
    is_scattered: bool,
}

/// The frames of all devices since the last control frame.
#[derive(Debug, Default)]
pub(super) struct Rows {
    turns: Vec<Row>,
    sums: Vec<Row>,
    /// How many turns there were.
    count: usize,
    /// Whose turn it is.
    device: Option<u32>,
}

impl Rows {
    pub(super) fn add(&mut self, offset: u64, device: u32, sequence: u64, length: u32) {
        let row = Row::new(offset, device, sequence, length);
        if self.device != Some(device) {
            self.device = Some(device);
            self.count = self.count.saturating_add(1);
            if self.turns.len() < TURNS_MAX {
                self.turns.push(Row { ..row });
            }
        } else if let Some(turn) = self.turns.last_mut().filter(|_| self.count <= TURNS_MAX) {
            turn.join(&row, false);
        }
        match self.sums.iter_mut().find(|sum| sum.device == device) {
            Some(sum) => sum.join(&row, true),
            None => self.sums.push(row),
        }
    }

    pub(super) fn finish(self) -> Vec<Row> {
        if self.count <= TURNS_MAX { self.turns } else { self.sums }
    }
}

impl Row {
    fn new(offset: u64, device: u32, sequence: u64, length: u32) -> Self {
        let bytes = u64::from(length);
        let frame_bytes = bytes.saturating_add(HEADER_BYTES);
        let end = offset.saturating_add(frame_bytes);
        Self {
            device,
            offset,
            frame_bytes,
            end,
            frames: 1,
            bytes,
            first: sequence,
            last: sequence,
            is_scattered: false,
        }
    }

    fn join(&mut self, next: &Self, is_scattered: bool) {
        self.frame_bytes = self.frame_bytes.saturating_add(next.frame_bytes);
        self.end = next.end;
        self.frames = self.frames.saturating_add(next.frames);
        self.bytes = self.bytes.saturating_add(next.bytes);
        self.last = next.last;
        self.is_scattered |= is_scattered;
    }

    pub(super) fn entry(&self, name: &str) -> Entry {
        let Self { device, offset, frame_bytes, end, frames, bytes, first, last, is_scattered } = self;
        let numbers = if first == last { format!("frame {first}") } else { format!("frames {first} to {last}") };
        let place = if *is_scattered { format!(", up to {end:08x}") } else { String::new() };
        Entry::new("frame", *offset, *frame_bytes)
            .named("Data")
            .fact("device", *device)
            .fact("frames", *frames)
            .fact("data_bytes", *bytes)
            .fact("first", *first)
            .fact("last", *last)
            .fact("end", *end)
            .text(format!("{name}, {numbers}, {} of state{place}", size(*bytes)))
    }
}
