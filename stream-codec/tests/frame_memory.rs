// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory in the frame format: the records of pages, and when a region may be named.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{LIMITS, hello, open};
use proptest::prelude::*;
use stream_codec::frame::{
    Content, Message, Pages, PagesWriter, RECORD_BYTES, Record, RecordFault, RecordHeads, Region, Role, Session,
    Support, Violation,
};

/// A record, written out by hand.
fn record(offset: u64, length: u32, region: u16, flags: u16, content: &[u8]) -> Vec<u8> {
    [&offset.to_le_bytes()[..], &length.to_le_bytes(), &region.to_le_bytes(), &flags.to_le_bytes(), content].concat()
}

fn push(writer: &mut PagesWriter<'_>, region: u16, offset: u64, content: &[u8]) -> bool {
    match writer.space(region, offset, content.len()) {
        Some(space) => space.copy_from_slice(content),
        None => return false,
    }
    writer.push(region, offset, content.len())
}

#[test]
fn what_a_writer_writes() {
    let mut buffer = [0xee; 9000];
    let mut writer = PagesWriter::new(&mut buffer);
    let mixed = [[0; 4096], [7; 4096]].concat();
    assert!(push(&mut writer, 0, 0x1000, &mixed));
    assert!(!push(&mut writer, 0, 0x2fff, b"x"), "inside the one before");
    assert!(push(&mut writer, 0, 0x3000, &[0; 4096]) && push(&mut writer, 0, 0x4000, &[0; 4096]));
    assert!(push(&mut writer, 2, 5, &[0; 3]), "too short to be looked at");
    let filled = writer.filled_len();
    let expected = [
        record(0x1000, 0x1000, 0, 1, &[]),
        record(0x2000, 0x1000, 0, 0, &[7; 4096]),
        record(0x3000, 0x2000, 0, 1, &[]),
        record(5, 3, 2, 0, &[0; 3]),
    ];
    assert_eq!(buffer[..filled], expected.concat());
}

#[test]
fn bytes_that_go_on_make_their_record_longer() {
    let mut buffer = [0xee; 30_000];
    let mut writer = PagesWriter::new(&mut buffer);
    assert!(push(&mut writer, 0, 0x1000, &[1; 4096]) && push(&mut writer, 0, 0x2000, &[2; 100]));
    assert!(push(&mut writer, 0, 0x2064, &[[3; 4096], [0; 4096], [4; 4096]].concat()), "longer, and then not");
    assert!(push(&mut writer, 0, 0x5064, &[[0; 4096], [5; 4096]].concat()), "zeros behind bytes");
    assert!(
        push(&mut writer, 0, 0x7065, &[6; 3]) && push(&mut writer, 1, 0x7068, &[7; 3]),
        "a gap, and another region"
    );
    let filled = writer.filled_len();
    let expected = [
        record(0x1000, 0x2064, 0, 0, &[&[1; 4096][..], &[2; 100], &[3; 4096]].concat()),
        record(0x3064, 0x1000, 0, 1, &[]),
        record(0x4064, 0x1000, 0, 0, &[4; 4096]),
        record(0x5064, 0x1000, 0, 1, &[]),
        record(0x6064, 0x1000, 0, 0, &[5; 4096]),
        record(0x7065, 3, 0, 0, &[6; 3]),
        record(0x7068, 3, 1, 0, &[7; 3]),
    ];
    assert_eq!(buffer[..filled], expected.concat());
}

#[test]
fn a_full_buffer_takes_no_more() {
    let mut buffer = [0; 40];
    let mut writer = PagesWriter::new(&mut buffer);
    assert_eq!(writer.room(), 24);
    assert!(!push(&mut writer, 0, 0, &[1; 25]) && push(&mut writer, 0, 0, &[1; 24]));
    assert_eq!((writer.room(), writer.filled_len()), (0, 40));
    assert!(!push(&mut writer, 1, 0, &[1]) && !writer.push(1, 0, 0));
}

#[test]
fn what_is_no_record() {
    let fault = |payload: &[u8]| Pages::new(payload).find_map(Result::err).map(|error| (error.at, error.fault));
    let good = record(0, 2, 0, 0, b"ab");
    assert_eq!(fault(&good), None);
    assert_eq!(fault(&good[..17]), Some((0, RecordFault::Cut)));
    assert_eq!(fault(&[&good[..], &good[..9]].concat()), Some((18, RecordFault::Cut)));
    assert_eq!(fault(&record(0, 0, 0, 1, b"")), Some((0, RecordFault::Empty)));
    assert_eq!(fault(&record(0, 2, 0, 2, b"ab")), Some((0, RecordFault::Flags { flags: 2 })));
    assert_eq!(fault(&record(u64::MAX, 1, 0, 1, b"")), Some((0, RecordFault::Overflow)));
    assert_eq!(fault(&[&good[..], &record(1, 1, 0, 1, b"")].concat()), Some((18, RecordFault::Order)));
    assert_eq!(fault(&[&record(9, 1, 1, 1, b"")[..], &good].concat()), Some((16, RecordFault::Order)));
    assert_eq!(Pages::new(&[&good[..], &record(1, 1, 0, 1, b""), &good].concat()).count(), 2, "an error is the end");
}

#[test]
fn heads_are_those_of_the_records() {
    let payload = [record(0, 2, 0, 0, b"ab"), record(7, 1, 0, 1, b""), record(0, 3, 1, 0, b"cde")].concat();
    let (mut heads, mut at, mut found) = (RecordHeads::new(payload.len()), 0, Vec::new());
    while heads.has_more().unwrap() {
        let head = heads.next(payload[at..at + RECORD_BYTES].try_into().unwrap()).unwrap();
        at += RECORD_BYTES + if head.is_zeros { 0 } else { head.length as usize };
        found.push((head.region, head.offset, head.length, head.is_zeros));
    }
    assert_eq!((at, found), (payload.len(), vec![(0, 0, 2, false), (0, 7, 1, true), (1, 0, 3, false)]));
    let mut short = RecordHeads::new(17);
    assert_eq!(
        short.next(payload[..RECORD_BYTES].try_into().unwrap()).map_err(|error| error.fault),
        Err(RecordFault::Cut)
    );
    let mut rest = RecordHeads::new(18 + 15);
    rest.next(payload[..RECORD_BYTES].try_into().unwrap()).unwrap();
    assert_eq!(rest.has_more().map_err(|error| (error.at, error.fault)), Err((18, RecordFault::Cut)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Blocks of zeros and others, at any offset, in any number of pushes: what is read is what was written.
    #[test]
    fn memory_comes_out_as_it_went_in(
        pieces in prop::collection::vec((0u16..3, prop_oneof![Just(0), 0u64..10_000], prop::collection::vec((any::<bool>(), 1usize..9000), 1..4)), 1..6),
        buffer_len in 0usize..60_000,
    ) {
        let mut buffer = vec![0xee; buffer_len];
        let mut writer = PagesWriter::new(&mut buffer);
        let (mut place, mut written) = ((0, 0), Vec::new());
        for (region, gap, blocks) in pieces {
            let content: Vec<u8> = blocks.iter().flat_map(|(zero, length)| vec![u8::from(!*zero); *length]).collect();
            let offset = if region == place.0 { place.1 + gap } else { gap };
            let fits = region >= place.0 && content.len() <= writer.room();
            prop_assert_eq!(push(&mut writer, region, offset, &content), fits);
            if fits {
                place = (region, offset + content.len() as u64);
                written.extend(content.into_iter().zip(offset..).map(|(byte, at)| (region, at, byte)));
            }
        }
        let filled = writer.filled_len();
        prop_assert!(filled <= buffer_len);
        let mut read = Vec::new();
        for found in Pages::new(&buffer[..filled]) {
            let Record { region, offset, content } = found.unwrap();
            let bytes = match content {
                Content::Bytes(bytes) => bytes.to_vec(),
                Content::Zeros(count) => vec![0; count as usize],
            };
            read.extend(bytes.into_iter().zip(offset..).map(|(byte, at)| (region, at, byte)));
        }
        prop_assert_eq!(read, written);
    }

    #[test]
    fn any_payload_is_survived(payload in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => 0u8..3, 1 => any::<u8>()], 0..200)) {
        let mut least = (0, 0);
        let mut length = 0;
        for found in Pages::new(&payload) {
            let Ok(Record { region, offset, content }) = found else { break };
            prop_assert!((region, offset) >= least && content.length() > 0);
            least = (region, offset + content.length());
            length += RECORD_BYTES + if let Content::Bytes(bytes) = content { bytes.len() } else { 0 };
        }
        prop_assert!(length <= payload.len());
    }
}

const WITH_MEMORY: Support = Support { offered: Support::MEMORY, required: Support::MEMORY, ..Support::CURRENT };

/// A target after the Hellos of both, when the source offers this.
fn target(source: Support, ours: Support, devices: u32) -> Result<Session, Violation> {
    let mut session = Session::new(Role::Target, ours, stream_codec::frame::Limits { regions: 2, ..LIMITS });
    let hello = stream_codec::frame::Hello { support: source, ..hello(Role::Source, devices) };
    session.received(&Message::Hello(hello)).map_err(|error| error.violation)?;
    session.sent(&Message::Hello(hello.reply(ours, 100))).map_err(|error| error.violation)?;
    Ok(session)
}

fn region(device: u32) -> Message<'static> {
    Message::Region(Region { device, name: "ram", bytes: 1 << 20, page_bytes: 4096 })
}

#[test]
fn a_peer_without_the_feature_refuses_in_its_first_word() {
    let refused = target(WITH_MEMORY, Support::CURRENT, 1).unwrap_err();
    assert_eq!(refused.to_string(), "the peer requires feature bit 2 (guest memory), which we do not offer");
    let mut session = target(Support::CURRENT, Support { required: 0, ..WITH_MEMORY }, 1).unwrap();
    let error = session.received(&region(0)).unwrap_err();
    assert!(matches!(error.violation, Violation::NoFeature { bit: 2, .. }), "{error}");
}

#[test]
fn regions_are_named_before_their_device() {
    let started = || target(WITH_MEMORY, WITH_MEMORY, 2).unwrap();
    let mut session = started();
    assert_eq!(session.memory_device(), None);
    session.received(&region(1)).unwrap();
    session.received(&region(1)).unwrap();
    assert_eq!(session.memory_device(), Some(1));
    assert_eq!(session.clone().received(&region(1)).unwrap_err().violation, Violation::Regions { limit: 2 });
    let second = session.clone().received(&region(0)).unwrap_err().violation;
    assert_eq!(second, Violation::SecondMemory { device: 0, memory: 1 });
    session.received(&open(1, "memory")).unwrap();
    let late = session.received(&region(1)).unwrap_err().violation;
    assert!(matches!(late, Violation::Device { device: 1, .. }), "{late}");
    let unknown = started().received(&region(2)).unwrap_err().violation;
    assert!(matches!(unknown, Violation::UnknownDevice { device: 2, count: 2, .. }), "{unknown}");
    let ours = started().sent(&region(0)).unwrap_err().violation;
    assert!(matches!(ours, Violation::WrongSender { .. }), "{ours}");
}
