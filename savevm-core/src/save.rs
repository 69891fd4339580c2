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

mod drain;
mod precopy;
mod set;

use core::time::Duration;
use std::io::{self, Read, Write};
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use stream_codec::frame::Role;

use crate::device::Device;
use crate::digest::DigestSum;
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Hooks, Phase};
use crate::limits::Limits;
use crate::link::{Link, Unsent};
use crate::tap::Taps;

pub use precopy::Precopy;
use set::SourceSet;

/// How often a device may begin anew while it is made quiet, before the switchover goes on regardless.
const REINIT_MAX: u32 = 8;

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
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            precopy: Some(Precopy::default()),
            cancel: Cancel::new(),
            nonce: [0; 16],
            taps: Taps::default(),
        }
    }
}

/// One device's state, as it left the source.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DeviceSum {
    /// The device's name.
    pub device: String,
    /// Bytes and checksum of its whole state.
    pub sum: DigestSum,
    /// How many of the bytes passed while the guest ran.
    pub precopy_bytes: u64,
}

/// Saves `devices` to a target at the other end of `transport`, up to its acknowledgement.
///
/// `transport` should bound its own reads and writes (`SO_RCVTIMEO`, `SO_SNDTIMEO`): a peer that falls silent is noticed
/// when such a call returns.
///
/// # Errors
/// [`MigrationError`], with the devices already put back.
pub fn save<'a, D, T, H>(
    devices: &'a mut [D],
    transport: T,
    hooks: &'a mut H,
    options: &SaveOptions,
) -> Result<Ready<'a, D, T, H>, MigrationError>
where
    D: Device,
    T: Read + Write,
    H: Hooks + ?Sized,
{
    let mut ready = Ready {
        set: SourceSet::new(devices, hooks, options.cancel.clone(), &options.taps),
        link: Link::new(transport, Role::Source, options.limits, options.cancel.clone()),
    };
    match ready.run(options, Way::ToPeer) {
        Ok(()) => Ok(ready),
        Err(cause) => Err(ready.fail(cause)),
    }
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
    D: Device,
    W: Write,
    H: Hooks + ?Sized,
{
    let mut ready = Ready {
        set: SourceSet::new(devices, hooks, options.cancel.clone(), &options.taps),
        link: Link::new(OneWay(writer), Role::File, options.limits, options.cancel.clone()),
    };
    match ready.run(options, Way::ToFile).and_then(|()| ready.close_file()) {
        Ok(()) => {
            ready.set.disarm();
            Ok(ready.sums())
        }
        Err(cause) => Err(ready.fail(cause)),
    }
}

/// Everything is with the target, verified and acknowledged; the source's devices are stopped and still its own.
///
/// Dropped, it aborts: the target is told, the devices return.
#[must_use = "dropping this aborts the migration; call commit to complete it"]
pub struct Ready<'a, D: Device, T: Read + Write, H: Hooks + ?Sized> {
    set: SourceSet<'a, D, H>,
    link: Link<T>,
}

/// The devices belong to the target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Committed {
    /// What moved.
    pub devices: Vec<DeviceSum>,
    /// From the request to pause the guest to the target's word that it runs.
    pub downtime: Duration,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Way {
    ToPeer,
    ToFile,
}

impl<D: Device, T: Read + Write, H: Hooks + ?Sized> Ready<'_, D, T, H> {
    /// What moved, and what both sides agree on.
    #[must_use]
    pub fn sums(&self) -> Vec<DeviceSum> {
        let sum = |(device, progress): (&D, &set::Progress)| DeviceSum {
            device: device.name().to_string(),
            sum: progress.digest.sum(),
            precopy_bytes: progress.precopy_bytes,
        };
        self.set.devices.iter().zip(&self.set.progress).map(sum).collect()
    }

    /// The point of no return: gives the devices up and tells the target to run them.
    ///
    /// # Errors
    /// With [`MigrationError::committed`] unset, the message provably never left and the devices are back. With it
    /// set, the target was told, or may have been, and did not confirm: this side must stay stopped.
    pub fn commit(mut self) -> Result<Committed, MigrationError> {
        if let Err(cause) = self.set.enter(Phase::Commit) {
            return Err(self.fail(cause));
        }
        match self.link.send_commit() {
            Ok(()) => {}
            Err(Unsent { error, certain: true }) => return Err(self.fail(error.into())),
            Err(Unsent { error, certain: false }) => {
                // The devices stay stopped either way; a failure to say so changes nothing.
                let _ = self.set.retire();
                return Err(self.in_doubt(error.into()));
            }
        }
        self.set.disarm();
        let retired = self.set.retire();
        let confirmed = self.link.wait_complete();
        if let Err(cause) = confirmed.and(retired) {
            return Err(self.in_doubt(cause));
        }
        self.set.phase = Phase::Done;
        self.set.hooks.phase(Phase::Done);
        let downtime = self.set.stopped_at.map(|at| at.elapsed()).unwrap_or_default();
        Ok(Committed { devices: self.sums(), downtime })
    }

    /// Ends the attempt: tells the target, puts the devices back.
    #[must_use]
    pub fn abort(mut self) -> MigrationError {
        self.fail(Cause::Cancelled)
    }

    fn run(&mut self, options: &SaveOptions, way: Way) -> Result<(), Cause> {
        self.set.enter(Phase::Hello)?;
        let piece_len = self.link.offer(self.set.devices.len(), options.nonce)?;
        let mut buffer = vec![0_u8; piece_len];
        self.set.enter(Phase::Open)?;
        self.open(way)?;
        self.read_while_running(options, &mut buffer)?;
        self.link.send_switchover()?;
        self.set.enter(Phase::StopCopy)?;
        self.set.stop()?;
        self.set.drain(&mut self.link, &mut buffer)?;
        self.link.flush()?;
        self.set.enter(Phase::Load)?;
        if way == Way::ToPeer { self.collect_acknowledgements() } else { Ok(()) }
    }

    /// Offers every device, and waits until the target has taken each of them into RESUMING.
    fn open(&mut self, way: Way) -> Result<(), Cause> {
        self.set.check_states()?;
        for (index, device) in self.set.devices.iter_mut().enumerate() {
            // An estimate for the target's display; a driver without one does not stop a migration.
            let estimate_bytes = device.stop_copy_bytes().unwrap_or(0);
            self.link.send_open(index, device.name(), device.identity(), device.capabilities(), estimate_bytes)?;
        }
        self.link.flush()?;
        for _ in 0..self.set.devices.len() {
            if way == Way::ToPeer {
                self.link.wait_accept()?;
            }
        }
        Ok(())
    }

    /// Pre-copy where there is any, then the P2P barrier.
    fn read_while_running(&mut self, options: &SaveOptions, buffer: &mut [u8]) -> Result<(), Cause> {
        for _ in 0..REINIT_MAX {
            if let Some(rule) = &options.precopy {
                self.set.enter(Phase::PreCopy)?;
                if self.set.begin_precopy()? {
                    self.set.precopy(&mut self.link, buffer, rule)?;
                }
            }
            self.set.enter(Phase::Switchover)?;
            self.set.quiesce()?;
            // vfio.h, VFIO_PRECOPY_INFO_REINIT: readiness must be judged anew.
            if options.precopy.is_none() || !self.set.is_reinitialised()? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn collect_acknowledgements(&mut self) -> Result<(), Cause> {
        for _ in 0..self.set.devices.len() {
            self.link.wait_loaded()?;
        }
        Ok(())
    }

    fn close_file(&mut self) -> Result<(), Cause> {
        self.set.enter(Phase::Commit)?;
        self.link.send_commit().map_err(|unsent| Cause::from(unsent.error))?;
        self.set.retire()?;
        self.set.phase = Phase::Done;
        self.set.hooks.phase(Phase::Done);
        Ok(())
    }

    fn fail(&mut self, cause: Cause) -> MigrationError {
        let cause = self.link.cause_from_peer(cause);
        self.link.send_abort(&cause);
        MigrationError { phase: self.set.phase, cause, devices: self.set.restore(), committed: false }
    }

    fn in_doubt(&mut self, cause: Cause) -> MigrationError {
        self.set.disarm();
        MigrationError { phase: self.set.phase, cause, devices: Vec::new(), committed: true }
    }
}

impl<D: Device, T: Read + Write, H: Hooks + ?Sized> Drop for Ready<'_, D, T, H> {
    fn drop(&mut self) {
        if self.set.is_armed() {
            let _ = self.fail(Cause::Cancelled);
        }
    }
}

/// A writer on which nothing comes back.
struct OneWay<W>(W);

impl<W> Read for OneWay<W> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl<W: Write> Write for OneWay<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
