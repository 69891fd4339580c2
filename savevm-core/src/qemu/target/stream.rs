// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main stream of a target: what each message does, and what is answered.

use std::format;
use std::io::Write;
use std::string::{String, ToString};
use std::vec::Vec;

use stream_codec::qemu::{
    Command, ConfigState, ConfigurationSubsection, Event, Item, RamRecord, ReturnPathItem, SectionHeader, SectionKind,
    VfioRecord,
};

use super::shared::{Shared, lock};
use super::{LoadOptions, TargetMachine};
use crate::device::Device;
use crate::error::Cause;
use crate::hooks::Phase;
use crate::qemu::error::{Connection, StreamError};
use crate::qemu::input::Flow;
use crate::qemu::memory::{PAGE_BITS, RamError};
use crate::qemu::{Acks, DeviceState};
use crate::trace::Trace;

/// Which sections of a device have come.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    start: bool,
    end: bool,
    full: bool,
    config: bool,
}

/// The section that is open.
#[derive(Clone, Copy, Debug)]
struct Section {
    kind: SectionKind,
    of: Of,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Of {
    Machine,
    Device(usize),
    /// Guest memory that is not the machine's.
    Ram,
}

pub(super) struct Stream<'s, 'a, 'm, D, V: ?Sized, W> {
    shared: &'s Shared<'a, 'm, D, V>,
    options: &'s LoadOptions,
    pub(super) back: Back<W>,
    section: Section,
    seen: Vec<Seen>,
    seen_ram: Seen,
    /// Which devices have anything to acknowledge.
    has_precopy: Vec<bool>,
    /// With [`Acks::Once`]: the devices whose initial bytes have not come.
    acks_open: usize,
    pub(super) acks_sent: u32,
    pub(super) phase: Phase,
    pub(super) trace: Trace,
}

/// The return path.
pub(super) struct Back<W> {
    writer: Option<W>,
    /// The source listens.
    is_open: bool,
    offset: u64,
}

impl<W: Write> Back<W> {
    pub(super) const fn new(writer: Option<W>) -> Self {
        Self { writer, is_open: false, offset: 0 }
    }

    pub(super) fn send(&mut self, item: ReturnPathItem<'_>) -> Result<(), Cause> {
        let connection = Connection::ReturnPath;
        let (Some(writer), true) = (&mut self.writer, self.is_open) else {
            return Ok(());
        };
        let mut bytes = Vec::new();
        item.encode(&mut bytes).map_err(|reason| StreamError::Unwritable { connection, reason })?;
        let failed = |error| StreamError::Io { connection, offset: self.offset, error };
        writer.write_all(&bytes).and_then(|()| writer.flush()).map_err(failed)?;
        self.offset = self.offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// The last word. Whether the source can have heard it.
    pub(super) fn shut(&mut self, status: u32) -> Result<bool, Cause> {
        let is_open = self.is_open;
        self.send(ReturnPathItem::Shut { status })?;
        self.is_open = false;
        Ok(is_open)
    }
}

impl<'s, 'a, 'm, D: Device, V: TargetMachine + ?Sized, W: Write> Stream<'s, 'a, 'm, D, V, W> {
    pub(super) fn new(
        shared: &'s Shared<'a, 'm, D, V>,
        writer: Option<W>,
        channels: usize,
        options: &'s LoadOptions,
    ) -> Self {
        let has_precopy: Vec<bool> =
            shared.slots.iter().map(|slot| lock(slot).device.capabilities().has_pre_copy()).collect();
        Self {
            shared,
            options,
            back: Back::new(writer),
            section: Section { kind: SectionKind::Full, of: Of::Machine },
            seen: shared.names.iter().map(|_| Seen::default()).collect(),
            seen_ram: Seen::default(),
            acks_open: has_precopy.iter().filter(|has| **has).count(),
            has_precopy,
            acks_sent: 0,
            phase: Phase::Hello,
            trace: Trace::new("target", shared.slots.len(), channels.saturating_add(1)),
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Cause> {
        if self.phase < phase || phase == Phase::Hello {
            self.phase = phase;
            self.trace.begin(phase);
            self.trace.in_phase(|| lock(&self.shared.machine).phase(phase));
        }
        self.shared.pulse.check()
    }

    pub(super) fn handle(&mut self, event: &Event<'_, Item<'_>>) -> Result<Flow, Cause> {
        match &event.item {
            Item::Section(header) => self.section(header, &event.item)?,
            Item::Vfio(record) => self.record(record)?,
            Item::Footer { .. } if self.section.of != Of::Machine => self.section.of = Of::Machine,
            Item::Command(command) => self.command(*command)?,
            Item::EndOfStream => {
                if !self.options.vmdesc_follows {
                    return Ok(Flow::Done);
                }
            }
            Item::Vmdesc { length: 0 } => return Ok(Flow::Done),
            Item::VmdescBytes(piece) => return Ok(if piece.is_last() { Flow::Done } else { Flow::More }),
            Item::Ram(record) => self.ram(record, &event.item)?,
            Item::ConfigurationSubsection(ConfigurationSubsection::TargetPageBits(bits))
                if self.shared.ram.is_some() && *bits != PAGE_BITS =>
            {
                return Err(RamError::PageSize { page_bits: *bits }.into());
            }
            item => self.machine(item)?,
        }
        Ok(Flow::More)
    }

    fn ram(&mut self, record: &RamRecord<'_>, item: &Item<'_>) -> Result<(), Cause> {
        let is_end = *record == RamRecord::EndOfSection;
        let ends_with_point = self.options.agreement.flush_each_section && self.shared.has_channels();
        let has_point = *record == RamRecord::MultifdFlush || (is_end && ends_with_point);
        // Pages that wait for the first point need the list, which this record ends.
        self.shared.ram.as_ref().map_or(Ok(()), |ram| ram.record(record))?;
        if has_point {
            self.shared.release()?;
        }
        let Some(ram) = &self.shared.ram else { return self.machine(item) };
        if is_end {
            let bytes = ram.pages().bytes();
            lock(&self.shared.machine).progress(self.shared.names.len(), bytes);
            self.seen_ram.end |= self.section.kind == SectionKind::End;
        }
        Ok(())
    }

    fn machine(&self, item: &Item<'_>) -> Result<(), Cause> {
        lock(&self.shared.machine).item(item).map_err(Cause::refused)
    }

    fn section(&mut self, header: &SectionHeader<'_>, item: &Item<'_>) -> Result<(), Cause> {
        let is_device = header.idstr == "vfio" || header.idstr.ends_with("/vfio");
        if header.idstr == "ram" && self.shared.ram.is_some() {
            self.section = Section { kind: header.kind, of: Of::Ram };
            match header.kind {
                SectionKind::Start => {
                    self.seen_ram.start = true;
                    self.enter(Phase::Open)?;
                }
                SectionKind::Part => self.enter(Phase::PreCopy)?,
                _ => {}
            }
            return Ok(());
        }
        if !is_device {
            self.section = Section { kind: header.kind, of: Of::Machine };
            return self.machine(item);
        }
        let device = self.shared.find(header.idstr, header.instance_id)?;
        self.section = Section { kind: header.kind, of: Of::Device(device) };
        match header.kind {
            SectionKind::Start => {
                self.enter(Phase::Open)?;
                self.shared.begin(device)?;
                self.mark(device, |seen| seen.start = true);
            }
            SectionKind::Part => self.enter(Phase::PreCopy)?,
            _ => {}
        }
        Ok(())
    }

    fn seen(&self, device: usize) -> Seen {
        self.seen.get(device).copied().unwrap_or_default()
    }

    fn mark(&mut self, device: usize, mark: impl FnOnce(&mut Seen)) {
        self.seen.get_mut(device).map(mark).unwrap_or_default();
    }

    fn command(&mut self, command: Command<'_>) -> Result<(), Cause> {
        match command {
            Command::OpenReturnPath => self.open_return_path(),
            Command::Ping(value) => {
                if !self.back.is_open {
                    return Err(Cause::refused("the source wants an answer before it has opened the return path"));
                }
                self.back.send(ReturnPathItem::Pong { value })
            }
            Command::SwitchoverStart => {
                self.enter(Phase::Switchover)?;
                self.enter(Phase::StopCopy)?;
                self.shared.start()
            }
            other => Err(Cause::refused(format!(
                "the source begins what VFIO devices cannot do ({}): switch postcopy-ram off on both sides",
                other.name()
            ))),
        }
    }

    fn open_return_path(&mut self) -> Result<(), Cause> {
        if self.back.writer.is_none() {
            let reason = "the source wants a return path, and this target has none: switch the capability return-path \
                          off at the source, or give this target the other direction of the connection";
            return Err(Cause::refused(reason));
        }
        if self.back.is_open {
            return Ok(());
        }
        self.back.is_open = true;
        // vfio-section.md: a target without anything to wait for acknowledges at once in the old scheme, never in the new.
        if self.options.agreement.acks == Acks::Once && self.acks_open == 0 {
            return self.acknowledge();
        }
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<(), Cause> {
        self.acks_sent = self.acks_sent.saturating_add(1);
        self.back.send(ReturnPathItem::SwitchoverAck)
    }

    fn record(&mut self, record: &VfioRecord<'_>) -> Result<(), Cause> {
        let Section { kind, of: Of::Device(device) } = self.section else {
            return Err(Cause::refused("device state outside of a section"));
        };
        match *record {
            VfioRecord::Setup if kind == SectionKind::Start => Ok(()),
            VfioRecord::Data { .. } => self.check_data(kind, device),
            VfioRecord::DataBytes(piece) => self.shared.write(device, piece.bytes, kind == SectionKind::Part),
            VfioRecord::InitDataSent if kind == SectionKind::Part => self.initial_bytes_sent(device),
            VfioRecord::Config if kind == SectionKind::Full => self.check_config(device),
            VfioRecord::ConfigState(state) => self.config(device, &state),
            VfioRecord::ConfigLoadReady if kind == SectionKind::Full => {
                self.mark(device, |seen| seen.full = true);
                Ok(())
            }
            VfioRecord::EndOfState => {
                self.mark(device, |seen| {
                    seen.end |= kind == SectionKind::End;
                    seen.full |= kind == SectionKind::Full;
                });
                Ok(())
            }
            other => {
                Err(Cause::refused(format!("{}: {other:?} in a section of kind {}", self.name(device), kind.name())))
            }
        }
    }

    fn name(&self, device: usize) -> &str {
        self.shared.names.get(device).map_or("", String::as_str)
    }

    fn mismatch(&self, device: usize, what: &str) -> Cause {
        Cause::refused(format!(
            "the source sends the {what} of {} over the main connection, and this target was told that it comes over \
             multifd channels: set multifd and x-migration-multifd-transfer alike on both sides",
            self.name(device)
        ))
    }

    fn check_data(&self, kind: SectionKind, device: usize) -> Result<(), Cause> {
        match (kind, self.options.agreement.device_state) {
            (SectionKind::Part, _) | (SectionKind::End, DeviceState::Main) => Ok(()),
            (SectionKind::End, DeviceState::Multifd) => Err(self.mismatch(device, "state")),
            (kind, _) => {
                Err(Cause::refused(format!("{}: device state in a section of kind {}", self.name(device), kind.name())))
            }
        }
    }

    fn check_config(&self, device: usize) -> Result<(), Cause> {
        match self.options.agreement.device_state {
            DeviceState::Main => Ok(()),
            DeviceState::Multifd => Err(self.mismatch(device, "config state")),
        }
    }

    fn config(&mut self, device: usize, state: &ConfigState<'_>) -> Result<(), Cause> {
        if self.seen(device).config {
            return Err(Cause::refused(format!("{}: a second config state", self.name(device))));
        }
        self.mark(device, |seen| seen.config = true);
        self.load_config(device, state)
    }

    fn load_config(&self, device: usize, state: &ConfigState<'_>) -> Result<(), Cause> {
        let loaded = lock(&self.shared.machine).config(device, state);
        loaded.map_err(|reason| Cause::refused(format!("{}: its config state: {reason}", self.name(device))))
    }

    fn initial_bytes_sent(&mut self, device: usize) -> Result<(), Cause> {
        let name = self.name(device).to_string();
        if self.options.agreement.acks == Acks::Off {
            return Err(Cause::refused(format!(
                "{name}: the source wants an acknowledgement: switch switchover-ack on here, or off there"
            )));
        }
        let has_precopy = self.has_precopy.get_mut(device).is_some_and(|has| *has);
        if !has_precopy {
            return Err(Cause::refused(format!(
                "{name}: the source speaks of initial bytes, the device here has none"
            )));
        }
        if self.options.agreement.acks == Acks::PerRequest {
            return self.acknowledge();
        }
        match self.acks_open.checked_sub(1) {
            Some(left) => self.acks_open = left,
            None => {
                return Err(Cause::refused(format!(
                    "{name}: the source wants more acknowledgements than there are devices: is switchover-ack-legacy \
                     the same on both sides?"
                )));
            }
        }
        if self.acks_open == 0 { self.acknowledge() } else { Ok(()) }
    }

    /// The stream has ended: everything must be here, or still be coming over multifd channels.
    pub(super) fn conclude(&mut self) -> Result<(), Cause> {
        for device in 0..self.shared.names.len() {
            let via_multifd = self.options.agreement.device_state == DeviceState::Multifd;
            let seen = self.seen(device);
            let parts = [
                (seen.start, "no START section of"),
                (seen.end, "no END section of"),
                (seen.full, "no FULL section of"),
                (seen.config || via_multifd, "no config state of"),
            ];
            if let Some((_, what)) = parts.iter().find(|(has, _)| !has) {
                return Err(Cause::refused(format!("the stream has ended, and has {what} {}", self.name(device))));
            }
            if via_multifd && !self.shared.has_started() {
                return Err(Cause::refused(
                    "the stream has ended without SWITCHOVER_START, which frees what channels bring",
                ));
            }
        }
        if self.shared.ram.is_some() {
            let parts = [(self.seen_ram.start, "START"), (self.seen_ram.end, "END")];
            if let Some((_, what)) = parts.into_iter().find(|(has, _)| !has) {
                return Err(RamError::NoSection { what }.into());
            }
            self.shared.check_synchronised()?;
        }
        self.enter(Phase::Load)?;
        if self.options.agreement.device_state == DeviceState::Multifd {
            self.shared.wait_complete()?;
            for device in 0..self.shared.names.len() {
                let bytes = core::mem::take(&mut self.shared.slot(device)?.config);
                self.load_config(device, &ConfigState::parse(&bytes))?;
            }
        }
        Ok(())
    }
}
