// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a stream went wrong and whose fault it is.

use core::fmt;

use thiserror::Error;

/// Whose fault an error is, which decides what to do next.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The sender wrote what the format forbids: it is faulty, or hostile.
    Sender,
    /// Bytes were changed, lost or cut off on the way.
    Transport,
    /// Both ends are right, but they do not speak a common version or feature.
    Versions,
    /// The stream needs more than the limits of this reader allow.
    Limits,
    /// The program that called this crate broke a rule. Nothing was sent.
    Caller,
}

impl Fault {
    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Sender => "do not use the data; report the error to whoever maintains the sender",
            Self::Transport => "do not use the data; check the connection or the file, then repeat the transfer",
            Self::Versions => "update one of the two ends, or do without the feature that the error names",
            Self::Limits => "raise the limit that the error names, if the sender is trusted to need it",
            Self::Caller => "correct the calling program",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sender => "the sender's fault",
            Self::Transport => "damage on the way",
            Self::Versions => "incompatible versions",
            Self::Limits => "a limit of this reader",
            Self::Caller => "the caller's fault",
        })
    }
}

/// An error that knows whose fault it is.
pub trait Blame {
    /// Whose fault it is.
    fn fault(&self) -> Fault;
}

/// An error and the stream offset at which the refused thing starts.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("at stream offset {offset}: {reason}")]
pub struct Located<E> {
    /// Offset in the stream, in bytes from its start.
    pub offset: u64,
    /// What is wrong there.
    pub reason: E,
}

impl<E> Located<E> {
    /// Puts `reason` at `offset`.
    #[must_use]
    pub const fn new(offset: u64, reason: E) -> Self {
        Self { offset, reason }
    }
}

impl<E: Blame> Blame for Located<E> {
    fn fault(&self) -> Fault {
        self.reason.fault()
    }
}
