// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The saving side of a plain device: how much can be read at which moment.

use core::time::Duration;
use std::vec::Vec;

use crc_fast::{CrcAlgorithm, Digest};
use vfio_mig_fsm::State;

use super::super::PrecopySizes;
use super::PlainConfig;
use super::content::{self, HEADER_BYTES, Trailer};
use super::registers::State as DeviceState;

const NANOS_PER_S: u128 = 1_000_000_000;

/// One saving session. All positions count from the begin of the stream.
#[derive(Debug)]
pub(super) struct Save {
    seed: u64,
    has_dma: bool,
    initial_bytes: u64,
    dirty_bytes: u64,
    dirty_rate: Option<u64>,
    stop_bytes: u64,
    /// The next byte to read.
    position: u64,
    /// Where the initial phase ends.
    initial_end: u64,
    /// Where the readable bytes end.
    end: u64,
    dirty_left_bytes: u64,
    /// The moment up to which dirty bytes were counted; `None` outside PRE_COPY.
    counted: Option<Duration>,
    /// What of a dirty byte is still missing, in byte-nanoseconds per second.
    remainder: u128,
    queries_to_reinit: Option<u64>,
    digest: Digest,
    stopped: Option<Stopped>,
}

#[derive(Debug)]
struct Stopped {
    device: DeviceState,
    trailer_at: u64,
    trailer: Option<Vec<u8>>,
}

/// The length of a stream saved without PRE_COPY.
pub(super) fn whole_bytes(config: &PlainConfig) -> u64 {
    initial_bytes(config).saturating_add(stop_bytes(config))
}

fn initial_bytes(config: &PlainConfig) -> u64 {
    config.initial_bytes.max(to_u64(HEADER_BYTES))
}

fn stop_bytes(config: &PlainConfig) -> u64 {
    config.stop_bytes.max(to_u64(content::trailer_bytes(config.dma.is_some())))
}

impl Save {
    pub(super) fn new(config: &PlainConfig, device: &DeviceState, now: Duration) -> Self {
        let initial_bytes = initial_bytes(config);
        let mut save = Self {
            seed: device.seed,
            has_dma: config.dma.is_some(),
            initial_bytes,
            dirty_bytes: config.dirty_bytes,
            dirty_rate: config.dirty_rate,
            stop_bytes: stop_bytes(config),
            position: 0,
            initial_end: initial_bytes,
            end: initial_bytes,
            dirty_left_bytes: config.dirty_total_bytes,
            counted: None,
            remainder: 0,
            queries_to_reinit: config.reinit_after,
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
            stopped: None,
        };
        if config.dirty_rate.is_none() {
            save.dirty_left_bytes = save.dirty_left_bytes.min(config.dirty_bytes);
        }
        save.enter(State::Running, now);
        save
    }

    /// The device only gets dirty in PRE_COPY: in the P2P states it starts nothing new.
    pub(super) fn enter(&mut self, state: State, now: Duration) {
        self.count(now);
        self.counted = (state == State::PreCopy).then_some(now);
    }

    /// Enters STOP_COPY: the rest of the stream becomes readable, and the state of the device final.
    pub(super) fn stop(&mut self, device: &DeviceState) {
        self.end = self.end.saturating_add(self.stop_bytes);
        let trailer_at = self.end.saturating_sub(to_u64(content::trailer_bytes(self.has_dma)));
        self.stopped = Some(Stopped { device: *device, trailer_at, trailer: None });
    }

    pub(super) fn read(&mut self, now: Duration, buffer: &mut [u8]) -> usize {
        self.count(now);
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = self.read_part(rest);
            if read == 0 {
                break;
            }
            filled = filled.saturating_add(read);
        }
        filled
    }

    /// Reads from one part of the stream: header, contents or trailer.
    fn read_part(&mut self, buffer: &mut [u8]) -> usize {
        let contents_end = self.stopped.as_ref().map_or(self.end, |stopped| stopped.trailer_at);
        let header = content::header(self.seed, self.has_dma);
        let read = if self.position < to_u64(HEADER_BYTES) {
            let limit = usize::try_from(contents_end).unwrap_or(usize::MAX);
            copy(buffer, header.get(..limit.min(HEADER_BYTES)).unwrap_or(&header), self.position)
        } else if self.position < contents_end {
            let left = contents_end.saturating_sub(self.position);
            let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            content::fill(self.seed, self.position, buffer.get_mut(..len).unwrap_or_default());
            len
        } else {
            return self.read_trailer(buffer);
        };
        self.digest.update(buffer.get(..read).unwrap_or_default());
        self.position = self.position.saturating_add(to_u64(read));
        read
    }

    fn read_trailer(&mut self, buffer: &mut [u8]) -> usize {
        let Some(stopped) = &mut self.stopped else {
            return 0;
        };
        let (total_bytes, digest, device) = (self.end, &self.digest, stopped.device);
        let trailer =
            stopped.trailer.get_or_insert_with(|| Trailer { total_bytes, digest: digest.finalize(), device }.encode());
        let read = copy(buffer, trailer, self.position.saturating_sub(stopped.trailer_at));
        self.position = self.position.saturating_add(to_u64(read));
        read
    }

    pub(super) fn query(&mut self, version2: bool, now: Duration) -> PrecopySizes {
        self.count(now);
        let mut reinit = false;
        if let (true, Some(left)) = (version2, &mut self.queries_to_reinit) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.queries_to_reinit = None;
                reinit = true;
                // What is queued counts into the new initial phase.
                self.end = self.end.saturating_add(self.initial_bytes);
                self.initial_end = self.end;
            }
        }
        let initial_bytes = self.initial_end.saturating_sub(self.position);
        // As in mlx5 and virtio, nothing is reported dirty before the initial phase has been read.
        let dirty_bytes = if initial_bytes > 0 { 0 } else { self.dirty() };
        PrecopySizes { initial_bytes, dirty_bytes, reinit }
    }

    /// Bytes still to read, those of STOP_COPY included.
    pub(super) fn left(&mut self, now: Duration) -> u64 {
        self.count(now);
        let to_come = if self.stopped.is_some() { 0 } else { self.stop_bytes };
        self.end.saturating_sub(self.position).saturating_add(to_come)
    }

    /// Bytes read so far, and the checksum over those before the trailer.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.position, self.digest.finalize())
    }

    fn dirty(&self) -> u64 {
        self.end.saturating_sub(self.initial_end.max(self.position))
    }

    /// Makes the bytes readable that got dirty since the last count.
    fn count(&mut self, now: Duration) {
        let Some(counted) = self.counted else { return };
        let room = self.dirty_bytes.saturating_sub(self.dirty()).min(self.dirty_left_bytes);
        let grown = match self.dirty_rate {
            None if self.position < self.initial_end => 0,
            None => room,
            Some(rate) => {
                let elapsed = now.saturating_sub(counted).as_nanos();
                let grown = elapsed.saturating_mul(u128::from(rate)).saturating_add(self.remainder);
                self.remainder = grown % NANOS_PER_S;
                u64::try_from(grown / NANOS_PER_S).unwrap_or(u64::MAX).min(room)
            }
        };
        self.counted = Some(now);
        self.end = self.end.saturating_add(grown);
        self.dirty_left_bytes = self.dirty_left_bytes.saturating_sub(grown);
    }
}

/// Copies `from`, beginning at `position` of it, to the begin of `to`.
fn copy(to: &mut [u8], from: &[u8], position: u64) -> usize {
    let from = usize::try_from(position).ok().and_then(|position| from.get(position..)).unwrap_or_default();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    from.len().min(to.len())
}

fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
