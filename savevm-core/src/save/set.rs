// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's devices as one set, because "quiet together", "everything stopped" and "all put back" are properties of the set.

use core::time::Duration;
use std::string::{String, ToString};
use std::time::Instant;
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, State};

use super::{DeviceSum, Experience};
use crate::device::Device;
use crate::digest::Digest;
use crate::dirty::{Region, Target};
use crate::engine::threads::in_parallel;
use crate::error::Cause;
use crate::hooks::{Cancel, Hooks, Phase};
use crate::ram::{self, Attempt, Source};
use crate::restore::{self, Restored};
use crate::sched::{Interval, Kind};
use crate::tap::{Side, Subject, Taps, Watched};
use crate::trace::{Activity, DeviceTrace, Trace};

/// What is known of one device while it is read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The state it was found in, once this migration has touched it.
    pub(super) home: Option<State>,
    /// The state it was taken to last.
    pub(super) state: Option<State>,
    /// Over everything read so far.
    pub(super) digest: Digest,
    /// The next data frame's number.
    pub(super) sequence: u64,
    /// Bytes read while the guest ran.
    pub(super) precopy_bytes: u64,
    /// The device has said that nothing will follow.
    pub(super) has_ended: bool,
    pub(super) watched: Watched,
    pub(super) trace: DeviceTrace,
}

impl Progress {
    pub(super) fn sum(&self, name: &str) -> DeviceSum {
        DeviceSum { device: name.to_string(), sum: self.digest.sum(), precopy_bytes: self.precopy_bytes }
    }
}

/// What the target is told of a device.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) name: String,
    pub(super) identity: String,
    pub(super) capabilities: Capabilities,
    pub(super) kind: Kind,
}

/// The VMM and where the migration is.
pub(super) struct Vmm<'a, H: Hooks + ?Sized> {
    pub(super) hooks: &'a mut H,
    pub(super) phase: Phase,
    cancel: Cancel,
    guest_paused: bool,
    pub(super) stopped_at: Option<Instant>,
    pub(super) trace: Trace,
    /// What the scheduler expected the downtime to be when it had the guest paused.
    pub(super) predicted: Option<Interval>,
}

/// The devices, where they are, and how to undo it.
pub(super) struct SourceSet<'a, D: Device, H: Hooks + ?Sized> {
    pub(super) devices: &'a mut [D],
    pub(super) memory: Option<Attempt<'a>>,
    /// Of the devices, and at last of memory.
    pub(super) progress: Vec<Progress>,
    pub(super) vmm: Vmm<'a, H>,
    /// What was known of devices, and then what this migration added.
    pub(super) experience: Experience,
    armed: bool,
}

impl<H: Hooks + ?Sized> Vmm<'_, H> {
    /// Begins a phase, unless somebody asked to stop.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        self.begin(phase);
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }

    fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.trace.begin(phase);
        self.trace.in_phase(|| self.hooks.phase(phase));
    }

    /// Stops the guest. The downtime begins.
    pub(super) fn pause_guest(&mut self) -> Result<(), Cause> {
        self.stopped_at = Some(Instant::now());
        self.trace.in_phase(|| self.hooks.pause_guest()).map_err(|reason| Cause::Guest { reason })?;
        self.guest_paused = true;
        Ok(())
    }

    /// The last phase, which nothing can stop.
    pub(super) fn done(&mut self) {
        self.begin(Phase::Done);
    }
}

impl<'a, D: Device + Send, H: Hooks + ?Sized> SourceSet<'a, D, H> {
    pub(super) fn new(devices: &'a mut [D], hooks: &'a mut H, cancel: Cancel, taps: &Taps, trace: Trace) -> Self {
        let progress = |(index, device): (usize, &D)| {
            let (name, identity, capabilities) = (device.name(), device.identity(), device.capabilities());
            let subject = Subject { side: Side::Source, name, stream_identity: identity, identity, capabilities };
            let trace = trace.device(index, name);
            Progress { watched: taps.watch(&subject), trace, ..Progress::default() }
        };
        let progress = devices.iter().enumerate().map(progress).collect();
        let vmm =
            Vmm { hooks, phase: Phase::Hello, cancel, guest_paused: false, stopped_at: None, trace, predicted: None };
        Self { devices, memory: None, progress, vmm, experience: Experience::new(), armed: true }
    }

    /// The target has answered, this long after it was told to run.
    pub(super) fn learn_run(&mut self, took: Duration) {
        self.experience.learn_run(self.devices.iter().map(Device::identity), took);
    }

    /// Memory becomes the last section.
    pub(super) fn add_memory(&mut self, memory: Option<Source<'a>>) {
        if let Some(source) = memory {
            self.memory = Some(Attempt::new(source));
            let trace = self.vmm.trace.device(self.progress.len(), ram::NAME);
            self.progress.push(Progress { trace, ..Progress::default() });
        }
    }

    pub(super) fn offers(&self) -> Vec<Offer> {
        let offer = |device: &D| Offer {
            name: device.name().to_string(),
            identity: device.identity().to_string(),
            capabilities: device.capabilities(),
            kind: Kind::Device,
        };
        let memory = |memory: &Attempt<'_>| Offer {
            name: ram::NAME.to_string(),
            identity: String::new(),
            capabilities: memory.capabilities(),
            kind: Kind::Memory,
        };
        self.devices.iter().map(offer).chain(self.memory.iter().map(memory)).collect()
    }

    pub(super) fn regions(&self) -> Vec<Region> {
        self.memory.iter().flat_map(|memory| memory.table().regions().to_vec()).collect()
    }

    /// Ends the data sessions of devices that were given up.
    pub(super) fn retire(&mut self) -> Result<(), Cause> {
        if let Some(memory) = &mut self.memory {
            memory.end(None);
        }
        let traces: Vec<DeviceTrace> = self.progress.iter().map(|progress| progress.trace.clone()).collect();
        let stop = |index: usize, device: &mut D| {
            let trace = traces.get(index).cloned().unwrap_or_default();
            trace.call(Activity::Transition(State::Stop), || device.transition(State::Stop))
        };
        let retired = in_parallel(self.devices, stop);
        retired.into_iter().try_for_each(|retired| Ok(retired?))
    }

    /// From here on nothing is put back.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Puts everything back, once.
    pub(super) fn restore(&mut self) -> Vec<Restored> {
        if !self.armed {
            return Vec::new();
        }
        self.armed = false;
        let homes: Vec<Option<State>> = self.progress.iter().map(|progress| progress.home).collect();
        if let Some(memory) = &mut self.memory {
            // The next attempt may go to another target, and what this one still has nobody knows.
            memory.end(Some(Target::Lost));
        }
        let restored = restore::return_to(self.devices, &homes);
        self.vmm.trace.restored(&restored);
        if self.vmm.guest_paused {
            self.vmm.guest_paused = false;
            let Vmm { hooks, trace, .. } = &mut self.vmm;
            trace.in_phase(|| hooks.resume_guest());
        }
        restored
    }
}
