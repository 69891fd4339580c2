// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The check of a HiSilicon accelerator's state: 40 or 176 bytes, held back on the target until all of them are good.
//!
//! The driver compares a state with its device once per open or binding, and refused bytes stay stored; and a state of version
//! 1 is repaired only if it comes in one write. Held back, the state is compared every time, and written in one piece.

use device_hisi::check::Findings;
use device_hisi::compatible::{Mismatch, Target};
use device_hisi::{Event, MATCH_BYTES, Match, STATE_BYTES, StateDecoder, Stream};
use savevm_core::device::Read;
use savevm_core::tap::{Refusal, Tap, TapError};
use savevm_core::{Device, Phase};
use stream_codec::decode::Decoder;
use vfio_mig_fsm::State;

/// Looks at a state, and on a target compares it with the device it goes to.
#[derive(Clone, Debug)]
pub(crate) struct HisiTap {
    decoder: StateDecoder,
    own: Option<Target>,
}

impl HisiTap {
    /// `own` is the target's device, where it is known.
    pub(crate) const fn new(own: Option<Target>) -> Self {
        Self { decoder: StateDecoder::new(), own }
    }

    fn judge(&self, stream: &Stream) -> Result<(), TapError> {
        let (findings, mismatches) = match &self.own {
            None => (stream.check(), Vec::new()),
            Some(own) => match stream.admit(own) {
                Ok(_) => return Ok(()),
                Err(refused) => (refused.findings, refused.mismatches),
            },
        };
        refusal(&findings, &mismatches).map_or(Ok(()), Err)
    }
}

impl Tap for HisiTap {
    fn data(&mut self, _phase: Phase, bytes: &[u8]) -> Result<(), TapError> {
        let mut rest = bytes;
        loop {
            let step = self.decoder.decode(rest).map_err(|error| TapError::from_decoder(READING, &error))?;
            rest = rest.get(step.consumed..).unwrap_or_default();
            match step.event {
                // Enough to refuse a source that does not fit while its guest still runs.
                Some(Event::Match(head)) => self.judge(&Stream::MatchOnly(head))?,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    fn end(&mut self) -> Result<(), TapError> {
        let stream = self.decoder.end().map_err(|error| TapError::from_decoder(READING, &error))?;
        self.judge(&stream)
    }

    fn hold_bytes_max(&self) -> usize {
        STATE_BYTES
    }
}

const READING: &str = "the accelerator's state";

/// One refusal for all reasons: damage first, as a damaged state says nothing about what it fits.
fn refusal(findings: &Findings, mismatches: &[Mismatch]) -> Option<TapError> {
    let damage = findings.errors().map(|finding| (finding.field(), finding.offset(), finding.to_string()));
    let misfits = mismatches.iter().map(|mismatch| {
        let (field, offset) = place(mismatch);
        (field, offset, mismatch.to_string())
    });
    let kind = if findings.is_loadable() { Refusal::Incompatible } else { Refusal::Damaged };
    let mut reasons = damage.chain(misfits);
    let (reading, offset, mut detail) = reasons.next()?;
    for (field, offset, text) in reasons {
        detail.push_str(&format!("; {field} at stream offset {offset}: {text}"));
    }
    let error = TapError::new(kind, offset, reading, detail);
    Some(if kind == Refusal::Incompatible { error.with_advice(ADVICE) } else { error })
}

const ADVICE: &str = "give the target's VF as many queues as the source's, its PF the same queue isolation, and its host a \
                      kernel that is not older";

/// The field that is compared, and its offset.
const fn place(mismatch: &Mismatch) -> (&'static str, u64) {
    match mismatch {
        Mismatch::DeviceId { .. } => ("dev_id", 12),
        Mismatch::QueueCount { .. } | Mismatch::NoQueues => ("qp_num", 8),
        Mismatch::QueueIsolation { .. } => ("que_iso_cfg", 16),
        _ => ("acc_magic", 0),
    }
}

/// What a VF says of itself: the head of its own state, read in PRE_COPY. The inner error says why it does not.
///
/// # Errors
/// It did not come back.
pub(super) fn own_match<D: Device>(device: &mut D) -> Result<Result<Match, String>, String> {
    match device.state() {
        Ok(State::Running) => {}
        Ok(other) => return Ok(Err(format!("it is in {other}, and only a running one can be asked"))),
        Err(error) => return Ok(Err(error.to_string())),
    }
    if !device.capabilities().has_pre_copy() {
        return Ok(Err("it has no PRE_COPY to be asked in".to_owned()));
    }
    let head = device.transition(State::PreCopy).map_err(|error| error.to_string()).and_then(|()| read_match(device));
    device.transition(State::Running).map_err(|error| {
        format!("{}: after it was asked what it is, it does not run again: {error}; reset it", device.name())
    })?;
    Ok(head)
}

fn read_match<D: Device>(device: &mut D) -> Result<Match, String> {
    let mut bytes = [0; MATCH_BYTES];
    let mut filled = 0_usize;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match device.read(rest).map_err(|error| error.to_string())? {
            Read::Bytes(length) => filled = filled.saturating_add(length),
            Read::Drained | Read::End => return Err(format!("it says {filled} of {MATCH_BYTES} bytes about itself")),
        }
    }
    Match::decode(&bytes).map_err(|error| error.to_string())
}
