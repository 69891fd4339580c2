// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading while the guest runs, and knowing when to leave.
//!
//! A fixed rule instead of [`crate::sched`]: while the guest runs all devices take turns on one main stream, guest memory among them. How
//! much the machine itself has left only the machine knows.
//!
//! Memory goes in passes: all that is known to be dirty is sent before the trackers are asked again. So only at the end of a pass it is known
//! how much is left, and only there the decision is made.

use core::time::Duration;
use std::io::{Read, Write};
use std::thread;
use std::time::Instant;
use std::vec;

use stream_codec::qemu::{SectionKind, VfioRecord};

use super::channels::Channels;
use super::{Part, Ready, SaveOptions, SourceMachine, check_shut};
use crate::device::{self, Device};
use crate::error::Cause;

/// How long a round without anything to send lasts.
const PAUSE: Duration = Duration::from_millis(1);

/// When to leave pre-copy. A round is one chunk of each device, and of guest memory a pass over all that is dirty.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Precopy {
    /// Leave once all devices and guest memory together have at most this many dirty bytes, and no initial bytes.
    pub dirty_bytes_max: u64,
    /// Leave after this many rounds in a row in which the dirty bytes did not fall: there is nothing more to gain.
    pub level_rounds_max: u32,
    /// Leave after this long in any case, but for acknowledgements that are owed. Initial bytes still unread then move
    /// while the guest is stopped. The first pass over guest memory does not count: it takes what it takes.
    pub duration_max: Duration,
}

impl Default for Precopy {
    /// 1 MiB of dirty bytes, 192 level rounds, 30 s.
    fn default() -> Self {
        Self { dirty_bytes_max: 1 << 20, level_rounds_max: 192, duration_max: Duration::from_secs(30) }
    }
}

/// What one round over all devices found.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    initial_bytes: u64,
    dirty_bytes: u64,
    has_moved: bool,
    /// More of guest memory is known to be dirty, and goes first.
    is_mid_pass: bool,
}

impl<D: Device + Send, V: SourceMachine + ?Sized, W: Write, R: Read> Ready<'_, D, V, W, R> {
    /// Rounds over all devices, a chunk of each, until what is left is little and nothing waits for an acknowledgement.
    pub(super) fn precopy<C: Write + Send>(
        &mut self,
        channels: &Channels<C>,
        rule: &Precopy,
        options: &SaveOptions,
    ) -> Result<(), Cause> {
        let mut buffer = vec![0; options.limits.chunk_len()];
        let (mut begin, mut least_dirty_bytes, mut level_rounds) = (Instant::now(), u64::MAX, 0u32);
        let mut is_first_pass = true;
        loop {
            let round = self.round(channels, &mut buffer)?;
            if round.is_mid_pass {
                continue;
            }
            if core::mem::take(&mut is_first_pass) {
                begin = Instant::now();
            }
            if self.awaits_acks(round.has_moved)? {
                // Until they come nothing may stop, however long it takes: that is what they are for.
                if begin.elapsed() >= rule.duration_max.max(options.limits.silence_max) {
                    return Err(Cause::refused(
                        "the target has not acknowledged the initial bytes; is switchover-ack on there?",
                    ));
                }
                continue;
            }
            if round.initial_bytes == 0 && round.dirty_bytes <= rule.dirty_bytes_max {
                return Ok(());
            }
            let is_falling = round.dirty_bytes < least_dirty_bytes || (round.initial_bytes > 0 && round.has_moved);
            level_rounds = if is_falling { 0 } else { level_rounds.saturating_add(1) };
            least_dirty_bytes = least_dirty_bytes.min(round.dirty_bytes);
            if level_rounds >= rule.level_rounds_max || begin.elapsed() >= rule.duration_max {
                return Ok(());
            }
            if !round.has_moved {
                thread::sleep(PAUSE);
            }
        }
    }

    fn round<C: Write + Send>(&mut self, channels: &Channels<C>, buffer: &mut [u8]) -> Result<Round, Cause> {
        let mut round = Round::default();
        self.set.check_cancel()?;
        self.machine(Part::Round)?;
        self.ram(channels, |writer, memory| {
            if !memory.is_tracked() {
                return Ok(());
            }
            writer.part(memory)?;
            round.is_mid_pass = !memory.is_drained();
            if !round.is_mid_pass {
                memory.collect();
                round.dirty_bytes = memory.dirty_bytes();
            }
            Ok(())
        })?;
        for index in self.set.precopying()? {
            round.has_moved |= self.send_part(index, buffer, &mut round)?;
        }
        self.main.flush()?;
        Ok(round)
    }

    /// A PART section of one device: at most one chunk, and whether the initial bytes are out with it.
    fn send_part(&mut self, index: usize, buffer: &mut [u8], round: &mut Round) -> Result<bool, Cause> {
        self.set.check_cancel()?;
        let (id, name) = self.section(index);
        // Asked first: a device that has none from the beginning, or that starts anew, is noticed before its bytes are gone.
        self.set.ask(index)?;
        let count = match self.set.read(index, buffer)? {
            device::Read::Bytes(count) => count,
            _ => 0,
        };
        let info = self.set.ask(index)?;
        round.initial_bytes = round.initial_bytes.saturating_add(info.initial_bytes);
        round.dirty_bytes = round.dirty_bytes.saturating_add(info.dirty_bytes);
        let must_tell = self.set.must_tell(index, self.acks);
        if must_tell {
            if let Some(answers) = &mut self.answers {
                answers.expect_ack();
            }
        }
        if count > 0 || must_tell {
            self.main.open_section(SectionKind::Part, id, &name)?;
            self.main.data(buffer.get(..count).unwrap_or_default())?;
            self.main.record(if must_tell { VfioRecord::InitDataSent } else { VfioRecord::EndOfState })?;
            self.main.footer(id)?;
        }
        Ok(count > 0)
    }

    /// Whether an acknowledgement is owed. Listens only when nothing else is to do, for a read may wait.
    fn awaits_acks(&mut self, has_moved: bool) -> Result<bool, Cause> {
        let (acks, is_untold) = (self.acks, self.set.has_untold(self.acks)?);
        let Some(answers) = &mut self.answers else { return Ok(false) };
        if answers.owes(acks) && !has_moved {
            answers.read_some(acks)?;
            check_shut(answers)?;
        }
        Ok(is_untold || answers.owes(acks))
    }
}
