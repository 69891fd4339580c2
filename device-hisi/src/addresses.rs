// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The queue addresses that version 1 gets wrong.
//!
//! The address of a queue stands twice in the structure: in words 1 (low) and 2 (high) of the queue's context, and again
//! in `eqe_dma` or `aeqe_dma`. Kernels of about 6.8 to 6.15 composed the second from words 0 and 1. The target's queue
//! would then lie at an address that the guest never gave: its device would write there.

use crate::state::{Match, State, Stream};
use crate::version::Version;

/// One queue's address, from the two places where it stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct QueueAddress {
    /// `eqe_dma` or `aeqe_dma`, as found.
    pub stored: u64,
    /// What the queue's context says. This is the true address.
    pub from_context: u64,
    /// What the faulty kernels would have stored.
    faulty: u64,
}

/// Why a stored address is not the one in the queue's context.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum AddressFault {
    /// It is composed of words 0 and 1, as kernels of about 6.8 to 6.15 did.
    KernelFault,
    /// No known kernel would store it: the state is damaged or forged.
    Unexplained,
}

impl QueueAddress {
    const fn new(stored: u64, context: [u32; 7]) -> Self {
        let [word_0, word_1, word_2, ..] = context;
        Self { stored, from_context: compose(word_2, word_1), faulty: compose(word_1, word_0) }
    }

    /// What is wrong with the stored address, if anything is.
    #[must_use]
    pub const fn fault(&self) -> Option<AddressFault> {
        if self.stored == self.from_context {
            None
        } else if self.stored == self.faulty {
            Some(AddressFault::KernelFault)
        } else {
            Some(AddressFault::Unexplained)
        }
    }
}

impl State {
    /// The address of the event queue.
    #[must_use]
    pub const fn event_queue(&self) -> QueueAddress {
        QueueAddress::new(self.eqe_dma, self.qm_eqc_dw)
    }

    /// The address of the asynchronous event queue.
    #[must_use]
    pub const fn async_event_queue(&self) -> QueueAddress {
        QueueAddress::new(self.aeqe_dma, self.qm_aeqc_dw)
    }

    /// The same state with the queue addresses taken from their contexts. [`check`](Stream::check) first: this removes
    /// the trace of any damage there was to them.
    #[must_use]
    pub const fn repaired(&self) -> Self {
        Self { eqe_dma: self.event_queue().from_context, aeqe_dma: self.async_event_queue().from_context, ..*self }
    }

    /// The same state in version 2, [repaired](Self::repaired): what the kernel makes of version 1 when it arrives in
    /// one write. A state in version 2 is returned as it is.
    ///
    /// Only a kernel that writes version 2 reads it; [`compatible`](crate::compatible::compatible) says so.
    #[must_use]
    pub const fn to_v2(&self) -> Self {
        if self.head.version.is_v1() { Self { head: self.head.to_v2(), ..self.repaired() } } else { *self }
    }
}

impl Match {
    /// The same match part in version 2. See [`State::to_v2`].
    #[must_use]
    pub const fn to_v2(&self) -> Self {
        if self.version.is_v1() { Self { version: Version::CURRENT, ..*self } } else { *self }
    }
}

impl Stream {
    /// The same stream in its version, with right addresses. See [`State::repaired`]. It is what a target needs whose
    /// kernel knows version 1 only and therefore repairs nothing.
    #[must_use]
    pub const fn repaired(&self) -> Self {
        match self {
            Self::MatchOnly(_) => *self,
            Self::Full(state) => Self::Full(state.repaired()),
        }
    }

    /// The same stream in version 2. See [`State::to_v2`].
    #[must_use]
    pub const fn to_v2(&self) -> Self {
        match self {
            Self::MatchOnly(head) => Self::MatchOnly(head.to_v2()),
            Self::Full(state) => Self::Full(state.to_v2()),
        }
    }
}

const fn compose(high: u32, low: u32) -> u64 {
    let ([h0, h1, h2, h3], [l0, l1, l2, l3]) = (high.to_le_bytes(), low.to_le_bytes());
    u64::from_le_bytes([l0, l1, l2, l3, h0, h1, h2, h3])
}
