// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading while the guest runs, and knowing when to leave.
//!
//! This is the rule for a caller without a scheduler: rounds over all devices, chunk by chunk in turn, until
//! the initial bytes are out and what the guest dirties is small, or no longer gets smaller, or the time is over.

use core::time::Duration;
use std::io::{Read, Write};
use std::thread;
use std::time::Instant;

use vfio_mig_fsm::State;

use super::set::SourceSet;
use crate::device::{Device, PrecopyInfo};
use crate::error::Cause;
use crate::hooks::Hooks;
use crate::link::Link;

/// How long a driver that claims to have bytes, but yields none, is left alone before it is asked again.
const STALL_PAUSE: Duration = Duration::from_millis(1);

/// When to leave pre-copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Precopy {
    /// Leave once all devices together report at most this many dirty bytes, and no initial bytes.
    pub dirty_bytes_max: u64,
    /// Leave after this many rounds in a row in which the dirty bytes did not fall: there is nothing more to gain.
    pub level_rounds_max: u32,
    /// Leave after this long in any case. Initial bytes still unread then move while the guest is stopped.
    pub duration_max: Duration,
    /// Chunks read from one device before it is the next one's turn to end the round.
    pub round_chunks_max: u32,
}

impl Default for Precopy {
    fn default() -> Self {
        Self {
            dirty_bytes_max: 1 << 20,
            level_rounds_max: 3,
            duration_max: Duration::from_secs(30),
            round_chunks_max: 64,
        }
    }
}

/// What one round over all devices found.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    initial_bytes: u64,
    dirty_bytes: u64,
    moved_bytes: u64,
}

impl<D: Device, H: Hooks + ?Sized> SourceSet<'_, D, H> {
    /// Reads rounds until the rule says to switch over.
    pub(super) fn precopy<T: Read + Write>(
        &mut self,
        link: &mut Link<T>,
        buffer: &mut [u8],
        rule: &Precopy,
    ) -> Result<(), Cause> {
        let started = Instant::now();
        let mut least_dirty_bytes = u64::MAX;
        let mut level_rounds = 0_u32;
        loop {
            let round = self.round(link, buffer, rule)?;
            if round.initial_bytes == 0 && round.dirty_bytes <= rule.dirty_bytes_max {
                return Ok(());
            }
            // A driver may claim initial bytes for ever: a claim that yields nothing counts as a level round too.
            let falling = round.dirty_bytes < least_dirty_bytes || (round.initial_bytes > 0 && round.moved_bytes > 0);
            level_rounds = if falling { 0 } else { level_rounds.saturating_add(1) };
            least_dirty_bytes = least_dirty_bytes.min(round.dirty_bytes);
            if level_rounds >= rule.level_rounds_max || started.elapsed() >= rule.duration_max {
                return Ok(());
            }
            if round.moved_bytes == 0 {
                thread::sleep(STALL_PAUSE);
            }
        }
    }

    fn round<T: Read + Write>(
        &mut self,
        link: &mut Link<T>,
        buffer: &mut [u8],
        rule: &Precopy,
    ) -> Result<Round, Cause> {
        let mut round = Round::default();
        let mut open: std::vec::Vec<usize> = self.precopying()?;
        let members = open.clone();
        for _ in 0..rule.round_chunks_max {
            let mut more = std::vec::Vec::with_capacity(open.len());
            for index in open {
                self.check_cancel()?;
                if let super::drain::Chunk::Sent(bytes) = self.send_chunk(link, index, buffer)? {
                    round.moved_bytes = round.moved_bytes.saturating_add(bytes);
                    more.push(index);
                }
            }
            if more.is_empty() {
                break;
            }
            open = more;
        }
        for index in members {
            let info = self.precopy_info(index)?;
            round.initial_bytes = round.initial_bytes.saturating_add(info.initial_bytes);
            round.dirty_bytes = round.dirty_bytes.saturating_add(info.dirty_bytes);
        }
        Ok(round)
    }

    fn precopying(&mut self) -> Result<std::vec::Vec<usize>, Cause> {
        let mut members = std::vec::Vec::with_capacity(self.devices.len());
        for (index, device) in self.devices.iter_mut().enumerate() {
            if device.state()? == State::PreCopy {
                members.push(index);
            }
        }
        Ok(members)
    }

    fn precopy_info(&mut self, index: usize) -> Result<PrecopyInfo, Cause> {
        match self.devices.get_mut(index) {
            Some(device) => Ok(device.precopy_info()?),
            None => Ok(PrecopyInfo::default()),
        }
    }

    /// Whether a device began a new initial phase while it was being made quiet. Leaving pre-copy now would move
    /// its whole new initial state inside the downtime.
    pub(super) fn is_reinitialised(&mut self) -> Result<bool, Cause> {
        for device in self.devices.iter_mut() {
            // Only states that answer: PRECOPY_INFO elsewhere is EINVAL.
            if matches!(device.state()?, State::PreCopy | State::PreCopyP2p) {
                let info = device.precopy_info()?;
                if info.reinit == Some(true) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
