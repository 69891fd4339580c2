// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's resuming side and this crate agree on what is a state, except where the kernel is too lax: each of these
//! exceptions is named here, and shown to be one.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{HEAD, STATE, full_v1, full_v1_wrong, full_v2, match_v1, match_v2, patched};
use device_hisi::check::Finding;
use device_hisi::compatible::Target;
use device_hisi::model::{Effect, Refusal, Vf};
use device_hisi::{Match, State, Stream};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const TARGET: Target = Target { dev_id: 0xa251, qp_num: 16, que_iso_cfg: 5, reads_v2: true };
const OLD_TARGET: Target = Target { reads_v2: false, ..TARGET };

/// What the kernel makes of a stream whose writer stops at the first error, as it must.
fn kernel(target: Target, pieces: &[&[u8]]) -> Result<Effect, Refusal> {
    let mut vf = Vf::new(target);
    let mut session = vf.resume();
    pieces.iter().try_for_each(|piece| session.write(piece).map(|_| ()))?;
    session.stop()
}

/// hisi.md section 4, "Not validated by the kernel at all", and the state without addresses, for which it reports success
/// and loads nothing. A queue count or device id that no VF has, no target has either: those the kernel refuses.
fn is_not_looked_at(finding: &Finding) -> bool {
    match finding {
        Finding::QueueBase { .. }
        | Finding::VfState { .. }
        | Finding::NotReadyButComplete
        | Finding::Address { .. }
        | Finding::NoAddress { .. } => true,
        Finding::QueueCount { .. } | Finding::DeviceId { .. } => false,
        other => panic!("{other:?} is a warning, or new: say which side it is on"),
    }
}

/// Both verdicts on `bytes`, written at once.
fn compare(target: Target, bytes: &[u8]) {
    let verdict = kernel(target, &[bytes]);
    let stream = match Stream::decode(bytes) {
        Ok(stream) => stream,
        // What cannot be read, the kernel refuses too: by length, magic or major version.
        Err(error) => return assert!(verdict.is_err(), "the kernel takes what is refused: {error}"),
    };
    match (stream.admit(&target), verdict) {
        (Ok(_), Ok(effect)) => assert_eq!(effect, expected(&stream)),
        (Ok(_), Err(refusal)) => panic!("{refusal} for what is admitted:\n{stream}"),
        (Err(_), Err(_)) => {}
        (Err(refused), Ok(effect)) => {
            assert!(refused.mismatches.is_empty(), "the kernel takes what does not fit: {refused}");
            assert!(refused.findings.errors().all(is_not_looked_at), "the kernel takes {refused}");
            let has_no_address = |finding: &Finding| matches!(finding, Finding::NoAddress { .. });
            assert_eq!(effect == Effect::NoAddress, refused.findings.iter().any(has_no_address), "{refused}");
        }
    }
}

/// What an admitted stream is for.
fn expected(stream: &Stream) -> Effect {
    match stream {
        Stream::MatchOnly(_) => Effect::MatchOnly,
        Stream::Full(state) => Effect::Loaded(state.repaired().encode()),
    }
}

/// Bytes that are near a state: one of those written by hand, some of its words replaced, cut or with more behind.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let base = select(vec![full_v2(), full_v1(), full_v1_wrong(), match_v2(), match_v1()]);
    let word = prop_oneof![Just(0u32), 1..2u32, Just(16), Just(0xa251), Just(0xa256), Just(0x1_0000), any::<u32>()];
    let length = prop_oneof![4 => Just(None), 1 => (0usize..200).prop_map(Some)];
    (base, vec((0usize..44, word), 0..4), length).prop_map(|(base, words, length)| {
        let fits = |index: &usize| (index + 1) * 4 <= base.len();
        let words = words.into_iter().filter(|(index, _)| fits(index)).collect::<Vec<_>>();
        let mut bytes =
            words.into_iter().fold(base, |bytes, (index, word)| patched(bytes, index * 4, &word.to_le_bytes()));
        bytes.resize(length.unwrap_or(bytes.len()), 0);
        bytes
    })
}

proptest! {
    #[test]
    fn written_at_once_both_agree(bytes in bytes(), is_old in any::<bool>()) {
        compare(if is_old { OLD_TARGET } else { TARGET }, &bytes);
    }

    /// hisi.md section 4: only the addresses of version 1 depend on the cut, and the type says so.
    #[test]
    fn however_it_is_cut_the_verdict_is_the_same(bytes in bytes(), at in any::<prop::sample::Index>()) {
        let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
        let (whole, cut) = (kernel(TARGET, &[&bytes]), kernel(TARGET, &[first, second]));
        let is_v1 = Stream::decode(&bytes).is_ok_and(|stream| stream.head().version.is_v1());
        match (whole, cut) {
            (Ok(Effect::Loaded(_) | Effect::NoAddress), Ok(Effect::Loaded(_) | Effect::NoAddress)) if is_v1 => {}
            // Too long a second write is refused before the first one's match part is complaint enough, and the reverse.
            (Err(_), Err(_)) => {}
            (whole, cut) => prop_assert_eq!(whole, cut),
        }
    }

    /// hisi.md section 4: "match done" outlives the session. Then the length alone decides, and only `admit` looks.
    #[test]
    fn in_a_second_session_only_the_length_counts(bytes in bytes()) {
        let mut vf = Vf::new(TARGET);
        vf.resume().write(&match_v2()).unwrap();
        let mut session = vf.resume();
        let written = session.write(&bytes);
        prop_assert_eq!(written.is_ok(), bytes.len() <= 176);
        let is_state = matches!(bytes.len(), 40 | 176);
        if written.is_ok() {
            prop_assert_eq!(session.stop().is_ok(), is_state);
        }
    }
}

/// Each exception is one: the kernel takes it, this crate does not.
#[test]
fn what_the_kernel_does_not_look_at() {
    let head = |head: Match| Stream::Full(State { head, ..STATE });
    for (stream, effect_is_load) in [
        (head(Match { qp_base: 0x1_0000, ..HEAD }), true),
        (head(Match { vf_qm_state: 2, ..HEAD }), true),
        (head(Match { vf_qm_state: 1, ..HEAD }), true),
        (Stream::Full(State { eqe_dma: 1, ..STATE }), true),
        (Stream::Full(State { aeqe_dma: 1, ..STATE }), true),
        (Stream::Full(State { eqe_dma: 0, ..STATE }), false),
        (Stream::Full(State { aeqe_dma: 0, ..STATE }), false),
        (Stream::Full(State { sqc_dma: 0, ..STATE }), false),
        (Stream::Full(State { cqc_dma: 0, ..STATE }), false),
    ] {
        let Stream::Full(state) = stream else { panic!("a match part") };
        let bytes = state.encode();
        let effect = if effect_is_load { Effect::Loaded(bytes) } else { Effect::NoAddress };
        assert_eq!(kernel(TARGET, &[&bytes]), Ok(effect), "{stream}");
        assert!(stream.admit(&TARGET).unwrap_err().findings.errors().all(is_not_looked_at), "{stream}");
    }
}
