// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! States written to the model of the kernel in arbitrary pieces: what is admitted loads, as it was meant.
#![no_main]

use arbitrary::Arbitrary;
use device_hisi::compatible::{Target, compatible};
use device_hisi::model::{Effect, Refusal, Vf};
use device_hisi::resume::Resume;
use device_hisi::{MAGIC_V1, MAGIC_V2, State, Stream};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    is_v1: bool,
    is_complete: bool,
    /// Sets the fields that are compared or checked to values that pass.
    is_plausible: bool,
    /// The addresses are those of the contexts, or those of the faulty kernels.
    has_right_addresses: bool,
    reads_v2: bool,
    bytes: [u8; 176],
    cuts: Vec<u8>,
}

impl Input {
    fn stream(&self) -> Option<Stream> {
        let mut bytes = self.bytes;
        bytes[..8].copy_from_slice(&if self.is_v1 { MAGIC_V1 } else { MAGIC_V2 }.to_le_bytes());
        bytes[28..30].copy_from_slice(&[1, 0]);
        if self.is_plausible {
            bytes[8..16].copy_from_slice(&[16, 0, 0, 0, 0x51, 0xa2, 0, 0]);
            bytes[20..28].copy_from_slice(&[0; 8]);
        }
        let mut state = State::decode(&bytes).ok()?;
        if self.has_right_addresses {
            state = state.repaired();
        } else if self.is_v1 {
            let faulty = |dw: [u32; 7]| u64::from(dw[1]) << 32 | u64::from(dw[0]);
            (state.eqe_dma, state.aeqe_dma) = (faulty(state.qm_eqc_dw), faulty(state.qm_aeqc_dw));
        }
        Some(if self.is_complete { Stream::Full(state) } else { Stream::MatchOnly(state.head) })
    }
}

fuzz_target!(|input: Input| {
    let Some(stream) = input.stream() else { return };
    let target = Target { reads_v2: input.reads_v2, ..Target::from(stream.head()) };
    let mut vf = Vf::new(target);
    let Ok(resume) = stream.admit(&target) else {
        assert!(!stream.check().is_loadable() || !compatible(stream.head(), &target).is_empty() || !target.reads_v2);
        return;
    };
    let mut session = vf.resume();
    match resume {
        Resume::OneWrite(bytes) => bytes.write(|bytes| session.write(bytes)).expect("it was admitted"),
        Resume::Any(bytes) => {
            let mut rest = bytes.as_ref();
            for cut in &input.cuts {
                let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
                assert_eq!(session.write(piece), Ok(piece.len()));
                rest = after;
            }
            assert_eq!(session.write(rest), Ok(rest.len()));
        }
    }
    match (session.stop(), &stream) {
        (Ok(Effect::MatchOnly), Stream::MatchOnly(_)) => {}
        (Ok(Effect::Loaded(bytes)), Stream::Full(state)) => {
            assert_eq!(State::decode(&bytes), Ok(state.repaired()), "the device works with its guest's addresses");
        }
        (effect, _) => panic!("{effect:?}"),
    }
    assert_eq!(session.write(&[]), Err(Refusal::Over));
});
