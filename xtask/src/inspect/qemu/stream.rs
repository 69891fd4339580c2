// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main stream, from its header to its vmdesc.

use serde_json::Value;
use stream_codec::qemu::{
    Command, ConfigurationSubsection, Event, Item, MainDecoder, MainOptions, Piece, SectionHeader, SectionKind,
    VfioRecord, Vmdesc, VmdescLimits,
};

use super::facts::{MainFacts, Stage};
use super::fields::Fields;
use super::parts::Parts;
use super::section::Open;
use super::vfio::note_config;
use crate::inspect::case::Case;
use crate::inspect::drive::{End, drive};
use crate::inspect::entry::Entry;
use crate::inspect::fault::Fault;
use crate::inspect::input::Input;
use crate::inspect::words::{count, shown, uuid, wide};

/// How much is held back at most until the vmdesc tells the fields of sections whose ends were searched.
const HELD_BYTES_MAX: u64 = 64 << 20;

/// Most PINGs whose values are kept.
const PINGS_MAX: usize = 256;

/// Explains a main stream.
///
/// # Errors
/// The file cannot be read.
pub(in crate::inspect) fn explain(file: usize, input: &mut Input, case: &mut Case<'_>) -> Result<(), String> {
    let label = input.label.clone();
    let mut reader = Reader { file, is_all: case.options.all, ..Reader::default() };
    let vmdesc = reader.find_vmdesc(input)?;
    let mut decoder = MainDecoder::new(MainOptions { vmdesc, ..MainOptions::default() });
    let end = drive(input, &mut decoder, case.progress, |event| {
        reader.event(&event, &label, case);
        case.go_on()
    })?;
    let within = reader.open.as_ref().map(Open::name).unwrap_or_default();
    reader.finish(&label, case);
    match end {
        End::Whole => reader.facts.is_complete = true,
        End::Left => {}
        End::Refused(fault) => {
            case.is_whole = false;
            case.fault(&label, fault.within(within));
        }
    }
    case.main = Some(reader.facts);
    Ok(())
}

/// What is held back: an entry, and the payload of which it may get its fields.
struct Held {
    entry: Entry,
    payload: Option<(u64, Vec<u8>)>,
    instance: u32,
}

#[derive(Default)]
struct Reader {
    file: usize,
    is_all: bool,
    facts: MainFacts,
    open: Option<Open>,
    /// Where the last event of the open section ended.
    end: u64,
    parts: Parts,
    held: Vec<Held>,
    held_bytes: u64,
    /// The vmdesc was read before the stream, or does not need to be read any more.
    is_described: bool,
    /// The vmdesc as far as it has come.
    json: Vec<u8>,
    /// What is wrong with it.
    vmdesc_fault: Option<Fault>,
}

impl Reader {
    /// Reads the vmdesc at the end of a file beforehand.
    fn find_vmdesc(&mut self, input: &Input) -> Result<Option<Vmdesc>, String> {
        let limits = VmdescLimits::DEFAULT;
        let Some(length) = input.length() else { return Ok(None) };
        for tail_bytes in [64 << 10, 1 << 20, limits.json_bytes.saturating_add(6)] {
            let start = length.saturating_sub(wide(tail_bytes));
            let mut buffer = vec![0; usize::try_from(length.saturating_sub(start)).unwrap_or(tail_bytes)];
            let Some(read) = input.read_at(start, &mut buffer) else { return Ok(None) };
            let tail = read.map_err(|error| format!("cannot read {}: {error}", input.label))?;
            if let Some(range) = Vmdesc::locate(tail) {
                let at = start.saturating_add(wide(range.start));
                let json = tail.get(range).unwrap_or_default();
                self.is_described = true;
                return Ok(self.parse(json, at));
            }
            if start == 0 {
                break;
            }
        }
        Ok(None)
    }

    fn parse(&mut self, json: &[u8], at: u64) -> Option<Vmdesc> {
        match Vmdesc::parse(json, &VmdescLimits::DEFAULT) {
            Ok(vmdesc) => {
                self.facts.described_devices = Some(wide(vmdesc.devices().count()));
                Some(vmdesc)
            }
            Err(error) => {
                let skip = usize::try_from(error.offset).unwrap_or(usize::MAX);
                let mut fault = Fault::of(&error).within("the vmdesc").found(json.get(skip..).unwrap_or_default());
                fault.offset = at.saturating_add(error.offset);
                self.vmdesc_fault = Some(fault);
                None
            }
        }
    }

    fn event(&mut self, event: &Event<'_, Item<'_>>, label: &str, case: &mut Case<'_>) {
        let (offset, bytes) = (event.offset, wide(event.raw.len()));
        self.advance(&event.item);
        self.facts.pass(bytes);
        let end = offset.saturating_add(bytes);
        match &event.item {
            Item::FileHeader => {
                let entry = Entry::new("file", offset, bytes).named("header").fact("version", 3);
                self.show(entry.text("QEVM, version 3"), case);
            }
            Item::Configuration { machine } => {
                (*machine).clone_into(&mut self.facts.machine);
                let entry = Entry::new("configuration", offset, bytes).fact("machine", *machine);
                self.show(entry.text(format!("machine type {}", shown(machine))), case);
            }
            Item::ConfigurationSubsection(subsection) => self.configuration(subsection, offset, bytes, case),
            Item::Section(header) => self.section(header, offset, bytes, case),
            Item::Command(command) => self.command(command, offset, bytes, case),
            Item::EndOfStream => {
                self.close(case);
                self.show(Entry::new("end", offset, bytes).named("of stream"), case);
            }
            Item::Vmdesc { length } => {
                self.facts.vmdesc_bytes = Some(u64::from(*length));
                let entry = Entry::new("vmdesc", offset, bytes.saturating_add(u64::from(*length)));
                let described = self.facts.described_devices.map(|devices| count(devices, "device"));
                let text = described.map_or_else(String::new, |devices| format!("{devices} in "));
                self.show(entry.text(format!("{text}{length} bytes of JSON")), case);
            }
            Item::VmdescBytes(piece) => self.vmdesc(piece, offset, label, case),
            Item::Footer { .. } => {
                self.facts.footers = self.facts.footers.saturating_add(1);
                self.end = end;
                self.close(case);
            }
            _ => self.payload(&event.item, offset, bytes, case),
        }
        self.end = end;
    }

    /// The stage that this belongs to.
    fn advance(&mut self, item: &Item<'_>) {
        match item {
            Item::Section(header) => self.facts.begin(header.kind, header.extent),
            Item::Command(Command::SwitchoverStart) => self.facts.reach(Stage::StopCopy),
            Item::Vmdesc { .. } => self.facts.reach(Stage::Description),
            _ => {}
        }
    }

    fn configuration(&mut self, part: &ConfigurationSubsection<'_>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        let (name, text, value): (_, _, Value) = match part {
            ConfigurationSubsection::TargetPageBits(bits) => ("target-page-bits", bits.to_string(), (*bits).into()),
            ConfigurationSubsection::Capabilities(list) => {
                let names: Vec<&str> = list.iter().collect();
                ("capabilities", shown(&names.join(", ")), names.into())
            }
            ConfigurationSubsection::Uuid(bytes) => ("uuid", uuid(bytes), uuid(bytes).into()),
            _ => return,
        };
        let entry = Entry::new("configuration", offset, bytes).named(name).fact("value", value).text(text);
        self.facts.configuration.extend(entry.facts.get("value").map(|value| (name.to_owned(), value.clone())));
        self.show(entry, case);
    }

    fn section(&mut self, header: &SectionHeader<'_>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        self.close(case);
        self.open = Some(Open::new(header, offset, bytes));
    }

    fn command(&mut self, command: &Command<'_>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        self.close(case);
        self.facts.command(command.name());
        let entry = Entry::new("command", offset, bytes).named(command.name());
        let entry = match command {
            Command::Ping(value) => {
                if self.facts.pings.len() < PINGS_MAX {
                    self.facts.pings.push(*value);
                }
                entry.fact("value", *value).text(format!("{value:#x}"))
            }
            Command::SwitchoverStart => {
                self.facts.switchover_offset = Some(offset);
                entry.text("the guest is stopped from here on")
            }
            Command::OpenReturnPath => entry.text("the target may answer from here on"),
            Command::PostcopyAdvise(Some(sizes)) => entry
                .fact("host_bytes_mask", sizes.host_bytes_mask)
                .fact("target_bytes", sizes.target_bytes)
                .text(format!("host page sizes {:#x}, target pages of {}", sizes.host_bytes_mask, sizes.target_bytes)),
            Command::PostcopyRamDiscard(discard) => {
                let ranges = wide(discard.ranges().count());
                let text = format!("{}: {}", shown(discard.block), count(ranges, "range"));
                entry.fact("block", discard.block).fact("ranges", ranges).text(text)
            }
            Command::Packaged { length } => {
                entry.fact("length", *length).text(format!("the next {length} bytes are loaded as a whole"))
            }
            Command::RecvBitmap { block } => entry.fact("block", *block).text(shown(block)),
            _ => entry,
        };
        self.show(entry, case);
    }

    /// A part of the payload of the section that is open.
    fn payload(&mut self, item: &Item<'_>, offset: u64, bytes: u64, case: &mut Case<'_>) {
        let (file, is_stopped, is_all) = (self.file, self.facts.stage >= Stage::StopCopy, self.is_all);
        let Some(open) = &mut self.open else { return };
        match item {
            Item::Ram(record) => open.ram.record(record, offset, bytes, is_all),
            Item::Vfio(record) => {
                open.vfio.record(record, offset, bytes, is_all);
                if let Some(device) = case.devices.get(&open.entry.name, open.instance) {
                    match record {
                        VfioRecord::DataBytes(piece) => device.feed(piece.bytes, file, offset, Some(is_stopped)),
                        VfioRecord::ConfigState(state) => note_config(device, state),
                        VfioRecord::InitDataSent => device.initial_sent = device.initial_sent.saturating_add(1),
                        // Without multifd, the config state is the last of a device.
                        VfioRecord::EndOfState if open.kind == SectionKind::Full => {
                            device.is_ended |= device.config_text.is_some();
                        }
                        _ => {}
                    }
                }
            }
            Item::VmState(part) => open.fields.part(part, offset),
            Item::Payload(payload) => open.payload = Some((offset, payload.to_vec())),
            _ => {}
        }
        if let Some(entry) = open.overflow() {
            self.show(entry, case);
        }
    }

    /// Ends the section that is open.
    fn close(&mut self, case: &mut Case<'_>) {
        let Some(mut open) = self.open.take() else { return };
        self.facts.ram.add(&open.ram.totals);
        let entry = open.close(self.end, self.is_all);
        self.facts.tally(&entry.name, entry.bytes);
        if open.kind == SectionKind::Part && !self.is_all {
            self.parts.add(entry, &open);
            return;
        }
        let payload = open.payload.take();
        self.show_with(Held { entry, payload, instance: open.instance }, case);
    }

    fn show(&mut self, entry: Entry, case: &mut Case<'_>) {
        self.show_with(Held { entry, payload: None, instance: 0 }, case);
    }

    /// Shows an entry behind all that came before it, or holds it back until the vmdesc comes.
    fn show_with(&mut self, next: Held, case: &mut Case<'_>) {
        for entry in self.parts.finish() {
            self.hold_or_show(Held { entry, payload: None, instance: 0 }, case);
        }
        self.hold_or_show(next, case);
    }

    fn hold_or_show(&mut self, next: Held, case: &mut Case<'_>) {
        let waits = next.payload.is_some() && !self.is_described && (case.paper.has_items() || case.options.check);
        if !waits && self.held.is_empty() {
            case.show(&next.entry);
            return;
        }
        let payload_bytes = next.payload.as_ref().map_or(0, |(_, payload)| wide(payload.len()));
        let entries = next.entry.items.len().saturating_add(1);
        self.held_bytes =
            self.held_bytes.saturating_add(payload_bytes).saturating_add(wide(entries).saturating_mul(512));
        self.held.push(next);
        if self.held_bytes > HELD_BYTES_MAX {
            self.release(None, "", case);
        }
    }

    /// Shows what was held back.
    fn release(&mut self, vmdesc: Option<&Vmdesc>, label: &str, case: &mut Case<'_>) {
        self.held_bytes = 0;
        for Held { mut entry, payload, instance } in core::mem::take(&mut self.held) {
            let mut fault = None;
            if let (Some(vmdesc), Some((at, payload))) = (vmdesc, payload) {
                if let Some((fields, error)) = Fields::of_payload(vmdesc, &entry.name, instance, &payload, at) {
                    entry.text.push_str(&format!("; {}", count(wide(fields.list.len()), "field")));
                    entry.fields = fields.list;
                    fault = error.map(|mut error| {
                        error.offset = error.offset.saturating_add(at);
                        let skip = usize::try_from(error.offset.saturating_sub(at)).unwrap_or(usize::MAX);
                        let within = format!("FULL {}", shown(&entry.name));
                        Fault::of(&error).within(within).found(payload.get(skip..).unwrap_or_default())
                    });
                }
            }
            case.show(&entry);
            if let Some(fault) = fault {
                case.fault(label, fault);
            }
        }
    }

    fn vmdesc(&mut self, piece: &Piece<'_>, offset: u64, label: &str, case: &mut Case<'_>) {
        if self.is_described {
            return;
        }
        let room = VmdescLimits::DEFAULT.json_bytes.saturating_sub(self.json.len());
        self.json.extend_from_slice(piece.bytes.get(..room).unwrap_or(piece.bytes));
        if piece.is_last() {
            self.is_described = true;
            let json = core::mem::take(&mut self.json);
            let vmdesc = self.parse(&json, offset.saturating_sub(piece.position));
            self.release(vmdesc.as_ref(), label, case);
        }
    }

    /// The stream is over, or goes no further: shows what there is.
    fn finish(&mut self, label: &str, case: &mut Case<'_>) {
        self.close(case);
        for entry in self.parts.finish() {
            self.hold_or_show(Held { entry, payload: None, instance: 0 }, case);
        }
        self.release(None, label, case);
        if let Some(fault) = self.vmdesc_fault.take() {
            case.fault(label, fault);
        }
    }
}
