// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's devices as one set: paired with the offer, filled, and run together.

use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use crate::device::Device;
use crate::digest::Digest;
use crate::error::Cause;
use crate::hooks::{Cancel, Hooks, Phase};
use crate::identity::{self, Question};
use crate::restore::{self, Restored};
use crate::tap::Watched;

/// What is known of one local device while it is filled.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) touched: bool,
    pub(super) digest: Digest,
    pub(super) precopy_bytes: u64,
    pub(super) watched: Watched,
}

/// The VMM and where the migration is.
pub(super) struct Vmm<'a, H: Hooks + ?Sized> {
    pub(super) hooks: &'a mut H,
    pub(super) phase: Phase,
    cancel: Cancel,
}

/// The devices, and how to undo it.
pub(super) struct TargetSet<'a, D: Device, H: Hooks + ?Sized> {
    pub(super) devices: &'a mut [D],
    pub(super) progress: Vec<Progress>,
    pub(super) vmm: Vmm<'a, H>,
    armed: bool,
}

/// What waits here, by name, and which of the offered devices each is.
#[derive(Debug)]
pub(super) struct Pairing {
    here: Vec<(String, String)>,
    /// For each device of the offer, the local one of that name.
    local: Vec<usize>,
}

impl<H: Hooks + ?Sized> Vmm<'_, H> {
    /// Begins a phase, unless somebody asked to stop.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        self.phase = phase;
        self.hooks.phase(phase);
        self.check_cancel()
    }

    pub(super) fn check_cancel(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }
}

impl<'a, D: Device + Send, H: Hooks + ?Sized> TargetSet<'a, D, H> {
    pub(super) fn new(devices: &'a mut [D], hooks: &'a mut H, cancel: Cancel) -> Self {
        let progress = devices.iter().map(|_| Progress::default()).collect();
        Self { devices, progress, vmm: Vmm { hooks, phase: Phase::Hello, cancel }, armed: true }
    }

    pub(super) fn pairing(&self) -> Pairing {
        let here = |device: &D| (device.name().to_string(), device.identity().to_string());
        Pairing { here: self.devices.iter().map(here).collect(), local: Vec::new() }
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
        restore::reset_all(self.devices, &touched)
    }
}

impl Pairing {
    /// Finds the local device for one of the offer, by its number here. A reason to refuse leaves a gap that is never used.
    pub(super) fn pair(&mut self, index: usize, name: &str, identity: &str) -> Result<usize, String> {
        let found = self.here.iter().enumerate().find(|(_, (here, _))| here == name);
        if self.local.len() <= index {
            self.local.resize(index.saturating_add(1), usize::MAX);
        }
        if let Some(slot) = self.local.get_mut(index) {
            *slot = found.map_or(usize::MAX, |(local, _)| local);
        }
        let Some((local, (_, ours))) = found else {
            let here: Vec<&str> = self.here.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("the source offers device '{name}', here there is {}", here.join(", ")));
        };
        let verdict = identity::compatible_texts(identity, ours, Question::Instance);
        if verdict.is_compatible() {
            return Ok(local);
        }
        Err(format!("device '{name}' of source and target: they do not read each other's state, because {verdict}"))
    }

    /// A reason for every local device the offer left out.
    pub(super) fn unpaired(&self) -> Vec<String> {
        let missing = |(index, (name, _)): (usize, &(String, String))| {
            let paired = self.local.contains(&index);
            (!paired).then(|| format!("device '{name}' waits here, and the source does not offer it"))
        };
        self.here.iter().enumerate().filter_map(missing).collect()
    }

    pub(super) fn into_local(self) -> Vec<usize> {
        self.local
    }
}
