// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading while the guest runs, and knowing when to leave.
//!
//! This is the rule for a caller without a scheduler: rounds over all devices, which are read at the same time, until
//! the initial bytes are out and what the guest dirties is small, or no longer gets smaller, or the time is over.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use super::course::Course;
use crate::engine::task::{Done, Task};
use crate::error::Cause;
use crate::hooks::Hooks;

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

impl<H: Hooks + ?Sized> Course<'_, '_, '_, '_, H> {
    /// Reads rounds until the rule says to switch over.
    pub(super) fn precopy(&mut self, members: &[usize], rule: &Precopy) -> Result<(), Cause> {
        let started = Instant::now();
        let mut least_dirty_bytes = u64::MAX;
        let mut level_rounds = 0_u32;
        loop {
            let round = self.round(members, rule)?;
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

    fn round(&mut self, members: &[usize], rule: &Precopy) -> Result<Round, Cause> {
        let task = Task::Round { chunks_max: rule.round_chunks_max };
        let mut round = Round::default();
        for (_, done) in self.helm.each(self.vmm.hooks, members, task)? {
            let Done::Round { moved_bytes, info } = done else { continue };
            round.moved_bytes = round.moved_bytes.saturating_add(moved_bytes);
            round.initial_bytes = round.initial_bytes.saturating_add(info.initial_bytes);
            round.dirty_bytes = round.dirty_bytes.saturating_add(info.dirty_bytes);
        }
        Ok(round)
    }
}
