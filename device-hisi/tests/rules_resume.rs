// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of the resuming side: what is compared, how bytes must be written, what the kernel makes of them.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{HEAD, STATE, full_v1, full_v1_wrong, full_v2, match_v1, match_v2, patched};
use device_hisi::compatible::{Mismatch, Target, compatible};
use device_hisi::model::{Effect, Refusal, Vf};
use device_hisi::resume::{Resume, WriteError};
use device_hisi::{Match, State, Stream, Version};

const TARGET: Target = Target { dev_id: 0xa251, qp_num: 16, que_iso_cfg: 5, reads_v2: true };
/// A kernel without the fix.
const OLD_TARGET: Target = Target { reads_v2: false, ..TARGET };

/// Writes `pieces` to a fresh VF, regardless of refusals, and leaves RESUMING.
fn resume(target: Target, pieces: &[&[u8]]) -> (Vec<Result<usize, Refusal>>, Result<Effect, Refusal>) {
    let mut vf = Vf::new(target);
    let mut session = vf.resume();
    let written = pieces.iter().map(|piece| session.write(piece)).collect();
    (written, session.stop())
}

fn loaded(target: Target, pieces: &[&[u8]]) -> State {
    let (written, effect) = resume(target, pieces);
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    let Ok(Effect::Loaded(bytes)) = effect else { panic!("{effect:?}") };
    State::decode(&bytes).unwrap()
}

#[test]
fn every_mismatch_is_listed() {
    assert_eq!(compatible(&HEAD, &TARGET), []);
    assert_eq!(Target::from(&HEAD), TARGET);
    let other = Target { dev_id: 0xa259, qp_num: 15, que_iso_cfg: 4, reads_v2: false };
    let expected = [
        Mismatch::Version,
        Mismatch::DeviceId { source_id: 0xa251, target_id: 0xa259 },
        Mismatch::QueueCount { source_count: 16, target_count: 15 },
        Mismatch::QueueIsolation { source_config: 5, target_config: 4 },
    ];
    assert_eq!(compatible(&HEAD, &other), expected);
    assert_eq!(compatible(&Match { qp_num: 0, ..HEAD }, &Target { qp_num: 0, ..TARGET }), [Mismatch::NoQueues]);
    // What the kernel does not compare is no reason either.
    assert_eq!(compatible(&Match { qp_base: 7, vf_qm_state: 1, qm_rsv_state: [1, 1], ..HEAD }, &TARGET), []);
}

#[test]
fn version_1_fits_every_kernel() {
    let v1 = Match { version: Version::V1 { reserved: 0 }, ..HEAD };
    assert_eq!(compatible(&v1, &TARGET), []);
    assert_eq!(compatible(&v1, &OLD_TARGET), []);
    assert_eq!(Target::from(&v1), OLD_TARGET);
}

#[test]
fn only_a_complete_version_1_state_needs_one_write() {
    let is_one_write = |bytes: &[u8]| matches!(Stream::decode(bytes).unwrap().encode(), Resume::OneWrite(_));
    assert!(is_one_write(&full_v1()));
    assert!(is_one_write(&full_v1_wrong()));
    assert!(!is_one_write(&match_v1()));
    assert!(!is_one_write(&match_v2()));
    assert!(!is_one_write(&full_v2()));
}

#[test]
fn one_write_notices_a_short_one() {
    let Resume::OneWrite(state) = Stream::decode(&full_v1()).unwrap().encode() else { panic!("any write will do") };
    assert_eq!(state.clone().write(|_| Ok::<_, Refusal>(175)), Err(WriteError::Short { written: 175, length: 176 }));
    assert_eq!(state.write(|_| Err(Refusal::Over)), Err(WriteError::Refused(Refusal::Over)));
}

#[test]
fn version_1_loads_wrong_addresses_unless_written_at_once() {
    let bytes = full_v1_wrong();
    let repaired = Stream::decode(&full_v1()).unwrap();
    assert_eq!(Stream::Full(loaded(TARGET, &[&bytes])), repaired);
    let wrong = Stream::decode(&bytes).unwrap();
    for at in [40, 100, 144] {
        assert_eq!(Stream::Full(loaded(TARGET, &[&bytes[..at], &bytes[at..]])), wrong, "cut at {at}");
    }
    // Cut after the addresses, or before the match part is complete, it goes well.
    assert_eq!(Stream::Full(loaded(TARGET, &[&bytes[..160], &bytes[160..]])), repaired);
    assert_eq!(Stream::Full(loaded(TARGET, &[&bytes[..39], &bytes[39..]])), repaired);
    // A kernel without the fix never repairs.
    assert_eq!(Stream::Full(loaded(OLD_TARGET, &[&bytes])), wrong);
}

#[test]
fn repaired_or_converted_the_cut_does_not_matter() {
    let stream = Stream::decode(&full_v1_wrong()).unwrap();
    for (stream, target) in [(stream.repaired(), OLD_TARGET), (stream.repaired(), TARGET), (stream.to_v2(), TARGET)] {
        let Stream::Full(state) = stream else { panic!("a match part") };
        let bytes = state.encode();
        for at in 1..176 {
            assert_eq!(loaded(target, &[&bytes[..at], &bytes[at..]]), state, "cut at {at}");
        }
    }
}

#[test]
fn the_repair_is_skipped_in_a_second_session() {
    let mut vf = Vf::new(TARGET);
    vf.resume().write(&match_v1()).unwrap();
    let load = |vf: &mut Vf| {
        let mut session = vf.resume();
        session.write(&full_v1_wrong()).unwrap();
        let Ok(Effect::Loaded(bytes)) = session.stop() else { panic!("nothing was loaded") };
        bytes.to_vec()
    };
    assert_eq!(load(&mut vf), full_v1_wrong());
    vf.open();
    assert_eq!(load(&mut vf), full_v1());
}

#[test]
fn writes_are_refused_in_the_kernels_order() {
    let mut vf = Vf::new(TARGET);
    let mut session = vf.resume();
    assert_eq!(session.write(&full_v2()[..100]), Ok(100));
    // Nothing of a write beyond the end is stored.
    assert_eq!(session.write(&[0; 77]), Err(Refusal::TooLong));
    assert_eq!(session.stop(), Err(Refusal::Incomplete));
    assert_eq!(session.write(&full_v2()[100..]), Ok(76));
    assert_eq!(session.stop(), Ok(Effect::Loaded(STATE.encode())));
    // The end is refused before the length is looked at, but too long comes first.
    assert_eq!(session.write(&[]), Err(Refusal::Over));
    assert_eq!(session.write(&[0]), Err(Refusal::TooLong));
    assert_eq!(session.stop(), Err(Refusal::Over));
    let errnos = [Refusal::TooLong, Refusal::Mismatch, Refusal::Over, Refusal::Incomplete].map(Refusal::errno);
    assert_eq!(errnos, [12, 14, 19, 22]);
}

#[test]
fn an_owned_session_gives_the_vf_back_with_its_mark() {
    let mut session = Vf::new(TARGET).into_resuming();
    assert_eq!(session.room_bytes(), 176);
    session.write(&match_v2()).unwrap();
    assert_eq!(session.room_bytes(), 136);
    let vf = session.into_vf();
    assert!(vf.is_match_done());
    assert!(vf.clone().into_resuming().write(&[0; 40]).is_ok(), "the next session compares nothing");
    let vf = vf.with_match_done(false);
    assert_eq!(vf.clone().into_resuming().write(&[0; 40]), Err(Refusal::Mismatch));
    assert!(vf.with_match_done(true).into_resuming().write(&[0; 40]).is_ok());
}

#[test]
fn every_mismatch_is_efault_but_stored() {
    let patches: [(usize, &[u8]); 6] =
        [(0, &[0]), (28, &[2]), (12, &[0x56]), (8, &[17]), (16, &[4]), (0, &[0xaa, 0xcc, 0xfe, 0xed])];
    for (offset, patch) in patches {
        let bytes = patched(full_v2(), offset, patch);
        let (written, effect) = resume(TARGET, &[&bytes[..39], &bytes[39..40], &bytes[40..]]);
        assert_eq!(written, [Ok(39), Err(Refusal::Mismatch), Err(Refusal::Mismatch)], "offset {offset}");
        // The trap: who ignores EFAULT loads it.
        assert_eq!(effect, Ok(Effect::Loaded(bytes.try_into().unwrap())), "offset {offset}");
    }
    // The kernel ignores these.
    for offset in [20, 24, 30, 32, 36] {
        let bytes = patched(full_v2(), offset, &[9]);
        assert_eq!(resume(TARGET, &[&bytes]).0, [Ok(176)], "offset {offset}");
    }
}

#[test]
fn resuming_ends_with_40_or_176_bytes_only() {
    let bytes = full_v2();
    for length in 0..=176 {
        let expected = match length {
            40 => Ok(Effect::MatchOnly),
            176 => Ok(Effect::Loaded(STATE.encode())),
            _ => Err(Refusal::Incomplete),
        };
        assert_eq!(resume(TARGET, &[&bytes[..length]]).1, expected, "{length} bytes");
    }
}

#[test]
fn without_an_address_nothing_is_loaded() {
    for offset in [144, 152, 160, 168] {
        let bytes = patched(full_v2(), offset, &[0; 8]);
        assert_eq!(resume(TARGET, &[&bytes]).1, Ok(Effect::NoAddress), "offset {offset}");
        let stream = Stream::decode(&bytes).unwrap();
        assert!(!stream.check().is_loadable(), "offset {offset}");
    }
}

#[test]
fn what_is_admitted_is_loaded_even_where_the_kernel_compares_nothing() {
    let bytes = full_v2();
    let stream = Stream::decode(&bytes).unwrap();
    let resume = stream.admit(&TARGET).unwrap();
    let mut vf = Vf::new(TARGET);
    let mut session = vf.resume();
    resume.write(|bytes| session.write(bytes)).unwrap();
    assert_eq!(session.stop(), Ok(Effect::Loaded(STATE.encode())));

    // The second session would take anything; `admit` does not.
    let foreign = Stream::Full(State { head: Match { dev_id: 0xa256, qp_num: 0, ..HEAD }, ..STATE });
    assert!(vf.resume().write(&State::encode(foreign.state().unwrap())).is_ok());
    let refused = foreign.admit(&TARGET).unwrap_err();
    assert_eq!(refused.findings.iter().count(), 1);
    assert_eq!(refused.mismatches.len(), 2);
    assert_eq!(refused.to_string().lines().count(), 4);
}

#[test]
fn wrong_addresses_are_not_admitted_where_nobody_repairs_them() {
    let stream = Stream::decode(&full_v1_wrong()).unwrap();
    assert!(stream.admit(&TARGET).is_ok());
    let refused = stream.admit(&OLD_TARGET).unwrap_err();
    assert_eq!(refused.findings.errors().map(|finding| finding.field()).collect::<Vec<_>>(), ["eqe_dma", "aeqe_dma"]);
    assert!(stream.repaired().admit(&OLD_TARGET).is_ok());
}
