// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoding and decoding undo each other, and what is admitted is what the kernel loads.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use device_hisi::compatible::Target;
use device_hisi::model::{Effect, Vf};
use device_hisi::resume::{Encoded, Resume};
use device_hisi::{MAGIC_V1, MAGIC_V2, MATCH_BYTES, Match, STATE_BYTES, State, Stream, Version};
use proptest::collection::vec;
use proptest::prelude::*;

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![
        any::<u32>().prop_map(|reserved| Version::V1 { reserved }),
        any::<u16>().prop_map(|minor| Version::V2 { minor })
    ]
}

fn head() -> impl Strategy<Value = Match> {
    (version(), any::<[u32; 5]>(), any::<[u32; 2]>()).prop_map(
        |(version, [qp_num, dev_id, que_iso_cfg, qp_base, vf_qm_state], qm_rsv_state)| Match {
            version,
            qp_num,
            dev_id,
            que_iso_cfg,
            qp_base,
            vf_qm_state,
            qm_rsv_state,
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let contexts = (any::<[u32; 7]>(), any::<[u32; 7]>());
    (head(), any::<[u32; 6]>(), contexts, any::<[u32; 6]>(), any::<[u64; 4]>()).prop_map(
        |(head, registers, (qm_eqc_dw, qm_aeqc_dw), [r0, r1, r2, r3, r4, padding], addresses)| {
            let [aeq_int_mask, eq_int_mask, ifc_int_source, ifc_int_mask, ifc_int_set, page_size] = registers;
            let [eqe_dma, aeqe_dma, sqc_dma, cqc_dma] = addresses;
            State {
                head,
                aeq_int_mask,
                eq_int_mask,
                ifc_int_source,
                ifc_int_mask,
                ifc_int_set,
                page_size,
                qm_eqc_dw,
                qm_aeqc_dw,
                qm_rsv_regs: [r0, r1, r2, r3, r4],
                padding,
                eqe_dma,
                aeqe_dma,
                sqc_dma,
                cqc_dma,
            }
        },
    )
}

/// Any 176 bytes that carry a magic and a major version.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (vec(any::<u8>(), STATE_BYTES), any::<bool>()).prop_map(|(mut bytes, is_v1)| {
        bytes[..8].copy_from_slice(&if is_v1 { MAGIC_V1 } else { MAGIC_V2 }.to_le_bytes());
        if !is_v1 {
            bytes[28..30].copy_from_slice(&[1, 0]);
        }
        bytes
    })
}

proptest! {
    #[test]
    fn values_survive(state in state()) {
        prop_assert_eq!(State::decode(&state.encode()), Ok(state));
        prop_assert_eq!(Match::decode(&state.head.encode()), Ok(state.head));
    }

    #[test]
    fn bytes_survive(bytes in bytes()) {
        let state = State::decode(bytes[..].try_into().unwrap()).unwrap();
        prop_assert_eq!(&state.encode()[..], &bytes[..]);
        prop_assert_eq!(&state.head.encode()[..], &bytes[..MATCH_BYTES]);
    }

    #[test]
    fn explaining_and_checking_never_fail(state in state()) {
        let stream = Stream::Full(state);
        let text = format!("{stream}{}", stream.check());
        prop_assert!(text.lines().count() >= 24);
    }

    #[test]
    fn conversion_is_what_the_kernel_does(state in state()) {
        let stream = Stream::Full(state);
        let target = Target { reads_v2: true, ..Target::from(&state.head) };
        prop_assume!(target.qp_num != 0);
        let mut vf = Vf::new(target);
        let mut session = vf.resume();
        stream.encode().write(|bytes| session.write(bytes)).unwrap();
        if let Effect::Loaded(bytes) = session.stop().unwrap() {
            let loaded = State::decode(&bytes).unwrap();
            prop_assert_eq!(loaded.to_v2(), state.to_v2());
            if state.head.version.is_v1() {
                prop_assert_eq!(loaded, state.repaired());
            }
        }
        // Converting twice changes nothing more.
        prop_assert_eq!(stream.to_v2().to_v2(), stream.to_v2());
        let is_any = matches!(stream.to_v2().encode(), Resume::Any(bytes) if Encoded::as_ref(&bytes).len() == STATE_BYTES);
        prop_assert!(is_any);
    }
}
