// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a save: the point of no return, or the way back.

use std::io::{Read, Write};
use std::string::ToString;
use std::vec::Vec;

use stream_codec::qemu::Item;

use super::answers::Answers;
use super::{Part, Ready, Report, SourceMachine};
use crate::device::Device;
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Phase};
use crate::qemu::StreamError;
use crate::qemu::input::Pulse;

impl<D: Device + Send, V: SourceMachine + ?Sized, W: Write, R: Read> Ready<'_, D, V, W, R> {
    /// What moved so far.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// The point of no return: sends the end of the stream, after which a QEMU target runs, and waits for its last word.
    ///
    /// # Errors
    /// With [`MigrationError::committed`] unset the end did not leave, or the target said that it failed: the devices are
    /// back. With it set the target may run: this side must stay stopped.
    pub fn commit(mut self) -> Result<Report, MigrationError> {
        if let Err(cause) = self.set.enter(Phase::Commit) {
            return Err(self.fail(cause));
        }
        // The end is one byte: either it left or it did not.
        if let Err(cause) = self.main.item(&Item::EndOfStream).and_then(|()| self.main.flush()) {
            if self.main.has_sent_end() {
                return Err(self.in_doubt(cause));
            }
            return Err(self.fail(cause));
        }
        let finished = self.finish();
        match finished {
            Ok(()) => {
                self.set.disarm();
                self.end_memory();
                self.report.confirmed = self.answers.is_some();
                self.report.acks_received = self.answers.as_ref().map_or(0, Answers::acks);
                self.report.downtime = self.set.stopped_at.map(|at| at.elapsed()).unwrap_or_default();
                if let Err(cause) = self.set.retire() {
                    return Err(self.in_doubt(cause));
                }
                self.set.begin(Phase::Done);
                Ok(core::mem::take(&mut self.report))
            }
            Err(cause @ Cause::Qemu(StreamError::Refused { .. })) => Err(self.fail(cause)),
            Err(cause) => Err(self.in_doubt(cause)),
        }
    }

    fn finish(&mut self) -> Result<(), Cause> {
        self.machine(Part::Description)?;
        self.main.flush()?;
        let pulse = Pulse::new(Cancel::new(), self.limits.silence_max);
        let Some(answers) = &mut self.answers else { return Ok(()) };
        loop {
            match answers.shut() {
                Some(0) => return Ok(()),
                Some(status) => return Err(StreamError::Refused { status }.into()),
                None => answers.read_some(self.acks)?,
            }
            pulse.check_silence(|| "the target's last word (SHUT)".to_string())?;
        }
    }
}

impl<D: Device + Send, V: SourceMachine + ?Sized, W: Write, R: Read> Ready<'_, D, V, W, R> {
    /// Ends the attempt and puts the devices back.
    #[must_use]
    pub fn abort(mut self) -> MigrationError {
        self.fail(Cause::Cancelled)
    }

    pub(super) fn fail(&mut self, cause: Cause) -> MigrationError {
        // The target's own word says more than a connection that breaks.
        let cause = match (&cause, self.answers.as_mut().and_then(Answers::last_word)) {
            (Cause::Qemu(StreamError::Io { .. } | StreamError::Closed { .. }), Some(status)) => {
                StreamError::Refused { status }.into()
            }
            _ => cause,
        };
        if let Some(memory) = &mut self.memory {
            memory.end(false);
        }
        let (phase, devices) = (self.set.phase, self.set.abort(&cause));
        MigrationError { phase, cause, devices, committed: false }
    }

    /// Memory is the target's, or may be.
    fn end_memory(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.end(true);
        }
    }

    fn in_doubt(&mut self, cause: Cause) -> MigrationError {
        self.set.disarm();
        self.end_memory();
        // They stay stopped either way.
        let _ = self.set.retire();
        MigrationError { phase: self.set.phase, cause, devices: Vec::new(), committed: true }
    }
}

impl<D: Device + Send, V: SourceMachine + ?Sized, W: Write, R: Read> Drop for Ready<'_, D, V, W, R> {
    fn drop(&mut self) {
        if self.set.is_armed() {
            let _ = self.fail(Cause::Cancelled);
        }
    }
}
