// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel's resuming side does with a sequence of writes: for simulated devices, and to show what goes wrong.
//!
//! The rules are those of Linux 6.12.117 and 7.3.4, traps included: the comparison that happens only once, the repair of
//! version 1 that depends on how the stream is cut, and the end of RESUMING that checks nothing but the length.
//!
//! ```
//! # use device_hisi::{Match, Version, compatible::Target};
//! # let own = Match { version: Version::CURRENT, qp_num: 64, dev_id: 0xa251, que_iso_cfg: 0, qp_base: 64,
//! #     vf_qm_state: 0, qm_rsv_state: [0; 2] };
//! use device_hisi::model::{Effect, Refusal, Vf};
//!
//! let mut vf = Vf::new(Target::from(&own));
//! let mut session = vf.resume();
//! session.write(&own.encode())?;
//! assert_eq!(session.stop()?, Effect::MatchOnly);
//!
//! // The second session on the same VF compares nothing.
//! let mut session = vf.resume();
//! session.write(&Match { dev_id: 0xa256, ..own }.encode())?;
//! assert_eq!(session.stop()?, Effect::MatchOnly);
//! # Ok::<(), Refusal>(())
//! ```

use core::borrow::BorrowMut;

use thiserror::Error;

use crate::compatible::{Target, compatible};
use crate::state::{Match, State};
use crate::{MATCH_BYTES, STATE_BYTES};

/// A target VF, with the mark that outlives resuming sessions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vf {
    target: Target,
    is_match_done: bool,
}

impl Vf {
    /// A VF whose driver was just bound.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self { target, is_match_done: false }
    }

    /// The device is opened anew, on a kernel that clears the mark then: 7.3, not 6.12. A reset clears it on neither.
    pub const fn open(&mut self) {
        self.is_match_done = false;
    }

    /// Enters RESUMING: a new, empty session.
    pub const fn resume(&mut self) -> Resuming<&mut Self> {
        Resuming { vf: self, bytes: [0; STATE_BYTES], length: 0, is_over: false }
    }

    /// The same for a simulated device, which keeps both in one place. [`Resuming::into_vf`] gives the VF back.
    #[must_use]
    pub const fn into_resuming(self) -> Resuming<Self> {
        Resuming { vf: self, bytes: [0; STATE_BYTES], length: 0, is_over: false }
    }

    /// Whether the mark is set: the next session compares nothing.
    #[must_use]
    pub const fn is_match_done(&self) -> bool {
        self.is_match_done
    }

    /// The same VF with the mark set or not, as it was when something was kept of it.
    #[must_use]
    pub const fn with_match_done(self, is_match_done: bool) -> Self {
        Self { is_match_done, ..self }
    }
}

/// A resuming session of a VF, borrowed or owned.
#[derive(Clone, Debug)]
pub struct Resuming<V> {
    vf: V,
    bytes: [u8; STATE_BYTES],
    length: usize,
    is_over: bool,
}

/// What leaving RESUMING did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing: only the match part had come.
    MatchOnly,
    /// Nothing: a queue has no address. The device counts as not ready.
    NoAddress,
    /// These bytes are in the device now, the queue addresses as the kernel uses them.
    Loaded([u8; STATE_BYTES]),
}

/// What the kernel refuses, and with which errno.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// ENODEV: the session is over.
    #[error("ENODEV: the resuming session is over")]
    Over,
    /// ENOMEM: more than 176 bytes. Nothing of the write was stored.
    #[error("ENOMEM: more than {STATE_BYTES} bytes were written")]
    TooLong,
    /// EFAULT: the match part does not fit. **The bytes are stored all the same**, and leaving RESUMING would load them.
    #[error("EFAULT: the match part does not fit this VF")]
    Mismatch,
    /// EINVAL: leaving RESUMING with neither 40 nor 176 bytes. The session goes on.
    #[error("EINVAL: the state is incomplete")]
    Incomplete,
}

impl Refusal {
    /// The errno as the kernel returns it: positive, Linux on arm64.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::TooLong => 12,
            Self::Mismatch => 14,
            Self::Over => 19,
            Self::Incomplete => 22,
        }
    }
}

impl Resuming<Vf> {
    /// Ends the session, in whatever way, and gives the VF back, with its mark.
    #[must_use]
    pub fn into_vf(self) -> Vf {
        self.vf
    }
}

impl<V: BorrowMut<Vf>> Resuming<V> {
    /// How many more bytes there is room for. A longer write is [`Refusal::TooLong`], before its bytes are looked at.
    #[must_use]
    pub const fn room_bytes(&self) -> usize {
        STATE_BYTES.saturating_sub(self.length)
    }

    /// `write` on the data fd.
    ///
    /// # Errors
    /// [`Refusal::Over`], [`Refusal::TooLong`], or [`Refusal::Mismatch`], which a later write may repeat or not.
    pub fn write(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let length = self.length.saturating_add(input.len());
        let room = self.bytes.get_mut(self.length..length).ok_or(Refusal::TooLong)?;
        if self.is_over {
            return Err(Refusal::Over);
        }
        room.copy_from_slice(input);
        self.length = length;
        self.compare().map(|()| input.len())
    }

    /// RESUMING → STOP.
    ///
    /// # Errors
    /// [`Refusal::Incomplete`]; the session goes on then. [`Refusal::Over`] after a success.
    pub fn stop(&mut self) -> Result<Effect, Refusal> {
        if self.is_over {
            return Err(Refusal::Over);
        }
        let effect = match self.length {
            MATCH_BYTES => Effect::MatchOnly,
            STATE_BYTES if self.has_all_addresses() => Effect::Loaded(self.bytes),
            STATE_BYTES => Effect::NoAddress,
            _ => return Err(Refusal::Incomplete),
        };
        self.is_over = true;
        Ok(effect)
    }

    /// The kernel's comparison, which comes with every write once 40 bytes are there, until it succeeds.
    fn compare(&mut self) -> Result<(), Refusal> {
        if self.length < MATCH_BYTES || self.vf.borrow().is_match_done {
            return Ok(());
        }
        let head = self.bytes.first_chunk().ok_or(Refusal::Mismatch)?;
        let head = Match::decode(head).map_err(|_| Refusal::Mismatch)?;
        // A kernel without the fix does not repair; it takes the addresses as they come.
        if head.version.is_v1() && self.vf.borrow().target.reads_v2 {
            self.repair();
        }
        let vf = self.vf.borrow_mut();
        if compatible(&head, &vf.target).is_empty() {
            vf.is_match_done = true;
            Ok(())
        } else {
            Err(Refusal::Mismatch)
        }
    }

    /// The repair of version 1, from whatever is there: zeros where nothing has come yet.
    fn repair(&mut self) {
        if let Ok(state) = State::decode(&self.bytes) {
            self.bytes = state.repaired().encode();
        }
    }

    fn has_all_addresses(&self) -> bool {
        let addresses = self.bytes.get(144..).unwrap_or_default();
        addresses.chunks_exact(8).all(|address| address != [0; 8])
    }
}
