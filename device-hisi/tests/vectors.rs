// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes written by hand against values, in both directions, and what a person gets to read.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

mod common;

use common::{HEAD, STATE, full_v1, full_v1_wrong, full_v2, match_v1, match_v2, patched};
use device_hisi::layout::FIELDS;
use device_hisi::{AddressFault, Match, Reason, State, Stream, Version};

/// The bytes are read as the stream, and the stream is written as the bytes.
fn check(bytes: &[u8], stream: Stream) {
    assert_eq!(Stream::decode(bytes), Ok(stream));
    assert_eq!(stream.len(), bytes.len());
    let mut written = Vec::new();
    let write = |bytes: &[u8]| {
        written.extend_from_slice(bytes);
        Ok::<_, std::io::Error>(bytes.len())
    };
    stream.encode().write(write).unwrap();
    assert_eq!(written, bytes);
}

#[test]
fn version_2() {
    check(&match_v2(), Stream::MatchOnly(HEAD));
    check(&full_v2(), Stream::Full(STATE));
}

#[test]
fn version_1() {
    let head = Match { version: Version::V1 { reserved: 0 }, ..HEAD };
    check(&match_v1(), Stream::MatchOnly(head));
    check(&full_v1(), Stream::Full(State { head, ..STATE }));
    let wrong = State { head, eqe_dma: 0x89ab_c000_0011_0022, aeqe_dma: 0x4567_d000_0033_0044, ..STATE };
    check(&full_v1_wrong(), Stream::Full(wrong));
}

#[test]
fn reserved_bytes_are_kept() {
    let head = Match { version: Version::V1 { reserved: 0x0403_0201 }, qm_rsv_state: [5, 6], ..HEAD };
    let bytes = patched(match_v1(), 28, &[1, 2, 3, 4, 5, 0, 0, 0, 6, 0, 0, 0]);
    check(&bytes, Stream::MatchOnly(head));

    let head = Match { version: Version::V2 { minor: 0x0403 }, ..HEAD };
    let state = State { head, qm_rsv_regs: [7, 8, 9, 10, 11], padding: 12, ..STATE };
    let reserved = [7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 10, 0, 0, 0, 11, 0, 0, 0, 12, 0, 0, 0];
    check(&patched(patched(full_v2(), 30, &[3, 4]), 120, &reserved), Stream::Full(state));
}

#[test]
fn conversion_to_version_2_recomputes_the_addresses() {
    for v1 in [full_v1(), full_v1_wrong()] {
        let converted = Stream::decode(&v1).unwrap().to_v2();
        assert_eq!(converted, Stream::Full(STATE));
    }
    assert_eq!(Stream::decode(&match_v1()).unwrap().to_v2(), Stream::MatchOnly(HEAD));
    // A version 2 state is not touched, whatever its addresses.
    let odd = Stream::Full(State { eqe_dma: 1, head: Match { version: Version::V2 { minor: 3 }, ..HEAD }, ..STATE });
    assert_eq!(odd.to_v2(), odd);
}

#[test]
fn repair_keeps_the_version() {
    let repaired = Stream::decode(&full_v1_wrong()).unwrap().repaired();
    assert_eq!(repaired, Stream::decode(&full_v1()).unwrap());
}

#[test]
fn faults_of_addresses_are_told_apart() {
    let Stream::Full(wrong) = Stream::decode(&full_v1_wrong()).unwrap() else { panic!("a match part") };
    assert_eq!(wrong.event_queue().fault(), Some(AddressFault::KernelFault));
    assert_eq!(wrong.async_event_queue().fault(), Some(AddressFault::KernelFault));
    assert_eq!(wrong.event_queue().from_context, 0x12_89ab_c000);
    assert_eq!(STATE.event_queue().fault(), None);
    assert_eq!(STATE.async_event_queue().fault(), None);
    let damaged = State { eqe_dma: STATE.eqe_dma ^ 1, aeqe_dma: 0, ..STATE };
    assert_eq!(damaged.event_queue().fault(), Some(AddressFault::Unexplained));
    assert_eq!(damaged.async_event_queue().fault(), Some(AddressFault::Unexplained));
}

#[test]
fn truncation_names_the_first_missing_field() {
    let bytes = full_v2();
    for field in FIELDS {
        // After 40 bytes the stream may end, and before them the magic must be there to be looked at.
        for have in [field.offset, field.offset + field.bytes() - 1] {
            if have == 40 {
                continue;
            }
            let error = Stream::decode(&bytes[..have]).unwrap_err();
            let Reason::Truncated { have: stated, .. } = error.reason else { panic!("{error}") };
            assert_eq!(stated, have);
            assert!(error.to_string().contains(&format!("Missing: {} at", field.name)), "{have} bytes: {error}");
        }
    }
}

#[test]
fn a_person_can_read_it() {
    let text = Stream::decode(&full_v1_wrong()).unwrap().to_string();
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines[0], "hisi_acc device state, version 1, 176 bytes, complete");
    assert_eq!(lines.len(), 1 + FIELDS.len());
    assert_eq!(lines[1], "    0  acc_magic       0xcdcdcdcdfeedaacc  magic: version 1");
    assert_eq!(lines[2], "    8  qp_num          0x00000010          queue pairs of the VF: 16");
    assert_eq!(lines[3], "   12  dev_id          0x0000a251          PCI device id: ZIP");
    assert_eq!(lines[7], "   28  major_ver       0x0000              major version in version 2, reserved in this one");
    assert!(lines[16].starts_with("   64  qm_eqc_dw       0x00110022,0x89abc000,0x00000012,"), "{}", lines[16]);
    assert_eq!(
        lines[20],
        "  144  eqe_dma         0x89abc00000110022  guest address of the event queue; WRONG by the known fault of \
         kernels 6.8 to 6.15, should be 0x1289abc000"
    );

    let text = Stream::MatchOnly(Match { vf_qm_state: 1, ..HEAD }).to_string();
    assert_eq!(text.lines().count(), 10);
    assert!(text.starts_with("hisi_acc device state, version 2 (1.0), 40 bytes, match part only"), "{text}");
    assert!(text.contains("guest driver: not ready"), "{text}");
}
