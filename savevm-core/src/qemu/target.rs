// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target of a QEMU source.

mod channel;
mod ram;
mod reorder;
mod shared;
mod stream;

use core::fmt;
use std::io::{Read, Write};
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use stream_codec::qemu::{ConfigState, Item, Limits as StreamLimits, MainDecoder, MainOptions, MultifdItem, Vmdesc};
use vfio_mig_fsm::State;

use self::shared::{Shared, lock};
use self::stream::{Back, Stream};
use super::Agreement;
use super::error::{Connection, StreamError};
use super::input::{End, Input};
use super::memory::{RamPages, TargetMemory};
use crate::device::{Call, Device, DeviceError};
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Hooks, Phase};
use crate::limits::Limits;
use crate::restore;
use crate::save::DeviceSum;
use crate::trace::Trace;

/// The VMM's part of a target: everything that is not a VFIO device, nor guest memory that [`load_with_memory`] fills.
///
/// Any error refuses the migration, with the text as the reason.
pub trait TargetMachine: Hooks {
    /// An item of the main stream, in order: machine type and configuration, sections of other devices from header to
    /// footer, and RAM unless [`load_with_memory`] has it.
    ///
    /// A `MultifdFlush` in a RAM section comes after all pages that were sent before it on multifd channels have been given to
    /// [`TargetMachine::pages`].
    ///
    /// # Errors
    /// The item does not fit the machine: another machine type, an unknown section, a RAM block that is not there.
    fn item(&mut self, item: &Item<'_>) -> Result<(), String>;

    /// A RAM packet of a multifd channel (`MultifdItem::Ram`) or bytes of its payload (`MultifdItem::RamBytes`).
    /// `channel` tells which of several packets that come at once a payload belongs to.
    ///
    /// # Errors
    /// The pages do not fit the machine.
    fn pages(&mut self, channel: usize, item: &MultifdItem<'_>) -> Result<(), String>;

    /// What the VMM itself knew of the device at `index`: PCI config space, interrupts. The device has not run yet.
    ///
    /// # Errors
    /// It does not fit the device that is here; [`super::check_config_space`] compares what must be equal.
    fn config(&mut self, index: usize, state: &ConfigState<'_>) -> Result<(), String>;
}

/// What the caller decides about a load.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// What the source is configured with.
    pub agreement: Agreement,
    /// Bounds on memory and on what the source may send.
    pub limits: Limits,
    /// Bounds of the stream's decoders.
    pub stream: StreamLimits,
    /// The most memory for packets that overtook others, of all devices together, in bytes. 16 MiB by default. With 0 every
    /// packet waits in its channel for its turn, which is enough for a stock QEMU.
    pub reorder_bytes_max: usize,
    /// How far ahead of the one that is missing a packet may be. 65 536 by default.
    pub packets_ahead_max: u32,
    /// Whether the source ends the stream with a description of the machine, as all but historic machine types do.
    pub vmdesc_follows: bool,
    /// That description, where it is known beforehand, as with a file.
    pub vmdesc: Option<Vmdesc>,
    /// Ends the migration from another thread.
    pub cancel: Cancel,
}

impl LoadOptions {
    /// For a source with this configuration.
    #[must_use]
    pub fn new(agreement: Agreement) -> Self {
        Self {
            agreement,
            limits: Limits::default(),
            stream: StreamLimits::DEFAULT,
            reorder_bytes_max: 16 << 20,
            packets_ahead_max: 1 << 16,
            vmdesc_follows: true,
            vmdesc: None,
            cancel: Cancel::new(),
        }
    }
}

/// Every device has its state, is in STOP, and belongs to the source until [`Loaded::run`].
///
/// Dropped, it resets the devices and tells the source that the migration failed.
#[must_use = "dropping this resets the devices; call run to take them over"]
pub struct Loaded<'a, D: Device + Send, V: TargetMachine + ?Sized, W: Write> {
    devices: &'a mut [D],
    machine: &'a mut V,
    back: Back<W>,
    report: Report,
    trace: Trace,
    armed: bool,
}

/// What moved, and how.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// What arrived, per device.
    pub devices: Vec<DeviceSum>,
    /// Acknowledgements of initial bytes that were sent.
    pub acks_sent: u32,
    /// The most that was held of packets that overtook others, in bytes.
    pub reorder_peak_bytes: usize,
    /// What came of guest memory. Nothing is counted where the machine takes it itself.
    pub ram: RamPages,
    /// Whether the source could be told that all is well. Without a return path it never is.
    pub source_told: bool,
}

/// Takes the place of a QEMU started with `-incoming`: reads the main stream and `channels`, which are the multifd channels
/// in any order, up to the end.
///
/// `back` is the return path: the other direction of the main connection, or none where the source has the capability off, and
/// for a file.
///
/// # Errors
/// [`MigrationError`], with the source told and every touched device already reset.
pub fn load<'a, D, V, R, W, C>(
    devices: &'a mut [D],
    machine: &'a mut V,
    main: R,
    back: Option<W>,
    channels: Vec<C>,
    options: &LoadOptions,
) -> Result<Loaded<'a, D, V, W>, MigrationError>
where
    D: Device + Send,
    V: TargetMachine + Send + ?Sized,
    R: Read,
    W: Write,
    C: Read + Send,
{
    load_all(devices, machine, None, main, back, channels, options)
}

/// As [`load`], with guest memory written here: nothing of RAM comes to the machine, neither [`TargetMachine::item`] nor
/// [`TargetMachine::pages`]. Its index in [`Hooks::progress`] is the devices' number.
///
/// Before the first byte is written the source's list of RAM blocks must be that of `memory`, with all names and sizes. Every
/// connection writes the pages that it brings, at the same time as the others.
///
/// # Errors
/// As [`load`], and [`RamError`](super::RamError) in [`StreamError::Ram`]. Memory then holds pieces of the source's: nothing may run in it.
pub fn load_with_memory<'a, D, V, R, W, C>(
    devices: &'a mut [D],
    machine: &'a mut V,
    memory: TargetMemory<'_>,
    main: R,
    back: Option<W>,
    channels: Vec<C>,
    options: &LoadOptions,
) -> Result<Loaded<'a, D, V, W>, MigrationError>
where
    D: Device + Send,
    V: TargetMachine + Send + ?Sized,
    R: Read,
    W: Write,
    C: Read + Send,
{
    load_all(devices, machine, Some(memory), main, back, channels, options)
}

fn load_all<'a, D, V, R, W, C>(
    devices: &'a mut [D],
    machine: &'a mut V,
    memory: Option<TargetMemory<'_>>,
    mut main: R,
    back: Option<W>,
    channels: Vec<C>,
    options: &LoadOptions,
) -> Result<Loaded<'a, D, V, W>, MigrationError>
where
    D: Device + Send,
    V: TargetMachine + Send + ?Sized,
    R: Read,
    W: Write,
    C: Read + Send,
{
    let shared = Shared::new(&mut *devices, &mut *machine, memory, channels.len(), options);
    let mut stream = Stream::new(&shared, back, channels.len(), options);
    std::thread::scope(|scope| {
        // A connection is closed after the reason is known: the source breaks all others then, which is no reason.
        for (index, mut channel) in channels.into_iter().enumerate() {
            let shared = &shared;
            scope.spawn(move || {
                match channel::run(shared, index, &mut channel, options) {
                    // Once all is over, well or not, what a channel says is no reason any more.
                    Err(cause) if !shared.pulse.is_over() => shared.fail(cause),
                    _ => {}
                }
                shared.channel_ended();
            });
        }
        match read(&shared, &mut stream, &mut main, options) {
            Ok(()) => shared.end(),
            Err(cause) => shared.fail(cause),
        }
    });
    let (failure, phase) = (shared.failure(), stream.phase);
    let (mut back, mut trace) = (stream.back, stream.trace);
    let (acks_sent, reorder_peak_bytes) = (stream.acks_sent, shared.peak_bytes());
    let ram = shared.ram.as_ref().map(ram::Sink::pages).unwrap_or_default();
    let mut report = Report { devices: Vec::new(), acks_sent, reorder_peak_bytes, ram, source_told: false };
    let mut touched = Vec::new();
    for slot in &shared.slots {
        let slot = lock(slot);
        touched.push(slot.touched);
        let (device, sum, precopy_bytes) = (slot.name.clone(), slot.digest.sum(), slot.precopy_bytes);
        report.devices.push(DeviceSum { device, sum, precopy_bytes });
    }
    drop(shared);
    if let Some(cause) = failure {
        return Err(fail(devices, &mut back, &mut trace, &touched, phase, cause));
    }
    Ok(Loaded { devices, machine, back, report, trace, armed: true })
}

/// Says so, and resets what was touched: a half state must not run.
fn fail<D: Device + Send, W: Write>(
    devices: &mut [D],
    back: &mut Back<W>,
    trace: &mut Trace,
    touched: &[bool],
    phase: Phase,
    cause: Cause,
) -> MigrationError {
    trace.abort(phase, &cause);
    let restored = restore::reset_all(devices, touched);
    trace.restored(&restored);
    trace.end();
    // A source that cannot be told notices the end of the connection.
    let _ = back.shut(1);
    MigrationError { phase, cause, devices: restored, committed: false }
}

fn read<D: Device, V: TargetMachine + ?Sized, R: Read, W: Write>(
    shared: &Shared<'_, '_, D, V>,
    stream: &mut Stream<'_, '_, '_, D, V, W>,
    main: R,
    options: &LoadOptions,
) -> Result<(), Cause> {
    stream.enter(Phase::Hello)?;
    check_states(shared)?;
    let mut decoder = MainDecoder::new(MainOptions {
        limits: options.stream,
        vmdesc: options.vmdesc.clone(),
        vmdesc_follows: options.vmdesc_follows,
        ..MainOptions::default()
    });
    let mut buffer = vec![0; options.limits.chunk_len()];
    let mut input = Input { reader: main, connection: Connection::Main, pulse: &shared.pulse, must_speak: true };
    let end = input.drive(&mut decoder, &mut buffer, |event| stream.handle(&event))?;
    if end != End::Done {
        let offset = stream_codec::decode::Decoder::offset(&decoder);
        let missing = "the description of the machine that ends the stream".to_string();
        return Err(StreamError::Closed { connection: Connection::Main, offset, missing }.into());
    }
    stream.conclude()?;
    for slot in &shared.slots {
        stop(lock(slot).device)?;
    }
    Ok(())
}

/// Refuses devices that something else is already doing something with.
fn check_states<D: Device, V: TargetMachine + ?Sized>(shared: &Shared<'_, '_, D, V>) -> Result<(), Cause> {
    for slot in &shared.slots {
        let mut slot = lock(slot);
        match slot.device.state()? {
            State::Running | State::Stop => {}
            other => {
                let name = &slot.name;
                return Err(Cause::refused(std::format!("device '{name}' is in {other} here; reset it first")));
            }
        }
    }
    Ok(())
}

/// Has the device load what it got. That it says so is all the proof there is: QEMU's streams have no digests.
fn stop<D: Device>(device: &mut D) -> Result<(), Cause> {
    device.transition(State::Stop)?;
    match device.state()? {
        State::Stop => Ok(()),
        other => {
            let detail = std::format!("it says it stopped, and is in {other}");
            Err(DeviceError::contract(device.name(), Call::SetState(State::Stop), detail).into())
        }
    }
}

impl<D: Device + Send, V: TargetMachine + ?Sized, W: Write> Loaded<'_, D, V, W> {
    /// What arrived.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Tells the source that all is well, and runs the devices.
    ///
    /// In this order, which is not QEMU's: a source that cannot be told will run its guest again, so the guest must not run
    /// here.
    ///
    /// # Errors
    /// With [`MigrationError::committed`] unset the source could not be told, and the devices are reset. With it set the guest
    /// is this side's, and a device does not run.
    pub fn run(mut self) -> Result<Report, MigrationError> {
        self.armed = false;
        self.begin(Phase::Commit);
        match self.back.shut(0) {
            Ok(told) => self.report.source_told = told,
            Err(cause) => return Err(self.fail(cause)),
        }
        if let Err(error) = restore::run_together(self.devices) {
            let (phase, devices) = (Phase::Commit, Vec::new());
            return Err(MigrationError { phase, cause: error.into(), devices, committed: true });
        }
        self.begin(Phase::Done);
        Ok(core::mem::take(&mut self.report))
    }

    fn fail(&mut self, cause: Cause) -> MigrationError {
        let touched = vec![true; self.devices.len()];
        fail(self.devices, &mut self.back, &mut self.trace, &touched, Phase::Commit, cause)
    }

    fn begin(&mut self, phase: Phase) {
        self.trace.begin(phase);
        self.trace.in_phase(|| self.machine.phase(phase));
    }
}

impl<D: Device + Send, V: TargetMachine + ?Sized, W: Write> Drop for Loaded<'_, D, V, W> {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.fail(Cause::Cancelled);
        }
    }
}

impl<D: Device + Send, V: TargetMachine + ?Sized, W: Write> fmt::Debug for Loaded<'_, D, V, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("report", &self.report).finish_non_exhaustive()
    }
}
