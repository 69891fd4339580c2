// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams of this program: a file, or one direction of a connection.

mod channel;
mod order;
mod rows;

use serde::Serialize;
use stream_codec::frame::{
    Channel, DataPiece, Digest, DigestAlgorithm, Event, FrameDecoder, Hello, Limits, Message, Role,
};

use self::order::Order;
use self::rows::Rows;
use super::case::Case;
use super::device::{Packet, Stated};
use super::drive::{End, drive};
use super::entry::Entry;
use super::input::Input;
use super::words::{count, hex, shown, size, wide};

/// A Data frame may be as long as the command line lets it be; none is kept.
const DATA_BYTES_MAX: u32 = 1 << 30;

/// What there is to say about one direction as a whole.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct NativeFacts {
    pub(super) file: String,
    /// Who wrote it: source, target or file.
    pub(super) role: String,
    pub(super) versions: Option<(u16, u16)>,
    pub(super) nonce: String,
    pub(super) channel: u16,
    pub(super) channels: u16,
    pub(super) devices_announced: u32,
    pub(super) data_frames: u64,
    pub(super) data_bytes: u64,
    pub(super) precopy_bytes: u64,
    pub(super) switchover_offset: Option<u64>,
    pub(super) is_committed: bool,
    pub(super) is_completed: bool,
    pub(super) abort: Option<String>,
    /// What was said of each device at its end: by the source, that it is sent, and by the target, that it is loaded.
    pub(super) sums: Vec<Sum>,
}

/// What one side says that a device's state is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sum {
    pub(super) device: u32,
    /// Where it says so.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) digest: String,
}

/// Who wrote a native stream, by its Hello; `None` if that is not there.
pub(super) fn role(head: &[u8]) -> Option<Role> {
    hello(head).map(|hello| hello.role)
}

/// What binds the two directions of one migration together.
pub(super) fn nonce(head: &[u8]) -> Option<[u8; 16]> {
    hello(head).map(|hello| hello.nonce)
}

/// The channel, by its Hello; the first if that is not there.
pub(super) fn channel(head: &[u8]) -> u8 {
    hello(head).and_then(|hello| u8::try_from(hello.channel.index).ok()).unwrap_or(0)
}

fn hello(head: &[u8]) -> Option<Hello> {
    use stream_codec::decode::Decoder;
    let mut decoder = FrameDecoder::new(limits());
    match decoder.decode(head).ok()?.event? {
        Event::Control { message: Message::Hello(hello), .. } => Some(hello),
        _ => None,
    }
}

fn limits() -> Limits {
    Limits { data_bytes: DATA_BYTES_MAX, unchecked_data: true, ..Limits::DEFAULT }
}

/// Explains a stream.
///
/// # Errors
/// The file cannot be read.
pub(super) fn explain(file: usize, input: &mut Input, case: &mut Case<'_>) -> Result<(), String> {
    let label = input.label.clone();
    let facts = NativeFacts { file: label.clone(), ..NativeFacts::default() };
    let mut reader = Reader {
        file,
        facts,
        is_all: case.options.all,
        rows: Rows::default(),
        order: Order::new(limits()),
        channel: Channel::ONLY,
        devices: case.native_devices.clone(),
        end: 0,
    };
    let mut decoder = FrameDecoder::new(limits());
    let end = drive(input, &mut decoder, case.progress, |event| {
        reader.event(&event, &label, case);
        case.go_on()
    })?;
    reader.close_row(case);
    match end {
        End::Whole => {
            if let Some(mut fault) = reader.order.finish() {
                case.is_whole = false;
                fault.offset = reader.end;
                case.fault(&label, fault);
            }
        }
        End::Left => {}
        End::Refused(fault) => {
            case.is_whole = false;
            case.fault(&label, fault);
        }
    }
    case.native_devices = reader.devices;
    case.natives.push(reader.facts);
    Ok(())
}

struct Reader {
    file: usize,
    facts: NativeFacts,
    is_all: bool,
    rows: Rows,
    order: Order,
    channel: Channel,
    /// Name and place among all devices of each device number.
    devices: Vec<(u32, String, usize)>,
    end: u64,
}

/// Length of a frame's header.
const HEADER_BYTES: u64 = 32;

impl Reader {
    fn event(&mut self, event: &Event<'_>, label: &str, case: &mut Case<'_>) {
        match event {
            Event::Control { offset, message } => {
                self.close_row(case);
                if self.end == 0 {
                    let entry = Entry::new("prologue", 0, *offset).fact("framing_version", 1);
                    case.show(&entry.text("framing version 1"));
                }
                let mut encoded = Vec::new();
                let length =
                    stream_codec::frame::encode_control(message, &mut encoded).map_or(0, |()| wide(encoded.len()));
                self.end = offset.saturating_add(length);
                self.note(message, *offset, case);
                let entry = self.describe(message, Entry::new("frame", *offset, length).named(message.kind().name()));
                case.show(&entry);
                if let Some(fault) = self.order.control(message, *offset) {
                    case.fault(label, fault);
                }
            }
            Event::Data(piece) => self.data(piece, case),
            Event::DataEnd { offset, device, sequence, length } => {
                self.end = offset.saturating_add(HEADER_BYTES).saturating_add(u64::from(*length));
                if let Some(fault) = self.order.data(*device, *sequence, *length, *offset) {
                    case.fault(label, fault);
                }
            }
            Event::Skipped { offset, kind, length } => {
                self.close_row(case);
                let bytes = HEADER_BYTES.saturating_add(u64::from(*length));
                self.end = offset.saturating_add(bytes);
                let entry = Entry::new("frame", *offset, bytes).named("unknown").fact("number", *kind);
                case.show(&entry.text(format!("kind {kind:#06x}, which may be skipped")));
            }
            _ => {}
        }
    }

    fn data(&mut self, piece: &DataPiece<'_>, case: &mut Case<'_>) {
        let DataPiece { offset, device, sequence, length, position, bytes, .. } = *piece;
        let is_stopped = self.facts.switchover_offset.is_some();
        if position == 0 {
            self.frame(offset, device, sequence, length, case);
        }
        let count = wide(bytes.len());
        self.facts.data_bytes = self.facts.data_bytes.saturating_add(count);
        if !is_stopped {
            self.facts.precopy_bytes = self.facts.precopy_bytes.saturating_add(count);
        }
        let at = offset.saturating_add(HEADER_BYTES).saturating_add(u64::from(position));
        let place = self.devices.iter().find(|(number, ..)| *number == device).map(|(.., place)| *place);
        let Some(known) = place.and_then(|place| case.devices.at(place)) else { return };
        if self.channel.count > 1 {
            // Put in order with those of the other channels, once all are read.
            if position == 0 {
                known.has_frames = true;
                known.push_packet(Packet {
                    index: u32::try_from(sequence).unwrap_or(u32::MAX),
                    is_config: false,
                    channel: u8::try_from(self.channel.index).unwrap_or(u8::MAX),
                    file: self.file,
                    offset,
                    data_offset: offset.saturating_add(HEADER_BYTES),
                    is_stopped,
                    bytes: length.into(),
                });
            }
        } else {
            known.feed(bytes, self.file, at, Some(is_stopped));
            self.order.update(device, bytes);
        }
    }

    /// A Data frame begins.
    fn frame(&mut self, offset: u64, device: u32, sequence: u64, length: u32, case: &mut Case<'_>) {
        self.facts.data_frames = self.facts.data_frames.saturating_add(1);
        if self.is_all {
            self.close_row(case);
        }
        self.rows.add(offset, device, sequence, length);
    }

    /// Shows the data before this.
    fn close_row(&mut self, case: &mut Case<'_>) {
        for row in core::mem::take(&mut self.rows).finish() {
            let name = self.name(row.device);
            case.show(&row.entry(&name));
        }
    }

    /// What the stream as a whole, and its devices, learn from a message.
    fn note(&mut self, message: &Message<'_>, offset: u64, case: &mut Case<'_>) {
        let facts = &mut self.facts;
        match message {
            Message::Hello(hello) => {
                facts.role = hello.role.to_string();
                facts.versions = Some((hello.support.version_min, hello.support.version_max));
                facts.nonce = hex(&hello.nonce, 16).replace(' ', "");
                facts.devices_announced = hello.device_count;
                (facts.channel, facts.channels) = (hello.channel.index, hello.channel.count);
                self.channel = hello.channel;
            }
            Message::DeviceOpen(open) => {
                let place = case.devices.iter().count();
                if case.devices.open(open.name, open.identity).is_some() {
                    self.devices.push((open.device, open.name.to_owned(), place));
                }
            }
            Message::Loaded(loaded) => {
                let (device, bytes, digest) = (loaded.device, loaded.bytes, digest(&loaded.digest));
                facts.sums.push(Sum { device, offset, bytes, digest });
            }
            Message::DeviceEnd(end) => {
                let (device, bytes, digest) = (end.device, end.bytes, digest(&end.digest));
                facts.sums.push(Sum { device, offset, bytes, digest });
                let place = self.devices.iter().find(|(number, ..)| *number == end.device).map(|(.., place)| *place);
                if let Some(device) = place.and_then(|place| case.devices.at(place)) {
                    if self.channel.count > 1 {
                        device.has_frames = true;
                        device.stated =
                            Some(Stated { file: self.file, offset, frames: end.frames, digest: end.digest });
                    } else {
                        device.is_ended = true;
                    }
                }
            }
            Message::Switchover => facts.switchover_offset = Some(offset),
            Message::Commit => facts.is_committed = true,
            Message::Complete => facts.is_completed = true,
            Message::Abort(abort) => facts.abort = Some(abort.reason.to_owned()),
            _ => {}
        }
    }

    fn name(&self, device: u32) -> String {
        match self.devices.iter().find(|(number, ..)| *number == device) {
            Some((_, name, _)) => format!("device {device} ({})", shown(name)),
            None => format!("device {device}"),
        }
    }

    fn describe(&self, message: &Message<'_>, entry: Entry) -> Entry {
        match message {
            Message::Hello(hello) => describe_hello(hello, entry),
            Message::DeviceOpen(open) => entry
                .fact("device", open.device)
                .fact("device_name", open.name)
                .fact("identity", open.identity)
                .fact("migration_flags", open.migration_flags)
                .fact("stop_copy_bytes", open.stop_copy_bytes)
                .text(format!(
                    "device {} ({}), flags {:#x}, about {} of stop-copy state",
                    open.device,
                    shown(open.name),
                    open.migration_flags,
                    size(open.stop_copy_bytes)
                )),
            Message::Region(region) => entry
                .fact("device", region.device)
                .fact("region", region.name)
                .fact("bytes", region.bytes)
                .fact("page_bytes", region.page_bytes)
                .text(format!(
                    "guest memory {} of device {}, {} in pages of {}",
                    shown(region.name),
                    region.device,
                    size(region.bytes),
                    size(region.page_bytes)
                )),
            Message::DeviceEnd(end) => entry
                .fact("device", end.device)
                .fact("frames", end.frames)
                .fact("data_bytes", end.bytes)
                .fact("digest", end.digest.to_string())
                .text(format!(
                    "{}: {} in {}, {}",
                    self.name(end.device),
                    size(end.bytes),
                    count(end.frames, "frame"),
                    digest(&end.digest)
                )),
            Message::Loaded(loaded) => entry
                .fact("device", loaded.device)
                .fact("data_bytes", loaded.bytes)
                .fact("digest", loaded.digest.to_string())
                .text(format!(
                    "{}: {} taken, {}",
                    self.name(loaded.device),
                    size(loaded.bytes),
                    digest(&loaded.digest)
                )),
            Message::DeviceAccept { device } => entry.fact("device", *device).text(self.name(*device)),
            Message::InitialDone(done) => {
                entry.fact("device", done.device).fact("generation", done.generation).fact("frames", done.frames).text(
                    format!(
                        "{}: the initial bytes are in the first {} (generation {})",
                        self.name(done.device),
                        count(done.frames, "frame"),
                        done.generation
                    ),
                )
            }
            Message::InitialAck { device, generation } => entry
                .fact("device", *device)
                .fact("generation", *generation)
                .text(format!("{}: the initial bytes are written (generation {generation})", self.name(*device))),
            Message::Credit { device, frames } => entry.fact("device", *device).fact("frames", *frames).text(format!(
                "{}: room for {} in all",
                self.name(*device),
                count(*frames, "frame")
            )),
            Message::ChannelEnd => entry.text("nothing follows on this channel"),
            Message::Switchover => entry.text("the guest is stopped from here on"),
            Message::Commit => entry.text("the source gives its devices up"),
            Message::Complete => entry.text("the target runs the guest"),
            Message::Abort(abort) => {
                let code = abort.code.name().map_or_else(|| abort.code.0.to_string(), str::to_owned);
                let of = abort.device.map(|device| format!(", {}", self.name(device))).unwrap_or_default();
                let text = format!("{code}{of}: {}", shown(abort.reason));
                entry.fact("code", code).fact("device", abort.device).fact("reason", abort.reason).text(text)
            }
            _ => entry,
        }
    }
}

/// A digest as `migrate` prints it: a CRC as a number, which stands in the stream with its last byte first.
pub(super) fn digest(digest: &Digest) -> String {
    match (digest.algorithm(), digest.bytes().first_chunk()) {
        (DigestAlgorithm::CRC64_NVME, Some(bytes)) => format!("CRC-64 {:016x}", u64::from_le_bytes(*bytes)),
        _ => digest.to_string(),
    }
}

fn describe_hello(hello: &Hello, entry: Entry) -> Entry {
    let support = &hello.support;
    let nonce = hex(&hello.nonce, 16).replace(' ', "");
    let (low, high) = (support.version_min, support.version_max);
    let versions = if low == high { format!("version {low}") } else { format!("versions {low} to {high}") };
    let text = format!("{}, {versions}, {}, session {nonce}", hello.role, count(hello.device_count.into(), "device"));
    entry
        .fact("role", hello.role.to_string())
        .fact("version_min", low)
        .fact("version_max", high)
        .fact("features_offered", support.offered)
        .fact("features_required", support.required)
        .fact("devices", hello.device_count)
        .fact("channel", hello.channel.index)
        .fact("channels", hello.channel.count)
        .fact("data_bytes_max", hello.data_bytes_max)
        .fact("nonce", nonce)
        .text(text)
}
