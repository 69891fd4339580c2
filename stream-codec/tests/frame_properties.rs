// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random messages survive, random bytes are survived.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{control, record};
use proptest::prelude::*;
use stream_codec::frame::{
    Abort, AbortCode, Channel, DeviceEnd, DeviceOpen, Digest, DigestAlgorithm, FrameDecoder, HEADER_BYTES, Header,
    Hello, InitialDone, Limits, Loaded, Message, NO_DEVICE, Region, Role, Support, data_header, encode_prologue,
    parse_control, printable,
};
use stream_codec::testkit::check_bytes;

/// The owned parts of any message.
#[derive(Clone, Debug)]
enum Parts {
    Hello(Hello),
    Open { device: u32, name: String, identity: String, flags: u64, bytes: u64 },
    Accept(u32),
    Region { device: u32, name: String, bytes: u64, page_bytes: u64 },
    Credit(u32, u64),
    InitialDone(InitialDone),
    InitialAck(u32, u32),
    End { device: u32, frames: u64, bytes: u64, digest: Digest },
    Loaded { device: u32, bytes: u64, digest: Digest },
    Abort { code: u16, device: Option<u32>, reason: String },
    Bare(u8),
}

impl Parts {
    fn message(&self) -> Message<'_> {
        match self {
            Self::Hello(hello) => Message::Hello(*hello),
            Self::Open { device, name, identity, flags, bytes } => Message::DeviceOpen(DeviceOpen {
                device: *device,
                name,
                identity,
                migration_flags: *flags,
                stop_copy_bytes: *bytes,
            }),
            Self::Region { device, name, bytes, page_bytes } => {
                Message::Region(Region { device: *device, name, bytes: *bytes, page_bytes: *page_bytes })
            }
            Self::Accept(device) => Message::DeviceAccept { device: *device },
            &Self::Credit(device, frames) => Message::Credit { device, frames },
            &Self::InitialDone(done) => Message::InitialDone(done),
            &Self::InitialAck(device, generation) => Message::InitialAck { device, generation },
            &Self::End { device, frames, bytes, digest } => {
                Message::DeviceEnd(DeviceEnd { device, frames, bytes, digest })
            }
            &Self::Loaded { device, bytes, digest } => Message::Loaded(Loaded { device, bytes, digest }),
            Self::Abort { code, device, reason } => {
                Message::Abort(Abort { code: AbortCode(*code), device: *device, reason })
            }
            Self::Bare(0) => Message::Switchover,
            Self::Bare(1) => Message::Commit,
            Self::Bare(2) => Message::ChannelEnd,
            Self::Bare(_) => Message::Complete,
        }
    }
}

fn hello() -> impl Strategy<Value = Hello> {
    let versions = (1u16.., 1u16..).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let role = prop_oneof![Just(Role::Source), Just(Role::Target), Just(Role::File)];
    let channel = (any::<u16>(), 1u16..).prop_map(|(index, count)| Channel { index: index % count, count });
    (versions, role, channel, any::<[u8; 16]>(), any::<(u64, u64, u32, u32)>()).prop_map(
        |((version_min, version_max), role, channel, nonce, (offered, required, device_count, data_bytes_max))| {
            let support = Support { version_min, version_max, offered, required: required & offered };
            Hello { support, role, nonce, channel, device_count, data_bytes_max }
        },
    )
}

fn digest() -> impl Strategy<Value = Digest> {
    let other = (4u16.., prop::collection::vec(any::<u8>(), 1..=32));
    prop_oneof![
        Just(Digest::NONE),
        any::<u64>().prop_map(Digest::crc64_nvme),
        any::<[u8; 32]>().prop_map(|bytes| Digest::new(DigestAlgorithm::BLAKE3, &bytes).unwrap()),
        other.prop_map(|(number, bytes)| Digest::new(DigestAlgorithm(number), &bytes).unwrap()),
    ]
}

fn parts() -> impl Strategy<Value = Parts> {
    let device = || 0..NO_DEVICE;
    let name = "[^/\\pC]{1,60}".prop_filter("not a path", |name| name != "." && name != "..");
    let region = (device(), name.clone(), any::<(u64, u64)>());
    let open = (device(), name, "[^\\pC]{0,60}", any::<(u64, u64)>());
    prop_oneof![
        hello().prop_map(Parts::Hello),
        open.prop_map(|(device, name, identity, (flags, bytes))| Parts::Open { device, name, identity, flags, bytes }),
        region.prop_map(|(device, name, (bytes, page_bytes))| Parts::Region { device, name, bytes, page_bytes }),
        device().prop_map(Parts::Accept),
        (device(), any::<u64>()).prop_map(|(device, frames)| Parts::Credit(device, frames)),
        (device(), 1u32.., any::<u64>()).prop_map(|(device, generation, frames)| {
            Parts::InitialDone(InitialDone { device, generation, frames })
        }),
        (device(), 1u32..).prop_map(|(device, generation)| Parts::InitialAck(device, generation)),
        (device(), any::<(u64, u64)>(), digest())
            .prop_map(|(device, (frames, bytes), digest)| { Parts::End { device, frames, bytes, digest } }),
        (device(), any::<u64>(), digest()).prop_map(|(device, bytes, digest)| Parts::Loaded { device, bytes, digest }),
        (any::<u16>(), prop::option::of(device()), "[^\\pC]{0,60}").prop_map(|(code, device, reason)| Parts::Abort {
            code,
            device,
            reason
        }),
        (0u8..4).prop_map(Parts::Bare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_undoes_encoding(parts in parts()) {
        let message = parts.message();
        let frame = control(&message);
        let (header, payload) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = Header::decode(header, &Limits::FORMAT, 0).unwrap();
        prop_assert_eq!(header.payload_size(), payload.len());
        prop_assert_eq!(parse_control(&header, payload, &Limits::FORMAT, 0), Ok(Some(message)));
    }

    #[test]
    fn data_headers_say_what_they_were_given(device in 0..NO_DEVICE, sequence: u64, payload in prop::collection::vec(any::<u8>(), 1..200)) {
        let header = Header::decode(&data_header(device, sequence, &payload).unwrap(), &Limits::FORMAT, 0).unwrap();
        prop_assert_eq!((header.device, header.sequence, header.payload_size()), (device, sequence, payload.len()));
        prop_assert_eq!(header.payload_crc, crc32fast::hash(&payload));
    }

    /// With checksums that fit, so that what is behind them is reached.
    #[test]
    fn any_header_and_payload_are_survived(
        kind in prop_oneof![0u16..0x22, Just(0x100), any::<u16>()],
        flags in prop_oneof![Just(0u16), Just(1), any::<u16>()],
        device in prop_oneof![0u32..5, Just(NO_DEVICE), any::<u32>()],
        (channel, sequence) in prop_oneof![Just((0u32, 0u64)), any::<(u32, u64)>()],
        payload in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..120),
        seed: u64,
    ) {
        let payload_length = u32::try_from(payload.len()).unwrap();
        let header = Header { kind, flags, payload_length, device, channel, sequence, payload_crc: 0 };
        let bytes = [&encode_prologue()[..], &common::raw(header, &payload)].concat();
        check_bytes(|| FrameDecoder::new(common::LIMITS), record, 300, &bytes, seed);
    }

    #[test]
    fn any_text_can_be_made_a_reason(text in "\\PC*|(.|\\n|\\r|\\t)*", bytes_max in 0u16..80) {
        let reason = printable(&text, bytes_max);
        prop_assert!(reason.len() <= usize::from(bytes_max));
        control(&Message::Abort(Abort { code: AbortCode::OTHER, device: None, reason: &reason }));
    }
}
