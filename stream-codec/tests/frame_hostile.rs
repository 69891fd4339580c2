// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hostile inputs on record against parsers of migration streams, each with the refusal it must meet.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{
    LIMITS, abort, control, data, decode, end, every_frame, header, hello, loaded, open, payload_frame, raw, refused,
    stream,
};
use stream_codec::decode::Decoder;
use stream_codec::frame::{
    Channel, DeviceEnd, Digest, FrameDecoder, Header, Hello, Kind, Limits, Message, NO_DEVICE, Reason, Role, Session,
    Support, TextFault, Violation,
};
use stream_codec::testkit::{bit_flips, prefixes};

/// A target that has agreed with a source of `device_count` devices and accepted them all.
fn target(device_count: u32) -> Session {
    let mut session = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let source = hello(Role::Source, device_count);
    session.received(&Message::Hello(source)).unwrap();
    session.sent(&Message::Hello(source.reply(Support::CURRENT, 100))).unwrap();
    for device in 0..device_count {
        session.received(&open(device, &format!("vf-{device}"))).unwrap();
        session.sent(&Message::DeviceAccept { device }).unwrap();
    }
    session
}

fn violation(result: Result<(), stream_codec::frame::SessionError>) -> Violation {
    result.unwrap_err().violation
}

#[test]
fn input_01_lengths_above_the_limit_are_refused_before_anything_is_allocated() {
    for length in [101, 0x8000_0000, u32::MAX] {
        let frame = Header { device: 0, ..header(0x12, length) }.encode();
        assert_eq!(refused(&frame), Reason::PayloadLength { kind: 0x12, length, limit: 100 });
    }
    for kind in Kind::ALL.into_iter().filter(|&kind| kind != Kind::Data) {
        for length in [301, u32::MAX] {
            let mut decoder = FrameDecoder::new(LIMITS);
            let stream = stream([&header(kind.raw(), length).encode().to_vec()]);
            let error = decoder.decode(&stream).unwrap_err();
            assert_eq!(error.reason, Reason::PayloadLength { kind: kind.raw(), length, limit: 300 });
            assert_eq!(decoder.buffered_bytes(), 0);
        }
    }
    let skippable = Header { flags: 1, ..header(0x9999, 301) }.encode();
    assert_eq!(refused(&skippable), Reason::PayloadLength { kind: 0x9999, length: 301, limit: 300 });
    // Limits of the whole number range must not allocate either: only what is there is kept.
    let mut decoder = FrameDecoder::new(Limits::FORMAT);
    let huge = stream([&Header { device: 0, ..header(0x12, u32::MAX) }.encode().to_vec()]);
    assert_eq!(decoder.decode(&huge).unwrap().event, None);
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn input_02_length_zero_for_every_kind() {
    for kind in Kind::ALL {
        let device = match kind {
            Kind::Hello | Kind::Abort | Kind::Switchover | Kind::Commit | Kind::Complete | Kind::ChannelEnd => {
                NO_DEVICE
            }
            _ => 0,
        };
        let empty = payload_frame(kind.raw(), device, &[]);
        match kind {
            Kind::Switchover | Kind::Commit | Kind::Complete | Kind::DeviceAccept | Kind::Credit | Kind::ChannelEnd => {
                assert_eq!(decode(&stream([&empty]), LIMITS), Ok(1), "{kind} has no payload");
            }
            Kind::Data => assert_eq!(refused(&empty), Reason::EmptyData),
            _ => assert!(matches!(refused(&empty), Reason::Malformed { .. }), "{kind}: {:?}", refused(&empty)),
        }
    }
}

#[test]
fn input_03_truncation_at_every_offset() {
    let whole = every_frame();
    let events = decode(&whole, LIMITS).unwrap();
    let mut cut_between_frames = 0;
    for prefix in prefixes(&whole) {
        match decode(prefix, LIMITS) {
            Ok(some) => {
                assert!(some < events);
                cut_between_frames += 1;
            }
            Err(error) => assert!(matches!(error.reason, Reason::Truncated { .. }), "{error}"),
        }
    }
    // After the prologue and after each of the 20 frames but the last.
    assert_eq!(cut_between_frames, 20);
    // Cut between two frames it is the session that knows.
    let cut = violation(target(1).finish());
    assert!(matches!(cut, Violation::EndedEarly { .. }), "{cut}");
}

#[test]
fn input_04_sequence_jumps_cost_nothing() {
    for found in [1, 1 << 31, u64::from(u32::MAX) - 1, u64::MAX] {
        let mut session = target(1);
        let jump = violation(session.received_data(0, found, 1));
        assert_eq!(jump, Violation::Sequence { device: 0, expected: 0, found });
    }
}

#[test]
fn input_05_repeated_sequence() {
    let mut session = target(2);
    session.received_data(0, 0, 10).unwrap();
    session.received_data(1, 0, 10).unwrap();
    let repeated = violation(session.received_data(0, 0, 10));
    assert_eq!(repeated, Violation::Sequence { device: 0, expected: 1, found: 0 });
    assert_eq!(violation(session.received_data(1, 1, 10)), repeated, "the first violation is final");
}

#[test]
fn input_09_totals_at_the_edge_of_the_number_range() {
    for (frames, bytes) in [(1, 1 << 63), (1, u64::MAX), (1, 9), (1, 11)] {
        let mut session = target(1);
        session.received_data(0, 0, 10).unwrap();
        session.received(&Message::Switchover).unwrap();
        let stated = violation(session.received(&end(0, frames, bytes)));
        assert_eq!(stated, Violation::ByteCount { device: 0, stated: bytes, counted: 10 });
    }
}

#[test]
fn input_10_unknown_finished_and_late_devices() {
    let unknown = |kind, device| Violation::UnknownDevice { kind, device, count: 2 };
    assert_eq!(violation(target(2).received_data(2, 0, 1)), unknown(Kind::Data, 2));
    assert_eq!(violation(target(2).received(&open(3, "vf-3"))), unknown(Kind::DeviceOpen, 3));

    let mut finished = target(2);
    finished.received_data(0, 0, 1).unwrap();
    finished.received(&Message::Switchover).unwrap();
    finished.received(&end(0, 1, 1)).unwrap();
    let late = violation(finished.clone().received_data(0, 1, 1));
    assert!(matches!(late, Violation::Device { kind: Kind::Data, device: 0, .. }), "{late}");
    let twice = violation(finished.clone().received(&end(0, 1, 1)));
    assert!(matches!(twice, Violation::Device { kind: Kind::DeviceEnd, device: 0, .. }), "{twice}");
    finished.sent(&loaded(0, 1)).unwrap();
    let twice = violation(finished.sent(&loaded(0, 1)));
    assert!(matches!(twice, Violation::Device { kind: Kind::Loaded, device: 0, .. }), "{twice}");
}

#[test]
fn input_11_declared_total_is_not_the_sum_of_the_frames() {
    let ended = |frames, bytes| {
        let mut session = target(1);
        session.received_data(0, 0, 10).unwrap();
        session.received_data(0, 1, 5).unwrap();
        session.received(&Message::Switchover).unwrap();
        session.received(&end(0, frames, bytes))
    };
    assert_eq!(ended(2, 15), Ok(()));
    assert_eq!(violation(ended(2, 14)), Violation::ByteCount { device: 0, stated: 14, counted: 15 });
    assert_eq!(violation(ended(2, 16)), Violation::ByteCount { device: 0, stated: 16, counted: 15 });
    assert_eq!(violation(ended(1, 15)), Violation::FrameCount { device: 0, stated: 1, counted: 2 });
    assert_eq!(violation(ended(3, 15)), Violation::FrameCount { device: 0, stated: 3, counted: 2 });
}

#[test]
fn input_12_hello_of_another_session_and_too_many_channels() {
    let mut source = Session::new(Role::Source, Support::CURRENT, LIMITS);
    let ours = hello(Role::Source, 1);
    source.sent(&Message::Hello(ours)).unwrap();
    let other = Hello { nonce: [1; 16], ..ours.reply(Support::CURRENT, 100) };
    assert_eq!(violation(source.received(&Message::Hello(other))), Violation::Echo { what: "session nonce" });

    let mut target = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let many = Hello { channel: Channel { index: 0, count: 5 }, ..ours };
    assert_eq!(violation(target.received(&Message::Hello(many))), Violation::Channels { count: 5, limit: 4 });

    let mut silent = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let no_hello = violation(silent.received(&open(0, "vf")));
    assert!(matches!(no_hello, Violation::Phase { kind: Kind::DeviceOpen, .. }), "{no_hello}");
}

#[test]
fn input_13_unknown_kinds_reserved_bits_and_versions() {
    for kind in [0x0018, 0x001f, 0x0021, 0x0101, 0x8000, 0xffff] {
        let frame = |flags| raw(Header { flags, device: 77, channel: 9, sequence: 5, ..header(kind, 3) }, b"abc");
        assert_eq!(refused(&frame(0)), Reason::UnknownKind { kind });
        assert_eq!(decode(&stream([&frame(1)]), LIMITS), Ok(1), "{kind:#x} may be skipped");
        for flags in [2, 3, 0x8000, 0xffff] {
            assert_eq!(refused(&frame(flags)), Reason::Flags { kind, flags });
        }
    }
    assert_eq!(refused(&raw(Header { flags: 1, ..header(0, 0) }, &[])), Reason::UnknownKind { kind: 0 });
    for kind in Kind::ALL {
        for flags in [1, 2, 0x8000] {
            let frame = raw(Header { flags, device: 0, ..header(kind.raw(), 1) }, &[0]);
            assert_eq!(refused(&frame), Reason::Flags { kind: kind.raw(), flags });
        }
    }
    for (version_min, version_max) in [(2, 2), (2, u16::MAX), (u16::MAX, u16::MAX)] {
        let support = Support { version_min, version_max, ..Support::CURRENT };
        let mut session = Session::new(Role::Target, Support::CURRENT, LIMITS);
        let later = Hello { support, ..hello(Role::Source, 1) };
        let refusal = violation(session.received(&Message::Hello(later)));
        assert!(matches!(refusal, Violation::Refused(_)), "{refusal}");
    }
    // What belongs to the other direction.
    for message in [Message::DeviceAccept { device: 0 }, Message::Complete, loaded(0, 0)] {
        let wrong = violation(target(1).received(&message));
        assert_eq!(wrong, Violation::WrongSender { kind: message.kind() });
    }
    for message in [open(0, "vf"), Message::Switchover, Message::Commit, end(0, 0, 0)] {
        let wrong = violation(target(1).sent(&message));
        assert_eq!(wrong, Violation::WrongSender { kind: message.kind() });
    }
}

#[test]
fn input_14_bit_flips_are_caught_by_the_nearest_check() {
    let frame = data(1, 0, &[0x55; 40]);
    for (bit, flipped) in bit_flips(&frame) {
        let reason = refused(&flipped);
        if bit < 256 {
            assert!(matches!(reason, Reason::HeaderChecksum { .. }), "bit {bit}: {reason}");
        } else {
            assert!(matches!(reason, Reason::PayloadChecksum { .. }), "bit {bit}: {reason}");
        }
    }
    // A payload changed together with both checksums passes the frames; the digests of both ends then differ.
    let mut session = target(1);
    session.received_data(0, 0, 40).unwrap();
    session.received(&Message::Switchover).unwrap();
    let (source_digest, target_digest) = (Digest::crc64_nvme(1), Digest::crc64_nvme(2));
    session
        .received(&Message::DeviceEnd(DeviceEnd { device: 0, frames: 1, bytes: 40, digest: source_digest }))
        .unwrap();
    let loaded = stream_codec::frame::Loaded { device: 0, bytes: 40, digest: target_digest };
    let differs = violation(session.sent(&Message::Loaded(loaded)));
    assert_eq!(differs, Violation::Digests { device: 0, source_digest, target_digest });
}

#[test]
fn input_17_device_names() {
    let named = |name: &[u8]| {
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        payload_frame(0x10, 0, &[&[0; 16][..], &length, &[0; 6], name].concat())
    };
    let refused = |name: &[u8]| match refused(&named(name)) {
        Reason::Text { what: "device name", fault } => fault,
        reason => panic!("{reason}"),
    };
    assert_eq!(decode(&stream([&named(&[b'n'; 255])]), LIMITS), Ok(1));
    assert_eq!(refused(&[b'n'; 256]), TextFault::TooLong { length: 256, limit: 255 });
    assert_eq!(refused(b""), TextFault::Empty);
    assert_eq!(refused(b"vf\0"), TextFault::Control { character: '\0' });
    assert_eq!(refused(b"vf\n"), TextFault::Control { character: '\n' });
    assert_eq!(refused(b"vf\x1b[2J"), TextFault::Control { character: '\x1b' });
    assert_eq!(refused(b"vf\xc0\xaf"), TextFault::NotUtf8 { valid_bytes: 2 });
    for path in [&b"../vf"[..], b"..", b".", b"a/b"] {
        assert_eq!(refused(path), TextFault::Path);
    }
    let mut twice = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let source = hello(Role::Source, 2);
    twice.received(&Message::Hello(source)).unwrap();
    twice.sent(&Message::Hello(source.reply(Support::CURRENT, 100))).unwrap();
    twice.received(&open(0, "vf")).unwrap();
    assert_eq!(violation(twice.received(&open(1, "vf"))), Violation::DuplicateName { device: 1 });
}

#[test]
fn a_device_count_of_four_billion_is_refused_before_anything_is_allocated() {
    let mut good = control(&Message::Hello(hello(Role::Source, 1)))[32..].to_vec();
    good[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(refused(&payload_frame(1, NO_DEVICE, &good)), Reason::Devices { count: u32::MAX, limit: 4 });
    let mut session = Session::new(Role::Target, Support::CURRENT, LIMITS);
    let huge = hello(Role::Source, u32::MAX);
    let refusal = violation(session.received(&Message::Hello(huge)));
    assert_eq!(refusal, Violation::Devices { count: u32::MAX, limit: 4 });
    assert_eq!(session.device_phase(0), None);
}

#[test]
fn an_abort_reason_cannot_forge_log_lines() {
    let payload = [&[2, 0, 9, 0, 0, 0, 0, 0][..], b"x\nERROR y"].concat();
    let fault = TextFault::Control { character: '\n' };
    assert_eq!(refused(&payload_frame(2, NO_DEVICE, &payload)), Reason::Text { what: "reason", fault });
    assert_eq!(decode(&stream([&control(&abort("x ERROR y"))]), LIMITS), Ok(1));
}
