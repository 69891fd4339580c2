// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's side: take a stream into a set of devices, prove it arrived whole, and run when told.
//!
//! Whatever fails before the source's commit ends with every device that was touched reset: half a state must not run.
//! Nothing is touched before every device of the offer has been compared with what is here.

mod course;
mod crew;
mod filled;
mod set;

use std::format;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::thread;
use std::vec::Vec;

use stream_codec::frame::Role;

use crate::channel::Channel;
use crate::device::Device;
use crate::engine::counters::Counters;
use crate::engine::helm::Helm;
use crate::engine::threads::{Lead, start, start_receivers, start_senders};
use crate::engine::verdict::{send_complete, wait_verdict};
use crate::engine::wire::{Reader, Wire};
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Hooks, Phase};
use crate::limits::Limits;
use crate::link::Incoming;
use crate::ram::{GuestMemory, Sink};
use crate::restore;
use crate::save::DeviceSum;
use crate::sync::Mutex;
use crate::tap::Taps;
use crate::trace::Trace;
use course::Course;
use crew::{Crew, Station};
use filled::Filled;
use set::TargetSet;

/// What the caller decides about a load.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Bounds on memory and on what the peer may send.
    pub limits: Limits,
    /// Ends the migration from another thread.
    pub cancel: Cancel,
    /// Who looks at the streams before they are written to the devices; nobody by default.
    pub taps: Taps,
}

/// Loads a set of devices from a source at the other end of `channels`, up to the acknowledgement of every one.
///
/// Every device is written by a thread of its own, or by that of a channel. The threads end with this call.
///
/// # Errors
/// [`MigrationError`], with every touched device already reset.
pub fn load<'a, D, H>(
    devices: &'a mut [D],
    channels: impl Into<Vec<Channel<'a>>>,
    hooks: &'a mut H,
    options: &LoadOptions,
) -> Result<Loaded<'a, D, H>, MigrationError>
where
    D: Device + Send,
    H: Hooks + ?Sized,
{
    Loaded::start(devices, None, channels.into(), hooks, options)
}

/// As [`load`], with guest memory to be filled beside the devices. It is one more section of the same migration
/// ([`ram`](crate::ram)), with the devices' number as its index in [`Hooks::progress`].
///
/// # Errors
/// As [`load`]. The memory holds whatever had come by then: no guest may run in it.
pub fn load_with_memory<'a, D, H>(
    devices: &'a mut [D],
    memory: &'a dyn GuestMemory,
    channels: impl Into<Vec<Channel<'a>>>,
    hooks: &'a mut H,
    options: &LoadOptions,
) -> Result<Loaded<'a, D, H>, MigrationError>
where
    D: Device + Send,
    H: Hooks + ?Sized,
{
    Loaded::start(devices, Some(memory), channels.into(), hooks, options)
}

/// Loads a set of devices from bytes that [`crate::save::save_to`] wrote. The devices end in STOP.
///
/// # Errors
/// [`MigrationError`], with every touched device already reset.
pub fn load_from<D, R, H>(
    devices: &mut [D],
    reader: R,
    hooks: &mut H,
    options: &LoadOptions,
) -> Result<Vec<DeviceSum>, MigrationError>
where
    D: Device + Send,
    R: Read + Send,
    H: Hooks + ?Sized,
{
    let channel = Channel::new(reader, io::sink());
    let mut loaded = Loaded::new(devices, None, channel.into(), hooks, options, true);
    match loaded.run_phases().and_then(|()| loaded.wait_commit()) {
        Ok(()) => {
            loaded.set.disarm();
            loaded.set.vmm.begin(Phase::Done);
            Ok(loaded.sums())
        }
        Err(cause) => Err(loaded.failed(cause)),
    }
}

/// Every device has its state, the digests agree, the source was told so. The devices are in STOP and may not run
/// before the source gives them up.
///
/// Dropped, it resets them.
#[must_use = "dropping this resets the devices; call run to take them over"]
pub struct Loaded<'a, D: Device + Send, H: Hooks + ?Sized> {
    set: TargetSet<'a, D, H>,
    readers: Vec<Reader<'a>>,
    wire: Wire<'a>,
    taps: Taps,
    one_way: bool,
}

/// The devices run here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Running {
    /// What arrived.
    pub devices: Vec<DeviceSum>,
    /// What arrived of guest memory, where that was handed in.
    pub memory: Option<DeviceSum>,
    /// Whether the source could be told. It stays stopped in either case.
    pub source_told: bool,
    /// How the channels and the buffers were used.
    pub counters: Counters,
}

impl<'a, D: Device + Send, H: Hooks + ?Sized> Loaded<'a, D, H> {
    fn start(
        devices: &'a mut [D],
        memory: Option<&'a dyn GuestMemory>,
        channels: Vec<Channel<'a>>,
        hooks: &'a mut H,
        options: &LoadOptions,
    ) -> Result<Self, MigrationError> {
        let mut loaded = Self::new(devices, memory, channels, hooks, options, false);
        match loaded.run_phases() {
            Ok(()) => Ok(loaded),
            Err(cause) => Err(loaded.failed(cause)),
        }
    }

    fn new(
        devices: &'a mut [D],
        memory: Option<&'a dyn GuestMemory>,
        channels: Vec<Channel<'a>>,
        hooks: &'a mut H,
        options: &LoadOptions,
        one_way: bool,
    ) -> Self {
        let (readers, wire) =
            Wire::new(channels, Role::Target, memory.is_some(), options.limits, options.cancel.clone());
        let trace = Trace::new("target", devices.len(), wire.lanes.len());
        let set = TargetSet::new(devices, memory, hooks, options.cancel.clone(), trace);
        Self { set, readers, wire, taps: options.taps.clone(), one_way }
    }

    /// What arrived.
    #[must_use]
    pub fn sums(&self) -> Vec<DeviceSum> {
        let sum = |(device, progress): (&D, &set::Progress)| progress.sum(device.name());
        self.set.devices.iter().zip(&self.set.progress).map(sum).collect()
    }

    /// What arrived of guest memory, where that was handed in.
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

    /// Waits for the source to give the devices up, then runs them and tells the source.
    ///
    /// # Errors
    /// Before the source's commit, with every device reset. After it, with [`MigrationError::committed`] set: the
    /// devices hold the guest's only state and are left as they are.
    pub fn run(mut self) -> Result<Running, MigrationError> {
        if let Err(cause) = self.wait_commit() {
            return Err(self.fail(cause));
        }
        self.set.disarm();
        if let Err(error) = restore::run_together(self.set.devices) {
            let cause = Cause::from(error);
            self.wire.tell(&cause);
            return Err(MigrationError { phase: self.set.vmm.phase, cause, devices: Vec::new(), committed: true });
        }
        let source_told = send_complete(&self.wire).is_ok();
        self.set.vmm.begin(Phase::Done);
        Ok(Running { devices: self.sums(), memory: self.memory_sum(), source_told, counters: self.counters() })
    }

    /// Ends the attempt: tells the source, resets the devices.
    #[must_use]
    pub fn abort(mut self) -> MigrationError {
        self.fail(Cause::Cancelled)
    }

    /// All phases up to the last acknowledgement, in one scope.
    fn run_phases(&mut self) -> Result<(), Cause> {
        let pairing = self.set.pairing();
        let TargetSet { devices, memory, progress, vmm, .. } = &mut self.set;
        let memory = memory.map(|memory| (devices.len(), Sink(memory)));
        let filled = devices.iter_mut().map(Filled::Device).chain(memory.map(|(_, sink)| Filled::Memory(sink)));
        let filled: Vec<Filled<'_, D>> = filled.collect();
        let traces = filled.iter().enumerate().map(|(index, filled)| vmm.trace.device(index, filled.name())).collect();
        let stations = filled.into_iter().zip(progress.iter_mut());
        let stations = stations.map(|(filled, progress)| Mutex::new(Station { filled, progress })).collect();
        let (wire, readers, taps, one_way) = (&self.wire, &mut self.readers, &self.taps, self.one_way);
        let crew = &Crew { wire, stations, local: OnceLock::new(), memory, one_way, traces };
        thread::scope(|scope| {
            let _lead = Lead(wire);
            let mut course = Course { helm: Helm::new(wire), vmm, one_way };
            let go = || {
                course.vmm.enter(Phase::Hello)?;
                start_senders(scope, wire)?;
                start_receivers(scope, wire, readers, crew)?;
                let offered = course.greet()?;
                course.vmm.enter(Phase::Open)?;
                course.compare(offered, pairing, crew, taps)?;
                for index in 0..offered {
                    start(scope, wire, &format!("write {index}"), move || {
                        if let Err(cause) = crew.work(index) {
                            wire.board.fail(cause);
                        }
                    })?;
                }
                course.follow(crew.sections(offered)?)
            };
            let outcome = go();
            course.helm.show_progress(course.vmm.hooks);
            course.helm.finish(outcome)
        })
    }

    fn wait_commit(&mut self) -> Result<(), Cause> {
        self.set.vmm.begin(Phase::Commit);
        // Everything is acknowledged, so the source may have given the devices up already: a cancel here would leave
        // them running nowhere. Only the source's word, or its silence, decides now.
        match wait_verdict(&mut self.wire, &mut self.readers)? {
            Incoming::Commit => Ok(()),
            other => Err(other.out_of_place()),
        }
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
}

impl<D: Device + Send, H: Hooks + ?Sized> Drop for Loaded<'_, D, H> {
    fn drop(&mut self) {
        if self.set.is_armed() {
            let _ = self.fail(Cause::Cancelled);
        }
    }
}
