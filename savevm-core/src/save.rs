// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's side: read the state of a set of devices into a stream, and give the devices up, or keep them.
//!
//! # Who owns the guest, and when
//!
//! Up to [`Ready::commit`] the source does. Whatever fails before it (a device, the connection, the target, the
//! caller's patience) ends with every device back in the state it was found in, or reset where there is no way back,
//! and the error says which. Dropping a [`Ready`] counts as such a failure.
//!
//! [`Ready`] exists only after the target has acknowledged every device with the byte count and digest the source
//! computed itself. `commit` consumes it and tells the target to run. From then on the source never runs again by
//! itself: the message may have arrived even if everything after it is lost, and two running copies of a guest are worse
//! than none.

mod course;
mod drive;
mod experience;
mod memory;
mod precopy;
mod read;
mod set;
mod worker;

use core::time::Duration;
use std::format;
use std::io::{self, Write};
use std::string::String;
use std::thread;
use std::time::Instant;
use std::vec::Vec;

use stream_codec::frame::Role;

use crate::channel::Channel;
use crate::device::Device;
use crate::digest::DigestSum;
use crate::engine::counters::Counters;
use crate::engine::helm::Helm;
use crate::engine::receive::NoData;
use crate::engine::spread::Spread;
use crate::engine::threads::{Lead, start, start_receivers, start_senders};
use crate::engine::verdict::{Unsent, send_commit, wait_verdict};
use crate::engine::wire::{Reader, Wire};
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Hooks, Phase};
use crate::limits::Limits;
use crate::link::Incoming;
use crate::ram::{Attempt, Source};
use crate::sched::Interval;
use crate::tap::Taps;
use crate::trace::Trace;
use course::Course;
use drive::Drive;
pub use experience::Experience;
use memory::Memory;
pub use precopy::Precopy;
use set::SourceSet;
use worker::Worker;

/// What the caller decides about a save.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SaveOptions {
    /// Bounds on memory and on what the peer may send.
    pub limits: Limits,
    /// When to leave pre-copy; `None` goes straight to stop-copy.
    pub precopy: Option<Precopy>,
    /// Ends the migration from another thread.
    pub cancel: Cancel,
    /// Distinguishes this attempt from every other; both sides print it.
    pub nonce: [u8; 16],
    /// Who looks at the streams before they are sent; nobody by default.
    pub taps: Taps,
    /// What earlier migrations taught of devices like these; nothing by default.
    pub experience: Experience,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            precopy: Some(Precopy::default()),
            cancel: Cancel::new(),
            nonce: [0; 16],
            taps: Taps::default(),
            experience: Experience::new(),
        }
    }
}

/// One device's state, as it left the source.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DeviceSum {
    /// The device's name.
    pub device: String,
    /// Bytes and checksum of its whole state. The checksum of memory that moves without
    /// [a digest](crate::Limits::memory_digest) is zero.
    pub sum: DigestSum,
    /// How many of the bytes passed while the guest ran.
    pub precopy_bytes: u64,
}

/// Saves `devices` to a target at the other end of `channels`, up to its acknowledgement.
///
/// Every device is read by a thread of its own, and keeps to one of the channels. The threads end with this call.
///
/// # Errors
/// [`MigrationError`], with the devices already put back.
pub fn save<'a, D, H>(
    devices: &'a mut [D],
    channels: impl Into<Vec<Channel<'a>>>,
    hooks: &'a mut H,
    options: &SaveOptions,
) -> Result<Ready<'a, D, H>, MigrationError>
where
    D: Device + Send,
    H: Hooks + ?Sized,
{
    Ready::start(devices, None, channels.into(), hooks, options)
}

/// As [`save`], with the guest's memory beside the devices: one more section of the same migration ([`ram`](crate::ram)), with the
/// devices' number as its index in [`Hooks::progress`].
///
/// # Errors
/// As [`save`]. All memory counts as dirty then, and its trackers are stopped.
pub fn save_with_memory<'a, D, H>(
    devices: &'a mut [D],
    memory: Source<'a>,
    channels: impl Into<Vec<Channel<'a>>>,
    hooks: &'a mut H,
    options: &SaveOptions,
) -> Result<Ready<'a, D, H>, MigrationError>
where
    D: Device + Send,
    H: Hooks + ?Sized,
{
    Ready::start(devices, Some(memory), channels.into(), hooks, options)
}

/// Saves `devices` to `writer`, such as a file. There is nobody to acknowledge: the devices end in STOP, and the
/// caller decides whether to run them again once the bytes are safe.
///
/// # Errors
/// [`MigrationError`], with the devices already put back.
pub fn save_to<D, W, H>(
    devices: &mut [D],
    writer: W,
    hooks: &mut H,
    options: &SaveOptions,
) -> Result<Vec<DeviceSum>, MigrationError>
where
    D: Device + Send,
    W: Write + Send,
    H: Hooks + ?Sized,
{
    let channel = Channel::new(io::empty(), writer);
    let mut ready = Ready::new(devices, None, channel.into(), Role::File, hooks, options);
    match ready.run(options).and_then(|()| ready.close_file()) {
        Ok(()) => {
            ready.set.disarm();
            Ok(ready.sums())
        }
        Err(cause) => Err(ready.failed(cause)),
    }
}

/// Everything is with the target, verified and acknowledged; the source's devices are stopped and still its own.
///
/// Dropped, it aborts: the target is told, the devices return.
#[must_use = "dropping this aborts the migration; call commit to complete it"]
pub struct Ready<'a, D: Device + Send, H: Hooks + ?Sized> {
    set: SourceSet<'a, D, H>,
    readers: Vec<Reader<'a>>,
    wire: Wire<'a>,
}

/// The devices belong to the target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Committed {
    /// What moved.
    pub devices: Vec<DeviceSum>,
    /// The frames of guest memory, where that was handed in: pages that were written again count again, zeros nothing.
    pub memory: Option<DeviceSum>,
    /// From the request to pause the guest to the target's word that it runs.
    pub downtime: Duration,
    /// What the scheduler expected it to be when everything was quiet and the guest was about to be paused.
    pub predicted: Option<Interval>,
    /// What was known of devices, and what this migration added: for [`SaveOptions::experience`] of the next one.
    pub experience: Experience,
    /// How the channels and the buffers were used.
    pub counters: Counters,
}

impl<'a, D: Device + Send, H: Hooks + ?Sized> Ready<'a, D, H> {
    fn start(
        devices: &'a mut [D],
        memory: Option<Source<'a>>,
        channels: Vec<Channel<'a>>,
        hooks: &'a mut H,
        options: &SaveOptions,
    ) -> Result<Self, MigrationError> {
        let mut ready = Self::new(devices, memory, channels, Role::Source, hooks, options);
        match ready.run(options) {
            Ok(()) => Ok(ready),
            Err(cause) => Err(ready.failed(cause)),
        }
    }

    fn new(
        devices: &'a mut [D],
        memory: Option<Source<'a>>,
        channels: Vec<Channel<'a>>,
        role: Role,
        hooks: &'a mut H,
        options: &SaveOptions,
    ) -> Self {
        let (readers, wire) = Wire::new(channels, role, memory.is_some(), options.limits, options.cancel.clone());
        let trace = Trace::new("source", devices.len(), wire.lanes.len());
        let mut set = SourceSet::new(devices, hooks, options.cancel.clone(), &options.taps, trace);
        set.add_memory(memory);
        set.experience = options.experience.clone();
        Self { set, readers, wire }
    }

    /// What moved, and what both sides agree on.
    #[must_use]
    pub fn sums(&self) -> Vec<DeviceSum> {
        let sum = |(device, progress): (&D, &set::Progress)| progress.sum(device.name());
        self.set.devices.iter().zip(&self.set.progress).map(sum).collect()
    }

    /// What moved of guest memory, where that was handed in.
    #[must_use]
    pub fn memory_sum(&self) -> Option<DeviceSum> {
        let progress = self.set.progress.get(self.set.devices.len());
        progress.map(|progress| progress.sum(crate::ram::NAME))
    }

    /// How the channels and the buffers were used.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.wire.counters()
    }

    /// The point of no return: gives the devices up and tells the target to run them.
    ///
    /// # Errors
    /// With [`MigrationError::committed`] unset, the message provably never left and the devices are back. With it
    /// set, the target was told, or may have been, and did not confirm: this side must stay stopped.
    pub fn commit(mut self) -> Result<Committed, MigrationError> {
        if let Err(cause) = self.set.vmm.enter(Phase::Commit) {
            return Err(self.fail(cause));
        }
        let told_at = Instant::now();
        match send_commit(&self.wire) {
            Ok(()) => {}
            Err(Unsent { error, certain: true }) => return Err(self.fail(error)),
            Err(Unsent { error, certain: false }) => {
                // The devices stay stopped either way; a failure to say so changes nothing.
                let _ = self.set.retire();
                return Err(self.in_doubt(error));
            }
        }
        self.set.disarm();
        let retired = self.set.retire();
        let confirmed = wait_verdict(&mut self.wire, &mut self.readers).and_then(|incoming| match incoming {
            Incoming::Complete => Ok(()),
            other => Err(other.out_of_place()),
        });
        if let Err(cause) = confirmed.and(retired) {
            return Err(self.in_doubt(cause));
        }
        self.set.vmm.done();
        let downtime = self.set.vmm.stopped_at.map(|at| at.elapsed()).unwrap_or_default();
        self.set.learn_run(told_at.elapsed());
        Ok(Committed {
            devices: self.sums(),
            memory: self.memory_sum(),
            downtime,
            predicted: self.set.vmm.predicted,
            experience: core::mem::take(&mut self.set.experience),
            counters: self.counters(),
        })
    }

    /// Ends the attempt: tells the target, puts the devices back.
    #[must_use]
    pub fn abort(mut self) -> MigrationError {
        self.fail(Cause::Cancelled)
    }

    /// All phases up to the last acknowledgement, in one scope.
    fn run(&mut self, options: &SaveOptions) -> Result<(), Cause> {
        let offers = self.set.offers();
        let regions = self.set.regions();
        let SourceSet { devices, memory, progress, vmm, experience, .. } = &mut self.set;
        let (wire, readers) = (&self.wire, &mut self.readers);
        let memory_index = devices.len();
        let (of_devices, of_memory) = progress.split_at_mut_checked(memory_index).unwrap_or_default();
        let memory = memory.as_mut().zip(of_memory.first_mut());
        let memory = memory.map(|(attempt, progress)| Memory::new(wire, memory_index, attempt, progress));
        let workers = devices.iter_mut().zip(of_devices).enumerate();
        thread::scope(|scope| {
            let _lead = Lead(wire);
            let sums = offers.iter().map(|_| DigestSum::default()).collect();
            let mut course = Course { helm: Helm::new(wire), vmm, options, sums };
            let go = || {
                course.vmm.enter(Phase::Hello)?;
                start_senders(scope, wire)?;
                if wire.role != Role::File {
                    start_receivers(scope, wire, readers, &NoData)?;
                }
                course.greet(offers.len())?;
                course.vmm.enter(Phase::Open)?;
                for (index, (device, progress)) in workers {
                    let (spread, lap_began, sending) = (Spread::new(), Instant::now(), Duration::ZERO);
                    let worker = Worker { wire, index, device, progress, spread, lap_began, sending };
                    start(scope, wire, &format!("read {index}"), move || worker.run())?;
                }
                if let Some(memory) = &memory {
                    start(scope, wire, "read mem", || memory.run())?;
                    for hand in 1..wire.channel_count() {
                        // One thread fewer is slower, and no failure.
                        let _ = start(scope, wire, &format!("read mem {hand}"), move || memory.help(hand));
                    }
                }
                let homes = course.open(&offers, &regions)?;
                let chunk_bytes = wire.pool().map_or(1, |pool| u64::try_from(pool.buffer_len()).unwrap_or(u64::MAX));
                let rule = options.precopy.as_ref();
                let config = precopy::config(&offers, &homes, rule, chunk_bytes, experience);
                let mut drive = Drive::new(config, rule.is_some());
                course.drive(&mut drive)?;
                experience.learn(drive.learned(&offers), drive.measured_bytes_per_s());
                if let Some(took) = drive.paused_in() {
                    experience.learn_pause(took);
                }
                if wire.role == Role::File { Ok(()) } else { course.wait_receivers() }
            };
            let outcome = go();
            course.helm.show_progress(course.vmm.hooks);
            course.helm.finish(outcome)
        })?;
        // Told to the target as any failure: it has not been told to run.
        match self.set.memory.as_mut().map(Attempt::complete) {
            Some(Err(cause)) => {
                self.wire.tell(&cause);
                Err(cause)
            }
            _ => Ok(()),
        }
    }

    fn close_file(&mut self) -> Result<(), Cause> {
        self.set.vmm.enter(Phase::Commit)?;
        send_commit(&self.wire).map_err(|unsent| unsent.error)?;
        self.set.retire()?;
        self.set.vmm.done();
        Ok(())
    }

    /// Ends an attempt whose other side does not know yet.
    fn fail(&mut self, cause: Cause) -> MigrationError {
        self.wire.tell(&cause);
        self.failed(cause)
    }

    fn failed(&mut self, cause: Cause) -> MigrationError {
        let phase = self.set.vmm.phase;
        self.set.vmm.trace.abort(phase, &cause);
        let devices = self.set.restore();
        self.set.vmm.trace.end();
        MigrationError { phase, cause, devices, committed: false }
    }

    fn in_doubt(&mut self, cause: Cause) -> MigrationError {
        self.set.vmm.trace.in_doubt(&cause);
        self.set.disarm();
        MigrationError { phase: self.set.vmm.phase, cause, devices: Vec::new(), committed: true }
    }
}

impl<D: Device + Send, H: Hooks + ?Sized> Drop for Ready<'_, D, H> {
    fn drop(&mut self) {
        if self.set.is_armed() {
            let _ = self.fail(Cause::Cancelled);
        }
    }
}
