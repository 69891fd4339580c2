// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's devices as one set: paired with the offer, filled, and run together.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use crate::device::Device;
use crate::digest::{Digest, DigestSum};
use crate::dirty::{Region, RegionTable};
use crate::error::Cause;
use crate::hooks::{Cancel, Hooks, Phase};
use crate::identity::{self, Question};
use crate::ram::GuestMemory;
use crate::restore::{self, Restored};
use crate::save::DeviceSum;
use crate::tap::Watched;
use crate::trace::Trace;

/// What is known of one local device while it is filled.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) touched: bool,
    /// Of what has come of a device.
    pub(super) digest: Digest,
    /// Of all that came, once it has.
    pub(super) received: DigestSum,
    pub(super) precopy_bytes: u64,
    pub(super) watched: Watched,
}

impl Progress {
    pub(super) fn sum(&self, name: &str) -> DeviceSum {
        DeviceSum { device: name.to_string(), sum: self.received, precopy_bytes: self.precopy_bytes }
    }
}

/// The VMM and where the migration is.
pub(super) struct Vmm<'a, H: Hooks + ?Sized> {
    pub(super) hooks: &'a mut H,
    pub(super) phase: Phase,
    pub(super) trace: Trace,
    cancel: Cancel,
}

/// The devices, and how to undo it.
pub(super) struct TargetSet<'a, D: Device, H: Hooks + ?Sized> {
    pub(super) devices: &'a mut [D],
    pub(super) memory: Option<&'a dyn GuestMemory>,
    /// Of the devices, and at last of memory.
    pub(super) progress: Vec<Progress>,
    pub(super) vmm: Vmm<'a, H>,
    armed: bool,
}

/// What waits here, by name, and which of the offered devices each is.
#[derive(Debug)]
pub(super) struct Pairing {
    here: Vec<(String, String)>,
    /// The memory that waits here.
    memory: Option<RegionTable>,
    /// Those of the offer.
    regions: Vec<Region>,
    /// For each device of the offer, the local one of that name.
    local: Vec<usize>,
}

impl<H: Hooks + ?Sized> Vmm<'_, H> {
    /// Begins a phase, unless somebody asked to stop.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        self.begin(phase);
        self.check_cancel()
    }

    /// Begins a phase that nothing can stop.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.trace.begin(phase);
        self.trace.in_phase(|| self.hooks.phase(phase));
    }

    pub(super) fn check_cancel(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }
}

impl<'a, D: Device + Send, H: Hooks + ?Sized> TargetSet<'a, D, H> {
    pub(super) fn new(
        devices: &'a mut [D],
        memory: Option<&'a dyn GuestMemory>,
        hooks: &'a mut H,
        cancel: Cancel,
        trace: Trace,
    ) -> Self {
        let count = devices.len().saturating_add(usize::from(memory.is_some()));
        let progress = (0..count).map(|_| Progress::default()).collect();
        Self { devices, memory, progress, vmm: Vmm { hooks, phase: Phase::Hello, trace, cancel }, armed: true }
    }

    pub(super) fn pairing(&self) -> Pairing {
        let here = |device: &D| (device.name().to_string(), device.identity().to_string());
        let memory = self.memory.map(GuestMemory::regions).cloned();
        Pairing { here: self.devices.iter().map(here).collect(), memory, regions: Vec::new(), local: Vec::new() }
    }

    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    pub(super) fn is_armed(&self) -> bool {
        self.armed
    }

    /// Resets everything that was touched, once.
    pub(super) fn restore(&mut self) -> Vec<Restored> {
        if !self.armed {
            return Vec::new();
        }
        self.armed = false;
        let touched: Vec<bool> = self.progress.iter().map(|progress| progress.touched).collect();
        let restored = restore::reset_all(self.devices, &touched);
        self.vmm.trace.restored(&restored);
        restored
    }
}

impl Pairing {
    /// Finds the local device for one of the offer, by its number here. A reason to refuse leaves a gap that is never used.
    pub(super) fn pair(&mut self, index: usize, name: &str, identity: &str) -> Result<usize, String> {
        let found = self.here.iter().position(|(here, _)| here == name);
        self.set_local(index, found.unwrap_or(usize::MAX));
        let Some((local, (_, ours))) = found.and_then(|local| Some((local, self.here.get(local)?))) else {
            let here: Vec<&str> = self.here.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("the source offers device '{name}', here there is {}", here.join(", ")));
        };
        let verdict = identity::compatible_texts(identity, ours, Question::Instance);
        if verdict.is_compatible() {
            return Ok(local);
        }
        Err(format!("device '{name}' of source and target: they do not read each other's state, because {verdict}"))
    }

    pub(super) fn add_region(&mut self, region: Region) {
        self.regions.push(region);
    }

    /// Compares the memory on offer with what is here. It comes behind the local devices.
    pub(super) fn pair_memory(&mut self, index: usize) -> Result<(), String> {
        self.set_local(index, self.here.len());
        let Some(ours) = self.memory.take() else {
            return Err("the source offers guest memory, and none waits here".into());
        };
        let regions = core::mem::take(&mut self.regions);
        let count = regions.len();
        let theirs =
            RegionTable::new(regions, count).map_err(|error| format!("guest memory of the source: {error}"))?;
        theirs.compare(&ours).map_err(|error| error.to_string())
    }

    fn set_local(&mut self, index: usize, local: usize) {
        if self.local.len() <= index {
            self.local.resize(index.saturating_add(1), usize::MAX);
        }
        if let Some(slot) = self.local.get_mut(index) {
            *slot = local;
        }
    }

    /// A reason for everything here that the offer left out.
    pub(super) fn unpaired(&self) -> Vec<String> {
        let missing = |(index, (name, _)): (usize, &(String, String))| {
            let paired = self.local.contains(&index);
            (!paired).then(|| format!("device '{name}' waits here, and the source does not offer it"))
        };
        let memory = self.memory.iter().map(|_| "guest memory waits here, and the source offers none".into());
        self.here.iter().enumerate().filter_map(missing).chain(memory).collect()
    }

    pub(super) fn into_local(self) -> Vec<usize> {
        self.local
    }
}
