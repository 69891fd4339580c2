// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest with its devices, and the account of what they all write to memory.

use core::time::Duration;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use savevm_core::dirty::{DirtyTracker, HostLog, Ledger, Range, Slot, Tracking};
use savevm_core::kernel::KernelDevice;
use savevm_core::ram::GuestMemory;
use vfio_uapi::open::SharedMemory;

use crate::devices::{self, Opening};
use crate::driver::{self, Driver};
use crate::guest::{Guest, RAM_START, wait_until};
use crate::nodes::Nodes;
use crate::{Arguments, Outcome};

/// More than the account of any guest here takes.
const LEDGER_BYTES_MAX: u64 = 64 << 20;
/// How long a guest that was resumed may take to show it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest, its devices, and who tells what they write.
pub(crate) struct Machine {
    pub(crate) guest: Arc<Guest>,
    pub(crate) devices: Vec<KernelDevice<OwnedFd>>,
    pub(crate) drivers: Vec<Driver>,
    /// The union of all trackers. It outlives an attempt: what a failed one took of it is dirty again in the next.
    pub(crate) tracking: Tracking<'static>,
    /// By whom each device is tracked, and why.
    pub(crate) choices: Vec<String>,
}

impl Machine {
    /// Opens the devices. The two sides call them by their place: `device0`, `device1`.
    pub(crate) fn new(arguments: &Arguments, ids: &[&str]) -> Outcome<Self> {
        Self::with_log(arguments, ids, |guest| Box::new(HostLog::new("vCPU", move |request| guest.answer(request))))
    }

    /// With a log of what the vCPU writes.
    pub(crate) fn with_log(
        arguments: &Arguments,
        ids: &[&str],
        log: impl FnOnce(Arc<Guest>) -> Box<dyn DirtyTracker>,
    ) -> Outcome<Self> {
        let guest = Guest::new(arguments.memory_mib, ids.len())?;
        let shared = SharedMemory::map(guest.file()?, 0, guest.bytes())?;
        let opening = match &arguments.fds {
            _ if ids.is_empty() => Opening::default(),
            Some(launcher) => devices::open(ids, Nodes::receive(launcher, ids.len())?, &shared)?,
            None => devices::open(ids, Nodes::open(ids)?, &shared)?,
        };
        let mut tracking = tracking(&guest, opening.trackers.len() + 1)?;
        for tracker in opening.trackers.into_iter().chain([log(Arc::clone(&guest))]) {
            tracking.add_tracker(tracker).map_err(|_| "there is no room for a tracker")?;
        }
        let (mut devices, mut drivers, mut choices) = (Vec::new(), Vec::new(), Vec::new());
        for (index, opened) in opening.devices.into_iter().enumerate() {
            if let Some(window) = guest.window(index) {
                drivers.extend(Driver::of(&opened, window)?);
            }
            choices.push(format!("{}: {}", opened.device.label(), opened.tracked_by));
            // A VMM says more: driver, format and versions of the stream (`savevm_core::identity`).
            devices.push(KernelDevice::new(opened.device, format!("device{index}"), opened.pci_id)?);
        }
        Ok(Self { guest, devices, drivers, tracking, choices })
    }

    /// As after power-on: memory has contents, the vCPU runs, and its drivers have set the devices to work.
    pub(crate) fn boot(&self) -> Outcome<()> {
        self.guest.boot()?;
        self.guest.resume();
        self.drivers.iter().try_for_each(Driver::start)
    }

    /// The vCPU stands, and so do its devices, by the word of their drivers.
    pub(crate) fn halt(&self) -> Outcome<()> {
        self.guest.pause();
        self.drivers.iter().try_for_each(Driver::stop)
    }

    /// That nothing of what vCPU and devices have written is lost, while they stand. Returns the counts.
    pub(crate) fn check(&self) -> Outcome<u64> {
        driver::check_all(&self.drivers, &self.guest)?;
        self.guest.check()
    }

    /// Waits until the vCPU and every device have gone on, and says so if they do not.
    pub(crate) fn check_runs(&self) -> Outcome<()> {
        let before = self.guest.count()?;
        let writes = self.drivers.iter().map(Driver::writes).collect::<Outcome<Vec<_>>>()?;
        if !wait_until(PATIENCE, || self.guest.count().is_ok_and(|now| now > before + 100)) {
            return Err("the vCPU does not run".into());
        }
        for (index, (driver, before)) in self.drivers.iter().zip(writes).enumerate() {
            if !wait_until(PATIENCE, || driver.writes().is_ok_and(|now| now > before + 10)) {
                return Err(format!("device {index} does not write").into());
            }
        }
        Ok(())
    }
}

/// An account of the guest's memory, all of it where the devices see it too.
fn tracking(guest: &Guest, trackers: usize) -> Outcome<Tracking<'static>> {
    let ledger = Ledger::of(guest.memory.regions(), LEDGER_BYTES_MAX)?;
    let mut tracking = Tracking::new(ledger, 1, trackers);
    let (region, _) = tracking.ledger().regions().next().ok_or("there is no memory")?;
    let _no_tracker_yet = tracking.map(Slot { range: Range::new(RAM_START, guest.bytes())?, region, offset: 0 })?;
    Ok(tracking)
}
