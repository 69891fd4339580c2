// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every reason for which a stream is refused, and every reason for which a message is not written.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{LIMITS, data, decode, header, hello, open, payload_frame, raw, refused, stream};
use stream_codec::cursor::CursorError;
use stream_codec::decode::{Blame, Fault};
use stream_codec::frame::{
    Abort, AbortCode, Channel, DeviceEnd, DeviceOpen, Digest, Header, Hello, Kind, Limits, Message, NO_DEVICE, Reason,
    Refusal, Role, Support, TextFault, data_header, encode_control, encode_prologue,
};

/// A prologue with these fields and a checksum that fits.
fn prologue(magic: [u8; 8], version: u16, header_bytes: u16) -> Vec<u8> {
    let front = [&magic[..], &version.to_le_bytes(), &header_bytes.to_le_bytes()].concat();
    [&front[..], &crc32fast::hash(&front).to_le_bytes()].concat()
}

fn refused_prologue(bytes: &[u8]) -> Reason {
    let error = decode(bytes, LIMITS).unwrap_err();
    assert_eq!(error.offset, 0);
    error.reason
}

#[test]
fn prologues() {
    let magic = *b"\x89SAVEVM\n";
    assert_eq!(decode(&prologue(magic, 1, 32), LIMITS), Ok(0));
    assert_eq!(refused_prologue(&prologue(*b"QEVM\0\0\0\x03", 1, 32)), Reason::Magic { found: *b"QEVM\0\0\0\x03" });
    assert_eq!(refused_prologue(&prologue(magic, 2, 32)), Reason::Framing { version: 2, header_bytes: 32 });
    assert_eq!(refused_prologue(&prologue(magic, 1, 48)), Reason::Framing { version: 1, header_bytes: 48 });
    let mut damaged = prologue(magic, 1, 32);
    damaged[8] = 2;
    assert!(matches!(refused_prologue(&damaged), Reason::PrologueChecksum { .. }));
    let truncated = Reason::Truncated { what: "the prologue", wanted: 16, have: 0 };
    assert_eq!(refused_prologue(&[]), truncated);
    assert_eq!(truncated.fault(), Fault::Transport);
}

#[test]
fn checksums() {
    let mut frame = data(0, 0, b"state");
    frame[33] ^= 1;
    let Reason::PayloadChecksum { stated, computed } = refused(&frame) else { panic!("{:?}", refused(&frame)) };
    assert_eq!((stated, computed), (crc32fast::hash(b"state"), crc32fast::hash(&frame[32..])));
    let mut frame = data(0, 0, b"state");
    frame[16] ^= 1;
    assert!(matches!(refused(&frame), Reason::HeaderChecksum { .. }));
    let mut frame = payload_frame(2, NO_DEVICE, &[1, 0, 1, 0, 0, 0, 0, 0, b'x']);
    frame[40] ^= 1;
    assert!(matches!(refused(&frame), Reason::PayloadChecksum { .. }));
    let mut frame = raw(Header { flags: 1, ..header(0x9000, 4) }, b"skip");
    frame[32] ^= 1;
    assert!(matches!(refused(&frame), Reason::PayloadChecksum { .. }));
}

#[test]
fn header_fields() {
    let data_frame = |change: fn(&mut Header)| {
        let mut header = Header { device: 1, ..header(0x12, 1) };
        change(&mut header);
        refused(&raw(header, &[7]))
    };
    let not_zero = |kind, what, value| Reason::NotZero { kind, what, value };
    assert_eq!(data_frame(|header| header.channel = 3), not_zero(Kind::Data, "channel", 3));
    assert_eq!(data_frame(|header| header.flags = 1), Reason::Flags { kind: 0x12, flags: 1 });
    assert_eq!(data_frame(|header| header.flags = 0x8000), Reason::Flags { kind: 0x12, flags: 0x8000 });
    assert_eq!(
        data_frame(|header| header.device = NO_DEVICE),
        Reason::DeviceField { kind: Kind::Data, device: NO_DEVICE }
    );
    assert_eq!(data_frame(|header| header.device = 4), Reason::Devices { count: 5, limit: 4 });
    let commit = Header { sequence: 1, ..header(4, 0) };
    assert_eq!(refused(&raw(commit, &[])), not_zero(Kind::Commit, "sequence", 1));
    let commit = Header { device: 0, ..header(4, 0) };
    assert_eq!(refused(&raw(commit, &[])), Reason::DeviceField { kind: Kind::Commit, device: 0 });
    let commit = Header { payload_crc: 5, ..header(4, 0) }.encode();
    assert_eq!(refused(&commit), not_zero(Kind::Commit, "payload CRC", 5));
    let abort = Header { device: 4, ..header(2, 8) };
    assert_eq!(refused(&raw(abort, &[0; 8])), Reason::Devices { count: 5, limit: 4 });
}

#[test]
fn payloads_that_do_not_have_the_fields_of_their_kind() {
    let malformed = |kind, error| Reason::Malformed { kind, error };
    for (kind, number) in [(Kind::Commit, 4), (Kind::Complete, 5), (Kind::Switchover, 3)] {
        let leftover = CursorError::Leftover { what: kind.name(), left: 1, offset: 48 };
        assert_eq!(refused(&payload_frame(number, NO_DEVICE, &[0])), malformed(kind, leftover));
    }
    let leftover = CursorError::Leftover { what: "DeviceAccept", left: 2, offset: 48 };
    assert_eq!(refused(&payload_frame(0x11, 0, &[0, 0])), malformed(Kind::DeviceAccept, leftover));
    let missing = CursorError::Missing { what: "name", wanted: 9, left: 2, offset: 72 };
    let open = [&[0; 16][..], &[9, 0, 0, 0, 0, 0, 0, 0], b"vf"].concat();
    assert_eq!(refused(&payload_frame(0x10, 0, &open)), malformed(Kind::DeviceOpen, missing));
    let not_zero = CursorError::NotZero { what: "reserved bytes before the digest", value: 1, offset: 61 };
    let end = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(refused(&payload_frame(0x13, 0, &end)), malformed(Kind::DeviceEnd, not_zero));
    assert_eq!(refused(&payload_frame(0x14, 0, &[0; 15])).fault(), Fault::Sender);
    let not_zero = CursorError::NotZero { what: "reserved bytes after the generation", value: 7, offset: 52 };
    for (kind, number) in [(Kind::InitialDone, 0x15), (Kind::InitialAck, 0x16)] {
        assert_eq!(refused(&payload_frame(number, 0, &[0; 8])), Reason::Generation);
        assert_eq!(refused(&payload_frame(number, 0, &[1, 0, 0, 0, 7, 0, 0, 0])), malformed(kind, not_zero));
        let leftover = CursorError::Leftover { what: kind.name(), left: 1, offset: 56 };
        assert_eq!(refused(&payload_frame(number, 0, &[1, 0, 0, 0, 0, 0, 0, 0, 0])), malformed(kind, leftover));
    }
    // Four bytes of a digest that has eight.
    let short = [&[0; 8][..], &[1, 0, 4, 0, 0, 0, 0, 0], &[1, 2, 3, 4]].concat();
    assert_eq!(refused(&payload_frame(0x14, 0, &short)), Reason::Digest { algorithm: 1, length: 4 });
    let long = [&[0; 8][..], &[99, 0, 33, 0, 0, 0, 0, 0], &[1; 33]].concat();
    assert_eq!(refused(&payload_frame(0x13, 0, &long)), Reason::Digest { algorithm: 99, length: 33 });
}

#[test]
fn hellos() {
    let good = common::control(&Message::Hello(hello(Role::Source, 2)));
    let changed = |at: usize, value: u8| {
        let mut payload = good[32..].to_vec();
        payload[at] = value;
        refused(&payload_frame(1, NO_DEVICE, &payload))
    };
    assert_eq!(changed(0, 0), Reason::VersionRange { min: 0, max: 1 });
    assert_eq!(changed(0, 2), Reason::VersionRange { min: 2, max: 1 });
    assert_eq!(changed(4, 0), Reason::Role { role: 0 });
    assert_eq!(changed(4, 4), Reason::Role { role: 4 });
    let not_zero = CursorError::NotZero { what: "reserved bytes after the role", value: 1, offset: 54 };
    assert_eq!(changed(6, 1), Reason::Malformed { kind: Kind::Hello, error: not_zero });
    assert_eq!(changed(8, 1), Reason::Channel { index: 1, count: 1 });
    assert_eq!(changed(10, 0), Reason::Channel { index: 0, count: 0 });
    assert_eq!(changed(12, 5), Reason::Devices { count: 5, limit: 4 });
    assert_eq!(changed(25, 2), Reason::RequiredNotOffered { bit: 9 });
    let not_zero = CursorError::NotZero { what: "reserved bytes at the end", value: 1, offset: 48 + 63 };
    assert_eq!(changed(63, 1), Reason::Malformed { kind: Kind::Hello, error: not_zero });
}

#[test]
fn a_later_hello_may_say_more() {
    let good = common::control(&Message::Hello(hello(Role::Source, 2)));
    let mut longer = [&good[32..], &[1, 2, 3]].concat();
    let leftover = CursorError::Leftover { what: "Hello", left: 3, offset: 48 + 64 };
    assert_eq!(
        refused(&payload_frame(1, NO_DEVICE, &longer)),
        Reason::Malformed { kind: Kind::Hello, error: leftover }
    );
    longer[2] = 2;
    assert_eq!(decode(&stream([&payload_frame(1, NO_DEVICE, &longer)]), LIMITS), Ok(1));
}

#[test]
fn texts_above_the_readers_limits() {
    let text = |what, length, limit| Reason::Text { what, fault: TextFault::TooLong { length, limit } };
    let opened = |name: &str, identity: &str| {
        let (name_bytes, identity_bytes) = (name.len() as u16, identity.len() as u16);
        let lengths = [name_bytes.to_le_bytes(), identity_bytes.to_le_bytes()].concat();
        refused(&payload_frame(
            0x10,
            0,
            &[&[0; 16][..], &lengths, &[0; 4], name.as_bytes(), identity.as_bytes()].concat(),
        ))
    };
    assert_eq!(opened("vf", &"i".repeat(21)), text("identity", 21, 20));
    assert_eq!(opened("vf", &"i".repeat(21)).fault(), Fault::Limits);
    assert_eq!(opened("vf", "a\nb"), Reason::Text { what: "identity", fault: TextFault::Control { character: '\n' } });
    assert_eq!(opened(&"n".repeat(256), ""), text("device name", 256, 255));
    assert_eq!(opened("", "a"), Reason::Text { what: "device name", fault: TextFault::Empty });
    let abort = [&[1, 0, 31, 0, 0, 0, 0, 0][..], &[b'r'; 31]].concat();
    assert_eq!(refused(&payload_frame(2, NO_DEVICE, &abort)), text("reason", 31, 30));
}

#[test]
fn what_a_reader_would_refuse_is_not_written() {
    let good = hello(Role::Source, 1);
    let opened = |name| DeviceOpen { device: 0, name, identity: "", migration_flags: 0, stop_copy_bytes: 0 };
    let long = "x".repeat(65_536);
    let text = |what, fault| Reason::Text { what, fault };
    let required = Support { required: 8, ..Support::CURRENT };
    let cases = [
        (
            Message::Hello(Hello { channel: Channel { index: 2, count: 2 }, ..good }),
            Reason::Channel { index: 2, count: 2 },
        ),
        (Message::Hello(Hello { support: required, ..good }), Reason::RequiredNotOffered { bit: 3 }),
        (Message::DeviceOpen(opened("a/b")), text("device name", TextFault::Path)),
        (Message::DeviceOpen(opened(&long)), text("device name", TextFault::TooLong { length: 65_536, limit: 255 })),
        (
            Message::DeviceOpen(DeviceOpen { identity: &long, ..opened("a") }),
            text("identity", TextFault::TooLong { length: 65_536, limit: 65_535 }),
        ),
        (
            Message::Abort(Abort { code: AbortCode::OTHER, device: None, reason: "a\tb" }),
            text("reason", TextFault::Control { character: '\t' }),
        ),
        (
            Message::Abort(Abort { code: AbortCode::OTHER, device: Some(NO_DEVICE), reason: "" }),
            Reason::DeviceField { kind: Kind::Abort, device: NO_DEVICE },
        ),
        (
            Message::DeviceEnd(DeviceEnd { device: NO_DEVICE, frames: 0, bytes: 0, digest: Digest::NONE }),
            Reason::DeviceField { kind: Kind::DeviceEnd, device: NO_DEVICE },
        ),
    ];
    for (message, reason) in cases {
        let mut out = vec![1, 2, 3];
        assert_eq!(encode_control(&message, &mut out), Err(reason), "{:?}", message.kind());
        assert_eq!(out, [1, 2, 3], "a refused message leaves nothing behind");
    }
    assert_eq!(data_header(0, 0, &[]), Err(Reason::EmptyData));
    assert_eq!(data_header(NO_DEVICE, 0, &[1]), Err(Reason::DeviceField { kind: Kind::Data, device: NO_DEVICE }));
}

#[test]
fn a_control_payload_above_the_limit_is_refused_even_if_data_may_be_longer() {
    let limits = Limits { control_bytes: 63, data_bytes: 1000, ..LIMITS };
    let stream = stream([&common::control(&Message::Hello(hello(Role::Source, 1)))]);
    let error = decode(&stream, limits).unwrap_err();
    assert_eq!(error.reason, Reason::PayloadLength { kind: 1, length: 64, limit: 63 });
    assert_eq!(error.fault(), Fault::Limits);
    assert_eq!(decode(&stream, Limits { control_bytes: 64, ..limits }), Ok(1));
}

#[test]
fn negotiation() {
    let speaks = |min, max, offered, required| Support { version_min: min, version_max: max, offered, required };
    let agree = |a: Support, b: Support| a.agree(&b).map(|agreement| (agreement.version, agreement.features));
    assert_eq!(agree(speaks(1, 3, 0b0111, 0), speaks(2, 9, 0b1110, 0)), Ok((3, 0b0110)));
    assert_eq!(agree(speaks(2, 3, 0, 0), speaks(3, 4, 0, 0)), Ok((3, 0)));
    let disjoint = Refusal::Version { ours: (1, 1), theirs: (2, 3) };
    assert_eq!(agree(speaks(1, 1, 0, 0), speaks(2, 3, 0, 0)), Err(disjoint));
    assert_eq!(agree(speaks(4, 5, 0, 0), speaks(2, 3, 0, 0)), Err(Refusal::Version { ours: (4, 5), theirs: (2, 3) }));
    assert_eq!(agree(speaks(1, 1, 1, 0), speaks(1, 1, 1 << 63 | 1, 1 << 63)), Err(Refusal::PeerRequires { bit: 63 }));
    assert_eq!(agree(speaks(1, 1, 3, 2), speaks(1, 1, 1, 0)), Err(Refusal::WeRequire { bit: 1 }));
    assert_eq!(agree(speaks(1, 1, 3, 2), speaks(1, 1, 3, 1)), Ok((1, 3)));
}

#[test]
fn errors_name_the_place_and_the_numbers() {
    let error = decode(&[&encode_prologue()[..], &[0; 40]].concat(), LIMITS).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "at stream offset 16: the header's CRC-32 is 0x00000000, its bytes give {:#010x}",
            crc32fast::hash(&[0; 28])
        )
    );
    let error = refused(&common::control(&open(0, "vf")).iter().copied().take(50).collect::<Vec<_>>());
    assert_eq!(error.to_string(), "the stream ends 18 bytes into the payload of a control frame of 35 bytes");
}
