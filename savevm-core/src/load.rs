// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's side: take a stream into a set of devices, prove it arrived whole, and run when told.
//!
//! Whatever fails before the source's commit ends with every device that was touched reset: half a state must not run.
//! Nothing is touched before every device of the offer has been compared with what is here.

mod set;

use std::io::{self, Read, Write};
use std::string::{String, ToString};
use std::vec::Vec;

use stream_codec::frame::Role;

use crate::device::Device;
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Hooks, Phase};
use crate::limits::Limits;
use crate::link::{Incoming, Link};
use crate::restore;
use crate::save::DeviceSum;
use crate::tap::Taps;
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

/// Loads a set of devices from a source at the other end of `transport`, up to the acknowledgement of every one.
///
/// # Errors
/// [`MigrationError`], with every touched device already reset.
pub fn load<'a, D, T, H>(
    devices: &'a mut [D],
    transport: T,
    hooks: &'a mut H,
    options: &LoadOptions,
) -> Result<Loaded<'a, D, T, H>, MigrationError>
where
    D: Device,
    T: Read + Write,
    H: Hooks + ?Sized,
{
    let mut loaded = Loaded {
        set: TargetSet::new(devices, hooks, options.cancel.clone(), options.taps.clone()),
        link: Link::new(transport, Role::Target, options.limits, options.cancel.clone()),
        one_way: false,
    };
    match loaded.run_phases() {
        Ok(()) => Ok(loaded),
        Err(cause) => Err(loaded.fail(cause)),
    }
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
    D: Device,
    R: Read,
    H: Hooks + ?Sized,
{
    let mut loaded = Loaded {
        set: TargetSet::new(devices, hooks, options.cancel.clone(), options.taps.clone()),
        link: Link::new(Silent(reader), Role::Target, options.limits, options.cancel.clone()),
        one_way: true,
    };
    match loaded.run_phases().and_then(|()| loaded.wait_commit()) {
        Ok(()) => {
            loaded.set.disarm();
            loaded.set.hooks.phase(Phase::Done);
            Ok(loaded.sums())
        }
        Err(cause) => Err(loaded.fail(cause)),
    }
}

/// Every device has its state, the digests agree, the source was told so. The devices are in STOP and may not run
/// before the source gives them up.
///
/// Dropped, it resets them.
#[must_use = "dropping this resets the devices; call run to take them over"]
pub struct Loaded<'a, D: Device, T: Read + Write, H: Hooks + ?Sized> {
    set: TargetSet<'a, D, H>,
    link: Link<T>,
    one_way: bool,
}

/// The devices run here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Running {
    /// What arrived.
    pub devices: Vec<DeviceSum>,
    /// Whether the source could be told. It stays stopped in either case.
    pub source_told: bool,
}

impl<D: Device, T: Read + Write, H: Hooks + ?Sized> Loaded<'_, D, T, H> {
    /// What arrived.
    #[must_use]
    pub fn sums(&self) -> Vec<DeviceSum> {
        let sum = |(device, progress): (&D, &set::Progress)| DeviceSum {
            device: device.name().to_string(),
            sum: progress.digest.sum(),
            precopy_bytes: progress.precopy_bytes,
        };
        self.set.devices.iter().zip(&self.set.progress).map(sum).collect()
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
            self.link.send_abort(&cause);
            return Err(MigrationError { phase: self.set.phase, cause, devices: Vec::new(), committed: true });
        }
        let source_told = self.link.send_complete().is_ok();
        self.set.phase = Phase::Done;
        self.set.hooks.phase(Phase::Done);
        Ok(Running { devices: self.sums(), source_told })
    }

    /// Ends the attempt: tells the source, resets the devices.
    #[must_use]
    pub fn abort(mut self) -> MigrationError {
        self.fail(Cause::Cancelled)
    }

    fn run_phases(&mut self) -> Result<(), Cause> {
        self.set.enter(Phase::Hello)?;
        let offered = self.link.answer(self.one_way)?;
        self.set.enter(Phase::Open)?;
        self.open(offered)?;
        self.set.enter(Phase::PreCopy)?;
        let limit = self.link.limits().state_bytes_max;
        let mut open = offered;
        while open > 0 {
            self.set.check_cancel()?;
            match self.link.receive()? {
                Incoming::Data { index, length } => self.set.write(index, self.link.payload(length), limit)?,
                Incoming::Switchover => {
                    self.set.enter(Phase::Switchover)?;
                    self.set.enter(Phase::StopCopy)?;
                }
                Incoming::End { index, sum } => {
                    open = open.saturating_sub(1);
                    if open == 0 {
                        self.set.enter(Phase::Load)?;
                    }
                    let received = self.set.finish(index, sum)?;
                    if !self.one_way {
                        self.link.send_loaded(index, received)?;
                    }
                }
                other => return Err(other.out_of_place()),
            }
        }
        Ok(())
    }

    /// Receives the offer, compares all of it with what is here, and only then touches a device.
    fn open(&mut self, offered: usize) -> Result<(), Cause> {
        let mut reasons: Vec<String> = Vec::new();
        for _ in 0..offered {
            match self.link.receive()? {
                Incoming::Open { index, name, identity } => {
                    if let Err(reason) = self.set.pair(index, &name, &identity) {
                        reasons.push(reason);
                    }
                }
                other => return Err(other.out_of_place()),
            }
        }
        reasons.extend(self.set.unpaired());
        reasons.extend(self.set.busy()?);
        if !reasons.is_empty() {
            return Err(Cause::refused(reasons.join("; ")));
        }
        for index in 0..offered {
            self.set.begin(index)?;
            if !self.one_way {
                self.link.send_accept(index)?;
            }
        }
        Ok(())
    }

    fn wait_commit(&mut self) -> Result<(), Cause> {
        self.set.phase = Phase::Commit;
        self.set.hooks.phase(Phase::Commit);
        // Everything is acknowledged, so the source may have given the devices up already: a cancel here would leave
        // them running nowhere. Only the source's word, or its silence, decides now.
        match self.link.receive_verdict()? {
            Incoming::Commit => Ok(()),
            other => Err(other.out_of_place()),
        }
    }

    fn fail(&mut self, cause: Cause) -> MigrationError {
        let cause = self.link.cause_from_peer(cause);
        self.link.send_abort(&cause);
        MigrationError { phase: self.set.phase, cause, devices: self.set.restore(), committed: false }
    }
}

impl<D: Device, T: Read + Write, H: Hooks + ?Sized> Drop for Loaded<'_, D, T, H> {
    fn drop(&mut self) {
        if self.set.is_armed() {
            let _ = self.fail(Cause::Cancelled);
        }
    }
}

/// A reader to which nothing is said.
struct Silent<R>(R);

impl<R: Read> Read for Silent<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R> Write for Silent<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
