// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hostile and broken streams, each by name. None may panic; each must be refused, and say why.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{full_v2, match_v1, match_v2, patched};
use device_hisi::check::Finding;
use device_hisi::compatible::{Mismatch, Target};
use device_hisi::{Error, Match, Reason, STATE_BYTES, StateDecoder, Stream};
use stream_codec::decode::{Blame, Fault, Located};
use stream_codec::testkit::run;

/// Reads at once and in single bytes, which must agree.
fn decode(bytes: &[u8]) -> Result<Stream, Error> {
    let result = Stream::decode(bytes);
    for piece in [1, 40, 200] {
        let outcome = run(StateDecoder::new(), |event, events| events.push(event), STATE_BYTES, bytes.chunks(piece));
        assert_eq!(outcome.result, result.map(|_| ()), "pieces of {piece} bytes");
    }
    result
}

/// The offset, the reason without its details, and whose fault it is.
fn refused(bytes: &[u8]) -> (u64, &'static str, Fault) {
    let error = decode(bytes).unwrap_err();
    let reason = match error.reason {
        Reason::Magic { .. } => "magic",
        Reason::ByteOrder { .. } => "byte order",
        Reason::Major { .. } => "major",
        Reason::Truncated { .. } => "truncated",
        Reason::TooLong => "too long",
        _ => "another",
    };
    (error.offset, reason, error.fault())
}

fn findings(bytes: &[u8]) -> Vec<Finding> {
    decode(bytes).unwrap().check().iter().copied().collect()
}

#[test]
fn empty() {
    assert_eq!(refused(&[]), (0, "truncated", Fault::Transport));
}

#[test]
fn lengths_around_the_two_valid_ones() {
    let bytes = [full_v2(), vec![0; 200]].concat();
    assert_eq!(refused(&bytes[..39]), (36, "truncated", Fault::Transport));
    assert!(decode(&bytes[..40]).is_ok());
    assert_eq!(refused(&bytes[..41]), (40, "truncated", Fault::Transport));
    assert_eq!(refused(&bytes[..175]), (168, "truncated", Fault::Transport));
    assert!(decode(&bytes[..176]).is_ok());
    assert_eq!(refused(&bytes[..177]), (176, "too long", Fault::Sender));
    assert_eq!(refused(&bytes), (176, "too long", Fault::Sender));
}

#[test]
fn every_truncation() {
    let bytes = full_v2();
    for length in (0..176).filter(|&length| length != 40) {
        let Err(Located { reason: Reason::Truncated { have, .. }, .. }) = decode(&bytes[..length]) else {
            panic!("{length} bytes are taken for a state");
        };
        assert_eq!(have, length);
    }
}

#[test]
fn version_1_and_2_magic() {
    assert!(decode(&match_v1()).unwrap().head().version.is_v1());
    assert!(!decode(&match_v2()).unwrap().head().version.is_v1());
    for bit in 0..64 {
        let mut bytes = match_v2();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(refused(&bytes), (0, "magic", Fault::Sender), "bit {bit}");
    }
}

#[test]
fn swapped_byte_order() {
    let swap = |mut bytes: Vec<u8>| {
        bytes[..8].reverse();
        bytes
    };
    assert_eq!(refused(&swap(match_v2())), (0, "byte order", Fault::Versions));
    assert_eq!(refused(&swap(match_v1())), (0, "byte order", Fault::Versions));
}

#[test]
fn unknown_major_versions() {
    for major in [0u16, 2, 256, u16::MAX] {
        let bytes = patched(match_v2(), 28, &major.to_le_bytes());
        assert_eq!(refused(&bytes), (28, "major", Fault::Versions), "{major}");
        // In version 1 these bytes are reserved.
        assert!(decode(&patched(match_v1(), 28, &major.to_le_bytes())).is_ok());
    }
}

#[test]
fn highest_minor_version() {
    let bytes = patched(match_v2(), 30, &u16::MAX.to_le_bytes());
    assert_eq!(findings(&bytes), [Finding::MinorVersion { found: u16::MAX }]);
}

#[test]
fn queue_counts() {
    for count in [0, 1025, u32::MAX] {
        let bytes = patched(match_v2(), 8, &count.to_le_bytes());
        assert_eq!(findings(&bytes)[0], Finding::QueueCount { found: count });
    }
}

#[test]
fn queue_base_and_count_overflow() {
    let bytes = patched(patched(match_v2(), 8, &u32::MAX.to_le_bytes()), 20, &u32::MAX.to_le_bytes());
    let expected = [Finding::QueueCount { found: u32::MAX }, Finding::QueueBase { found: u32::MAX }];
    assert_eq!(findings(&bytes), expected);
    // The sum wraps to 0, which would pass.
    let bytes = patched(patched(match_v2(), 8, &u32::MAX.to_le_bytes()), 20, &1u32.to_le_bytes());
    assert_eq!(findings(&bytes)[1], Finding::QueueRange { base: 1, count: u32::MAX });
}

#[test]
fn foreign_device_id() {
    let bytes = patched(match_v2(), 12, &0xa259u32.to_le_bytes());
    let own = Match::decode(&match_v2().try_into().unwrap()).unwrap();
    let refused = decode(&bytes).unwrap().admit(&Target::from(&own)).unwrap_err();
    assert_eq!(refused.mismatches, [Mismatch::DeviceId { source_id: 0xa259, target_id: 0xa251 }]);
    assert!(refused.findings.is_empty());
}

#[test]
fn meaningless_guest_driver_mark() {
    let bytes = patched(match_v2(), 24, &2u32.to_le_bytes());
    assert_eq!(findings(&bytes), [Finding::VfState { found: 2 }]);
}
