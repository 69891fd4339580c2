// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The registers and queues of a simulated VF, and what the driver makes of them when it saves.

use device_hisi::{MATCH_BYTES, Match, STATE_BYTES, State, VF_NOT_READY, VF_READY};
use savevm_core::digest::Digest;
use savevm_core::sim::fill_contents;

use super::super::account::{SCRATCH_BYTES, copy};
use super::config::Config;

/// Where the scratch bytes lie in the structure: the two last registers and both queue contexts.
const WINDOW: core::ops::Range<usize> = 56..120;

/// The hardware. `eqe_dma` and `aeqe_dma` are the addresses it uses, right or wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hardware {
    state: State,
    pub(super) is_ready: bool,
}

impl Hardware {
    /// A VF set up by a guest driver, with contents from the seed.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let mut bytes = [0; STATE_BYTES];
        fill_contents(config.seed, 0, &mut bytes);
        // The queue address words and the two context addresses: never 0, or the driver loads nothing.
        for low in [68, 96, 160, 168] {
            *bytes.get_mut(low)? |= 1;
        }
        // Reserved words and padding.
        bytes.get_mut(120..144)?.fill(0);
        copy(&mut bytes, head(config, VF_READY).encode());
        Some(Self { state: State::decode(&bytes).ok()?.repaired(), is_ready: config.is_ready })
    }

    /// The same with other registers and queues; the match part is its own whatever `bytes` say.
    fn with(self, bytes: &[u8; STATE_BYTES]) -> Option<Self> {
        let mut bytes = *bytes;
        copy(&mut bytes, self.state.head.encode());
        let state = State::decode(&bytes).ok()?;
        Some(Self { state: state.repaired(), ..self })
    }

    /// Takes a state as the driver hands it to the hardware, addresses and all.
    pub(super) fn load(&mut self, bytes: &[u8; STATE_BYTES]) -> Option<()> {
        let mut bytes = *bytes;
        // An unchecked match part may be anything, and reaches no register.
        copy(&mut bytes, self.state.head.encode());
        self.state = State::decode(&bytes).ok()?;
        self.is_ready = true;
        Some(())
    }

    /// What is kept of it over a process's end.
    pub(super) fn bytes(&self) -> [u8; STATE_BYTES] {
        self.state.encode()
    }

    pub(super) fn scratch(&self) -> [u8; SCRATCH_BYTES] {
        let mut scratch = [0; SCRATCH_BYTES];
        copy(&mut scratch, self.bytes().get(WINDOW).unwrap_or_default().iter().copied());
        scratch
    }

    /// The guest sets its queues up anew.
    pub(super) fn set_scratch(&mut self, scratch: &[u8; SCRATCH_BYTES]) {
        let mut bytes = self.bytes();
        copy(bytes.get_mut(WINDOW).unwrap_or_default(), *scratch);
        *self = self.with(&bytes).unwrap_or(*self);
    }

    /// A checksum over everything that moves with a migration, and `vf_qm_state`.
    pub(super) fn words(&self) -> [u64; 2] {
        let mut digest = Digest::new();
        digest.update(self.bytes().get(MATCH_BYTES..).unwrap_or_default());
        [digest.sum().crc64_nvme, u64::from(if self.is_ready { VF_READY } else { VF_NOT_READY })]
    }

    /// hisi.md section 3: the structure at STOP_COPY, 40 or 176 bytes.
    pub(super) fn save(&self, config: &Config) -> Vec<u8> {
        if !self.is_ready {
            return head(config, VF_NOT_READY).encode().into();
        }
        let state = self.state.repaired();
        if !config.has_faulty_addresses {
            return state.encode().into();
        }
        let [eqe_dma, aeqe_dma] = [state.qm_eqc_dw, state.qm_aeqc_dw].map(|[word_0, word_1, ..]| {
            // "Kernels of about 6.8…6.15 stored dw[1]<<32 | dw[0]".
            (u64::from(word_1) << 32) | u64::from(word_0)
        });
        State { eqe_dma, aeqe_dma, ..state }.encode().into()
    }
}

/// The match part. In PRE_COPY the driver has not looked whether the VF is ready.
pub(super) fn head(config: &Config, vf_qm_state: u32) -> Match {
    Match {
        version: config.version,
        qp_num: config.queues,
        dev_id: config.dev_id.into(),
        que_iso_cfg: config.isolation,
        qp_base: config.queue_base,
        vf_qm_state,
        qm_rsv_state: [0; 2],
    }
}
