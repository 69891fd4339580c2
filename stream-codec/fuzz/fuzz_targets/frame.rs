// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The native frame format on arbitrary input: the contract of every decoder, decoder and blocking reader in
//! agreement, and a session that judges whatever they yield.
//!
//! Random bytes never pass the checksums, so besides raw bytes the input describes frames whose checksums are made
//! to fit.
#![no_main]

use std::io::Read;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::decode::{Decoder, Step};
use stream_codec::frame::io::{Frame, FrameReader};
use stream_codec::frame::{
    Content, Event, FrameDecoder, Header, Kind, Limits, Message, Pages, RECORD_BYTES, Record as MemoryRecord, Role,
    Session, Support, encode_control, encode_prologue,
};
use stream_codec::testkit::check_bytes;

const LIMITS: Limits = Limits {
    data_bytes: 200,
    control_bytes: 300,
    devices: 4,
    regions: 3,
    channels: 4,
    unchecked_data: true,
    name_bytes: 40,
    identity_bytes: 40,
    reason_bytes: 40,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    /// The stream starts with a prologue.
    has_prologue: bool,
    frames: Vec<RawFrame<'a>>,
    /// Bytes behind the frames, as they are.
    rest: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct RawFrame<'a> {
    kind: u8,
    kind_is_high: bool,
    flags: u8,
    device: u8,
    channel: bool,
    sequence: u8,
    payload: &'a [u8],
}

impl RawFrame<'_> {
    /// The frame with checksums that fit.
    fn append(&self, stream: &mut Vec<u8>) {
        let payload = self.payload.get(..400).unwrap_or(self.payload);
        let header = Header {
            // High: the kinds of guest memory, then those that may be skipped.
            kind: match self.kind_is_high {
                false => self.kind.into(),
                true if self.kind < 4 => 0x100 | u16::from(self.kind),
                true => 0x8000 | u16::from(self.kind),
            },
            flags: self.flags.into(),
            payload_length: payload.len() as u32,
            device: if self.device == u8::MAX { u32::MAX } else { self.device.into() },
            channel: self.channel.into(),
            sequence: self.sequence.into(),
            // Flag bit 1: a payload without a checksum.
            payload_crc: if self.flags & 2 == 0 { crc32(payload) } else { 0 },
        };
        stream.extend_from_slice(&header.encode());
        stream.extend_from_slice(payload);
    }
}

/// The CRC-32 of the format, bit by bit: a second opinion on the one under test.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Record {
    Control(u64, String),
    Data { offset: u64, device: u32, sequence: u64, payload: Vec<u8> },
    DataEnd(u64),
    Skipped(u64, u16, u32),
}

fn record(event: Event<'_>, records: &mut Vec<Record>) {
    match event {
        Event::Control { offset, message } => {
            records.push(Record::Control(offset, format!("{message:?}")));
            // What a reader accepts, a writer writes: byte for byte, but for a later Hello's unknown fields.
            encode_control(&message, &mut Vec::new()).expect("an accepted message can be written");
        }
        Event::Data(piece) if piece.position == 0 => records.push(Record::Data {
            offset: piece.offset,
            device: piece.device,
            sequence: piece.sequence,
            payload: piece.bytes.to_vec(),
        }),
        Event::Data(piece) => match records.last_mut() {
            Some(Record::Data { payload, .. }) => payload.extend_from_slice(piece.bytes),
            last => panic!("a piece after {last:?}"),
        },
        Event::DataEnd { offset, .. } => records.push(Record::DataEnd(offset)),
        Event::Skipped { offset, kind, length } => records.push(Record::Skipped(offset, kind, length)),
        _ => {}
    }
}

/// What the decoder says about a stream at once.
fn decoded(stream: &[u8]) -> (Vec<Record>, bool) {
    let mut decoder = FrameDecoder::new(LIMITS);
    let mut records = Vec::new();
    let mut rest = stream;
    loop {
        match decoder.decode(rest) {
            Ok(Step { consumed, event }) => {
                rest = &rest[consumed..];
                match event {
                    Some(event) => record(event, &mut records),
                    None => return (records, decoder.finish().is_ok()),
                }
            }
            Err(_) => return (records, false),
        }
    }
}

/// What the blocking reader says about it, in the decoder's terms, and a session about its frames.
fn read(stream: impl Read) -> (Vec<Record>, bool) {
    let mut reader = FrameReader::new(stream, LIMITS);
    let mut records = Vec::new();
    let answers = Support::CREDIT | Support::INITIAL_ACK;
    let offered = answers | Support::UNCHECKED | Support::MEMORY | Support::MEMORY_UNDIGESTED;
    let support = Support { offered, ..Support::CURRENT };
    let mut session = Session::new(Role::Target, support, LIMITS);
    let mut grants = 0;
    loop {
        match reader.read_frame() {
            Ok(Some(received)) => match received.frame {
                Frame::Control(message) => {
                    // The stream plays every channel; the target answers as an honest one does.
                    let channel = match &message {
                        Message::Hello(hello) => hello.channel.index,
                        _ => records.len() as u16 % 4,
                    };
                    let judged = session.received_on(channel, &message);
                    if let (Ok(()), Message::Hello(hello)) = (judged, &message) {
                        let _answered = session.sent_on(channel, &Message::Hello(hello.reply(support, 200)));
                    }
                    if let (Ok(()), Message::DeviceOpen(open)) = (judged, &message) {
                        grants += 4;
                        let _accepted = session.sent(&Message::DeviceAccept { device: open.device });
                        let _granted = session.sent(&Message::Credit { device: open.device, frames: grants });
                    }
                    if let (Ok(()), Message::InitialDone(done)) = (judged, &message) {
                        let (device, generation) = (done.device, done.generation);
                        let _acknowledged = session.sent(&Message::InitialAck { device, generation });
                    }
                    records.push(Record::Control(received.offset, format!("{message:?}")));
                }
                Frame::Data { device, sequence, payload } => {
                    let channel = records.len() as u16 % 4;
                    let _judged = session.received_data_on(channel, device, sequence, payload.len() as u32);
                    let (offset, payload) = (received.offset, payload.to_vec());
                    records.push(Record::Data { offset, device, sequence, payload });
                    records.push(Record::DataEnd(offset));
                }
                _ => {}
            },
            Ok(None) => {
                let _judged = session.finish();
                return (records, true);
            }
            Err(_) => return (records, false),
        }
    }
}

/// What the reader says, one that expects payloads of these lengths or none.
fn frames(stream: &[u8], mut expected: impl Iterator<Item = usize>) -> (Vec<String>, String) {
    let mut reader = FrameReader::unbuffered(stream, LIMITS);
    let mut frames = Vec::new();
    let (mut buffer, mut scratch) = ([0; 400], [0; 400]);
    loop {
        let room = expected.next().unwrap_or(0).min(buffer.len());
        let header = match reader.next_header_with(&mut buffer[..room]) {
            Ok(Some(header)) => header,
            Ok(None) => return (frames, String::new()),
            Err(error) => return (frames, error.to_string()),
        };
        let is_expected = header.kind() == Some(Kind::Data) && header.payload_size() <= room;
        match reader.read_frame_into(if is_expected { &mut buffer } else { &mut scratch }) {
            Ok(received) => frames.push(format!("{received:?}")),
            Err(error) => return (frames, error.to_string()),
        }
    }
}

/// Records of guest memory are in the order of their places, and never more than the payload.
fn check_pages(payload: &[u8]) {
    let (mut least, mut length) = ((0, 0), 0);
    for record in Pages::new(payload) {
        let Ok(MemoryRecord { region, offset, content }) = record else { return };
        assert!((region, offset) >= least && content.length() > 0);
        least = (region, offset + content.length());
        length += RECORD_BYTES + if let Content::Bytes(bytes) = content { bytes.len() } else { 0 };
    }
    assert_eq!(length, payload.len());
}

fuzz_target!(|input: Input<'_>| {
    let mut stream = if input.has_prologue { encode_prologue().to_vec() } else { Vec::new() };
    input.frames.iter().for_each(|frame| frame.append(&mut stream));
    stream.extend_from_slice(input.rest);

    check_pages(input.rest);
    input.frames.iter().for_each(|frame| check_pages(frame.payload));
    let bytes_max = LIMITS.control_bytes as usize;
    check_bytes(|| FrameDecoder::new(LIMITS), record, bytes_max, &stream, input.seed);

    let expected = input.seed.to_le_bytes().map(usize::from);
    assert_eq!(frames(&stream, expected.into_iter().cycle()), frames(&stream, core::iter::empty()));

    let (mut records, is_whole) = decoded(&stream);
    let (read_records, read_is_whole) = read(&stream[..]);
    assert_eq!(is_whole, read_is_whole);
    // The reader says nothing about what it skips, or about data that it could not verify.
    records.retain(|record| !matches!(record, Record::Skipped(..)));
    if matches!(records.last(), Some(Record::Data { .. })) {
        records.pop();
    }
    assert_eq!(records, read_records);
});
