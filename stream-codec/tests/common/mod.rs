// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests of the frame format share.
#![allow(dead_code, reason = "every test file uses its own part")]

use stream_codec::decode::{Decoder, Step};
use stream_codec::frame::{
    Abort, AbortCode, Channel, DeviceEnd, DeviceOpen, Digest, Error, Event, FrameDecoder, Header, Hello, InitialDone,
    Limits, Loaded, Message, NO_DEVICE, Reason, Region, Role, Support, data_header, encode_control, encode_prologue,
};

/// Small enough for hostile lengths to be just above.
pub(crate) const LIMITS: Limits = Limits {
    data_bytes: 100,
    control_bytes: 300,
    devices: 4,
    channels: 4,
    identity_bytes: 20,
    reason_bytes: 30,
    ..Limits::DEFAULT
};

pub(crate) fn hello(role: Role, device_count: u32) -> Hello {
    Hello {
        support: Support::CURRENT,
        role,
        nonce: [0x5a; 16],
        channel: Channel::ONLY,
        device_count,
        data_bytes_max: 100,
    }
}

pub(crate) fn open<'a>(device: u32, name: &'a str) -> Message<'a> {
    let identity = "15b3/mlx5";
    Message::DeviceOpen(DeviceOpen { device, name, identity, migration_flags: 7, stop_copy_bytes: 1 << 20 })
}

pub(crate) fn end(device: u32, frames: u64, bytes: u64) -> Message<'static> {
    Message::DeviceEnd(DeviceEnd { device, frames, bytes, digest: Digest::crc64_nvme(77) })
}

pub(crate) fn loaded(device: u32, bytes: u64) -> Message<'static> {
    Message::Loaded(Loaded { device, bytes, digest: Digest::crc64_nvme(77) })
}

pub(crate) fn abort(reason: &str) -> Message<'_> {
    Message::Abort(Abort { code: AbortCode::DEVICE, device: Some(0), reason })
}

/// One message of every kind.
pub(crate) fn every_message() -> Vec<Message<'static>> {
    vec![
        Message::Hello(hello(Role::Source, 2)),
        Message::Region(Region { device: 2, name: "ram", bytes: 1 << 30, page_bytes: 4096 }),
        open(0, "vf-0"),
        open(1, "0000:01:00.1"),
        Message::DeviceAccept { device: 1 },
        Message::Credit { device: 1, frames: 8 },
        Message::InitialDone(InitialDone { device: 1, generation: 2, frames: 8 }),
        Message::InitialAck { device: 1, generation: 2 },
        Message::Switchover,
        end(0, 2, 108),
        loaded(0, 108),
        Message::ChannelEnd,
        Message::Commit,
        Message::Complete,
        abort("read: EIO"),
        Message::Abort(Abort { code: AbortCode(4711), device: None, reason: "" }),
    ]
}

pub(crate) fn control(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_control(message, &mut bytes).unwrap();
    bytes
}

pub(crate) fn data(device: u32, sequence: u64, payload: &[u8]) -> Vec<u8> {
    [&data_header(device, sequence, payload).unwrap(), payload].concat()
}

/// A frame with any header, its checksums right.
pub(crate) fn raw(header: Header, payload: &[u8]) -> Vec<u8> {
    let payload_crc = crc32fast::hash(payload);
    [&Header { payload_crc, ..header }.encode(), payload].concat()
}

/// The header of a frame of this kind and length, everything else as a frame without device has it.
pub(crate) fn header(kind: u16, payload_length: u32) -> Header {
    Header { kind, flags: 0, payload_length, device: NO_DEVICE, channel: 0, sequence: 0, payload_crc: 0 }
}

/// A frame of a control kind with any payload.
pub(crate) fn payload_frame(kind: u16, device: u32, payload: &[u8]) -> Vec<u8> {
    let payload_length = payload.len().try_into().unwrap();
    raw(Header { device, ..header(kind, payload_length) }, payload)
}

pub(crate) fn stream<'a>(frames: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    frames.into_iter().fold(encode_prologue().to_vec(), |stream, frame| [stream.as_slice(), frame].concat())
}

/// A stream with every kind of frame, one that is skipped included. Not a valid conversation, but valid frames.
pub(crate) fn every_frame() -> Vec<u8> {
    let mut frames = every_message().iter().map(control).collect::<Vec<_>>();
    frames.insert(4, data(0, 0, &[7; 100]));
    frames.insert(5, data(0, 1, b"the rest"));
    frames.insert(7, raw(Header { flags: 1, ..header(0x8123, 33) }, &[0xee; 33]));
    frames.insert(8, raw(Header { flags: 1, ..header(0x0018, 0) }, &[]));
    stream(&frames)
}

/// Feeds everything at once and counts the events.
pub(crate) fn decode(bytes: &[u8], limits: Limits) -> Result<usize, Error> {
    let mut decoder = FrameDecoder::new(limits);
    let mut rest = bytes;
    let mut events = 0;
    loop {
        let Step { consumed, event } = decoder.decode(rest)?;
        rest = &rest[consumed..];
        match event {
            Some(_) => events += 1,
            None => return decoder.finish().map(|()| events),
        }
    }
}

/// Why a stream of a prologue and this frame is refused; the frame starts at offset 16.
pub(crate) fn refused(frame: &[u8]) -> Reason {
    let error = decode(&stream([&frame.to_vec()]), LIMITS).unwrap_err();
    assert_eq!(error.offset, 16, "{error}");
    error.reason
}

/// An event without its borrowed bytes, pieces of a payload put together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Control(u64, String),
    Data { frame: (u64, u32, u64, u32), payload: Vec<u8>, is_complete: bool },
    DataEnd(u64, u32, u64, u32),
    Skipped(u64, u16, u32),
}

pub(crate) fn record(event: Event<'_>, records: &mut Vec<Record>) {
    match event {
        Event::Control { offset, message } => records.push(Record::Control(offset, format!("{message:?}"))),
        Event::Data(piece) => {
            assert!(!piece.bytes.is_empty(), "an empty piece");
            let this = (piece.offset, piece.device, piece.sequence, piece.length);
            if piece.position == 0 {
                records.push(Record::Data { frame: this, payload: Vec::new(), is_complete: false });
            }
            let Some(Record::Data { frame, payload, is_complete }) = records.last_mut() else {
                panic!("a piece without a beginning")
            };
            assert_eq!((*frame, payload.len(), *is_complete), (this, piece.position as usize, false));
            payload.extend_from_slice(piece.bytes);
            *is_complete = piece.last;
        }
        Event::DataEnd { offset, device, sequence, length } => {
            records.push(Record::DataEnd(offset, device, sequence, length));
        }
        Event::Skipped { offset, kind, length } => records.push(Record::Skipped(offset, kind, length)),
        other => panic!("unknown event {other:?}"),
    }
}
