// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source of a QEMU target.

mod answers;
mod channels;
mod commit;
mod machine;
mod memory;
mod packets;
mod pages;
mod precopy;
mod set;
mod writer;

use core::time::Duration;
use std::format;
use std::io::{Read, Write};
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use stream_codec::qemu::{Command, ConfigState, Item, SectionKind, VfioRecord};

use self::answers::Answers;
use self::channels::Channels;
pub use self::machine::{Part, SourceMachine};
use self::memory::Memory;
pub use self::memory::SourceMemory;
use self::pages::RamWriter;
pub use self::precopy::Precopy;
use self::set::Set;
use self::writer::MainWriter;
use super::input::Pulse;
use super::memory::RamPages;
use super::{Acks, Agreement, DeviceState};
use crate::device::{self, Call, Device, DeviceError};
use crate::error::{Cause, MigrationError};
use crate::hooks::{Cancel, Phase};
use crate::limits::Limits;
use crate::save::DeviceSum;

/// How often a device may begin anew while it is made quiet, before the switchover goes on regardless.
const REINIT_MAX: u32 = 8;
/// The values of the two PINGs: when the return path opens, and when all sections are out.
const PING_OPEN: u32 = 1;
const PING_WHOLE: u32 = 2;

/// What the caller decides about a save.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SaveOptions {
    /// What the target is configured with.
    pub agreement: Agreement,
    /// Bounds on memory. QEMU's own packets have 1 MiB, the default of `chunk_bytes_max`.
    pub limits: Limits,
    /// When to leave pre-copy; `None` goes straight to stop-copy. With acknowledgements it also waits for those.
    pub precopy: Option<Precopy>,
    /// Id of the first device's section; the others have the ids after it, and guest memory the one before. The machine must not use
    /// them.
    pub section_id_first: u32,
    /// Ends the migration from another thread.
    pub cancel: Cancel,
}

impl SaveOptions {
    /// For a target with this configuration.
    #[must_use]
    pub fn new(agreement: Agreement) -> Self {
        let (limits, precopy) = (Limits::default(), Some(Precopy::default()));
        Self { agreement, limits, precopy, section_id_first: 1 << 16, cancel: Cancel::new() }
    }
}

/// Everything but the end of the stream is out, the devices are stopped and still this side's.
///
/// Dropped, it breaks the stream off and returns the devices.
#[must_use = "dropping this aborts the migration; call commit to complete it"]
pub struct Ready<'a, D: Device + Send, V: SourceMachine + ?Sized, W: Write, R: Read> {
    set: Set<'a, D, V>,
    memory: Option<Memory<'a>>,
    main: MainWriter<W>,
    answers: Option<Answers<R>>,
    cancel: Cancel,
    limits: Limits,
    section_id_first: u32,
    acks: Acks,
    flush_each_section: bool,
    report: Report,
}

/// What moved, and how.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// What left, per device.
    pub devices: Vec<DeviceSum>,
    /// What left of guest memory. Nothing is counted where the machine sends it itself.
    pub ram: RamPages,
    /// Acknowledgements of initial bytes that came.
    pub acks_received: u32,
    /// Whether the target said that all is well. Without a return path it says nothing.
    pub confirmed: bool,
    /// From the request to pause the guest to the target's word.
    pub downtime: Duration,
}

/// Takes the place of a QEMU told to `migrate`: sends `devices` and the rest of the machine, all but the end of the stream.
///
/// `back` is the return path: the other direction of the main connection; none where the target has the capability off, and for
/// a file. `channels` are the multifd channels.
///
/// With a return path the target has by then answered a PING behind the last section: it has read all of them without error.
///
/// # Errors
/// [`MigrationError`], with the devices already put back. The connections should be closed then, which is how a QEMU target learns.
pub fn save<'a, D, V, W, R, C>(
    devices: &'a mut [D],
    machine: &'a mut V,
    main: W,
    back: Option<R>,
    channels: Vec<C>,
    options: &SaveOptions,
) -> Result<Ready<'a, D, V, W, R>, MigrationError>
where
    D: Device + Send,
    V: SourceMachine + ?Sized,
    W: Write,
    R: Read,
    C: Write + Send,
{
    save_all(devices, machine, None, main, back, channels, options)
}

/// As [`save`], with guest memory sent from here: the machine writes all sections but the one of RAM. Its index in
/// [`Hooks::progress`](crate::Hooks::progress) is the devices' number.
///
/// What the trackers report moves while the guest runs, in rounds beside the devices' chunks, and the rest while it stands. With multifd
/// channels all pages go over them, on a thread for each. The target needs the same RAM blocks; a QEMU that has others refuses.
///
/// # Errors
/// As [`save`]. All memory counts as dirty then, and its trackers are stopped.
pub fn save_with_memory<'a, D, V, W, R, C>(
    devices: &'a mut [D],
    machine: &'a mut V,
    memory: SourceMemory<'a>,
    main: W,
    back: Option<R>,
    channels: Vec<C>,
    options: &SaveOptions,
) -> Result<Ready<'a, D, V, W, R>, MigrationError>
where
    D: Device + Send,
    V: SourceMachine + ?Sized,
    W: Write,
    R: Read,
    C: Write + Send,
{
    save_all(devices, machine, Some(Memory::new(memory)), main, back, channels, options)
}

fn save_all<'a, D, V, W, R, C>(
    devices: &'a mut [D],
    machine: &'a mut V,
    memory: Option<Memory<'a>>,
    main: W,
    back: Option<R>,
    channels: Vec<C>,
    options: &SaveOptions,
) -> Result<Ready<'a, D, V, W, R>, MigrationError>
where
    D: Device + Send,
    V: SourceMachine + ?Sized,
    W: Write,
    R: Read,
    C: Write + Send,
{
    let mut ready = Ready {
        set: Set::new(devices, machine, channels.len(), options),
        memory,
        main: MainWriter::new(main),
        answers: back.map(Answers::new),
        section_id_first: options.section_id_first,
        acks: options.agreement.acks,
        flush_each_section: options.agreement.flush_each_section,
        cancel: options.cancel.clone(),
        limits: options.limits,
        report: Report::default(),
    };
    match ready.run(channels, options) {
        Ok(()) => Ok(ready),
        Err(cause) => Err(ready.fail(cause)),
    }
}

impl<D: Device + Send, V: SourceMachine + ?Sized, W: Write, R: Read> Ready<'_, D, V, W, R> {
    fn run<C: Write + Send>(&mut self, channels: Vec<C>, options: &SaveOptions) -> Result<(), Cause> {
        self.set.enter(Phase::Hello)?;
        let channels = self.begin(channels, options)?;
        self.set.enter(Phase::Open)?;
        self.start(&channels, options)?;
        self.read_while_running(&channels, options)?;
        self.set.enter(Phase::StopCopy)?;
        self.set.stop()?;
        if let Some(memory) = &mut self.memory {
            memory.stop();
        }
        self.main.item(&Item::Command(Command::SwitchoverStart))?;
        self.end(&channels, options)?;
        self.full(options)?;
        self.set.enter(Phase::Load)?;
        if self.answers.is_some() {
            self.ask(PING_WHOLE)?;
        }
        if let Some(memory) = &mut self.memory {
            memory.complete()?;
            self.report.ram = memory.sent;
        }
        self.report.devices = self.set.sums();
        Ok(())
    }

    /// File header, configuration, the return path, and the first packet of every channel.
    fn begin<C: Write + Send>(&mut self, channels: Vec<C>, options: &SaveOptions) -> Result<Channels<C>, Cause> {
        if options.agreement.acks != Acks::Off && self.answers.is_none() {
            return Err(Cause::refused("acknowledgements were agreed on, which need a return path"));
        }
        if options.agreement.device_state == DeviceState::Multifd && channels.is_empty() {
            return Err(Cause::refused("device state is to go over multifd channels, and there are none"));
        }
        // A QEMU target reads nothing before all channels have said who they are.
        let channels = Channels::open(channels, options.agreement.uuid)?;
        self.main.item(&Item::FileHeader)?;
        self.machine(Part::Configuration)?;
        if self.answers.is_some() {
            self.main.item(&Item::Command(Command::OpenReturnPath))?;
            self.main.item(&Item::Command(Command::Ping(PING_OPEN)))?;
        }
        self.main.flush()?;
        Ok(channels)
    }

    /// START sections, with every device that can in pre-copy.
    fn start<C: Write + Send>(&mut self, channels: &Channels<C>, options: &SaveOptions) -> Result<(), Cause> {
        self.set.check_states()?;
        self.machine(Part::Start)?;
        if options.precopy.is_some() {
            self.set.begin_precopy()?;
            self.memory.as_mut().map_or(Ok(()), Memory::start)?;
        }
        self.ram(channels, |writer, memory| writer.start(memory))?;
        for index in 0..self.set.devices.len() {
            let (id, name) = self.section(index);
            self.main.section(SectionKind::Start, id, &name, &[VfioRecord::Setup, VfioRecord::EndOfState])?;
        }
        self.main.flush()?;
        // The first answer says that the target has read so far, and has not refused a device.
        if self.answers.is_some() { self.wait_pong(PING_OPEN) } else { Ok(()) }
    }

    fn section(&self, index: usize) -> (u32, std::string::String) {
        let offset = u32::try_from(index).unwrap_or(u32::MAX);
        (self.section_id_first.saturating_add(offset), super::idstr(&self.set.name(index)))
    }

    /// Writes of guest memory, if it is sent from here.
    fn ram<C: Write + Send, T: Default>(
        &mut self,
        channels: &Channels<C>,
        write: impl FnOnce(&mut RamWriter<'_, W, C>, &mut Memory<'_>) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        let Some(memory) = &mut self.memory else { return Ok(T::default()) };
        let mut writer = RamWriter {
            main: &mut self.main,
            channels,
            cancel: &self.cancel,
            section_id: self.section_id_first.saturating_sub(1),
            flush_each_section: self.flush_each_section,
        };
        let written = write(&mut writer, memory)?;
        self.tell_progress();
        Ok(written)
    }

    fn tell_progress(&mut self) {
        if let Some(memory) = &self.memory {
            self.set.machine.progress(self.set.devices.len(), memory.sent.bytes());
        }
    }

    /// The machine's items of a part.
    fn machine(&mut self, part: Part) -> Result<(), Cause> {
        write_part(self.set.machine, &mut self.main, part)
    }

    /// Waits until the target has read as far as that PING.
    fn wait_pong(&mut self, value: u32) -> Result<(), Cause> {
        let pulse = Pulse::new(self.cancel.clone(), self.limits.silence_max);
        let Some(answers) = &mut self.answers else { return Ok(()) };
        while !answers.has_pong(value) {
            answers.read_some(self.acks)?;
            check_shut(answers)?;
            pulse.check_silence(|| "the answer to a PING".to_string())?;
        }
        Ok(())
    }

    fn ask(&mut self, value: u32) -> Result<(), Cause> {
        self.main.item(&Item::Command(Command::Ping(value)))?;
        self.main.flush()?;
        self.wait_pong(value)
    }

    /// Pre-copy where there is any, then the P2P barrier.
    fn read_while_running<C: Write + Send>(
        &mut self,
        channels: &Channels<C>,
        options: &SaveOptions,
    ) -> Result<(), Cause> {
        for _ in 0..REINIT_MAX {
            if let Some(rule) = &options.precopy {
                self.set.enter(Phase::PreCopy)?;
                self.set.begin_precopy()?;
                self.precopy(channels, rule, options)?;
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

    /// END sections, and what devices give when the guest is stopped.
    fn end<C: Write + Send>(&mut self, channels: &Channels<C>, options: &SaveOptions) -> Result<(), Cause> {
        match options.agreement.device_state {
            DeviceState::Multifd => self.end_over_channels(channels, options)?,
            DeviceState::Main => {
                self.machine(Part::End)?;
                self.ram(channels, |writer, memory| writer.end(memory))?;
                let mut buffer = vec![0; options.limits.chunk_len()];
                for index in 0..self.set.devices.len() {
                    self.drain(index, &mut buffer)?;
                }
            }
        }
        self.main.flush()
    }

    /// END sections that say nothing, while the devices' threads send.
    fn end_over_channels<C: Write + Send>(
        &mut self,
        channels: &Channels<C>,
        options: &SaveOptions,
    ) -> Result<(), Cause> {
        self.main.flush()?;
        let count = self.set.devices.len();
        let configs = (0..count).map(|index| self.set.config(index)).collect::<Result<Vec<_>, _>>()?;
        let sections: Vec<_> = (0..count).map(|index| self.section(index)).collect();
        let (set, main) = (&mut self.set, &mut self.main);
        let machine = &mut *set.machine;
        let (memory, cancel, section_id) = (&mut self.memory, &self.cancel, self.section_id_first.saturating_sub(1));
        let flush_each_section = self.flush_each_section;
        let meanwhile = || {
            write_part(machine, main, Part::End)?;
            if let Some(memory) = memory {
                RamWriter { main, channels, cancel, section_id, flush_each_section }.end(memory)?;
            }
            for (id, name) in &sections {
                main.section(SectionKind::End, *id, name, &[VfioRecord::EndOfState])?;
            }
            main.flush()
        };
        let (devices, progress) = (&mut *set.devices, &mut set.progress);
        channels.send_all(devices, progress, &configs, &set.cancel, &options.limits, meanwhile)?;
        self.tell_progress();
        Ok(())
    }

    /// The END section of one device.
    fn drain(&mut self, index: usize, buffer: &mut [u8]) -> Result<(), Cause> {
        let (id, name) = self.section(index);
        self.main.open_section(SectionKind::End, id, &name)?;
        loop {
            self.set.check_cancel()?;
            match self.set.read(index, buffer)? {
                device::Read::Bytes(count) => self.main.data(buffer.get(..count).unwrap_or_default())?,
                device::Read::End => break,
                device::Read::Drained => return Err(drained(&self.set.name(index))),
            }
        }
        self.main.record(VfioRecord::EndOfState)?;
        self.main.footer(id)
    }

    /// FULL sections.
    fn full(&mut self, options: &SaveOptions) -> Result<(), Cause> {
        self.machine(Part::Full)?;
        for index in 0..self.set.devices.len() {
            let (id, name) = self.section(index);
            match options.agreement.device_state {
                DeviceState::Multifd => {
                    self.main.section(SectionKind::Full, id, &name, &[VfioRecord::EndOfState])?;
                }
                DeviceState::Main => {
                    let config = self.set.config(index)?;
                    self.main.open_section(SectionKind::Full, id, &name)?;
                    self.main.record(VfioRecord::Config)?;
                    if !config.is_empty() {
                        self.main.record(VfioRecord::ConfigState(ConfigState::parse(&config)))?;
                    }
                    self.main.record(VfioRecord::EndOfState)?;
                    self.main.footer(id)?;
                }
            }
        }
        self.main.flush()
    }
}

fn check_shut<R: Read>(answers: &Answers<R>) -> Result<(), Cause> {
    // Before the end of the stream a target that is content has no reason to end the return path.
    answers.shut().map_or(Ok(()), |status| Err(super::StreamError::Refused { status }.into()))
}

fn write_part<V: SourceMachine + ?Sized, W: Write>(
    machine: &mut V,
    main: &mut MainWriter<W>,
    part: Part,
) -> Result<(), Cause> {
    let mut failure = None;
    let written = machine.write(part, &mut |item| {
        main.item(item).map_err(|cause| {
            let text = cause.to_string();
            failure = Some(cause);
            text
        })
    });
    failure.map_or_else(|| written.map_err(Cause::refused), Err)
}

/// A device that says, in STOP_COPY, that there is more to come.
fn drained(name: &str) -> Cause {
    let detail = "it says there is more to come, in STOP_COPY, where nothing can change";
    DeviceError::contract(name, Call::Read, detail).into()
}

/// What a device claims to have read must fit the buffer it was given.
fn checked(name: &str, read: device::Read, buffer_len: usize) -> Result<device::Read, Cause> {
    match read {
        device::Read::Bytes(count) if count == 0 || count > buffer_len => {
            let detail = format!("it claims {count} bytes in a buffer of {buffer_len}");
            Err(DeviceError::contract(name, Call::Read, detail).into())
        }
        read => Ok(read),
    }
}
