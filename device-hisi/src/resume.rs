// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes for a resuming fd, and how they must be written.
//!
//! The kernel repairs the queue addresses of version 1 once, in the `write` that brings the total to 40 bytes, from
//! whatever has arrived by then. The natural cut of a stream, 40 bytes from PRE_COPY and 136 from STOP_COPY, is exactly the
//! wrong one: the repair then works on zeros, and the raw addresses that follow replace its result. So a complete
//! version 1 state must be written in one call, and the type says so: [`OneWrite`] does not give its bytes away.

use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::STATE_BYTES;
use crate::check::Findings;
use crate::compatible::{Mismatch, Target, compatible};
use crate::state::Stream;

/// How a stream must be written to the target.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a writer must handle both")]
pub enum Resume {
    /// In any number of writes.
    Any(Encoded),
    /// In exactly one.
    OneWrite(OneWrite),
}

impl Resume {
    /// Writes everything in one call, which is right in both cases.
    ///
    /// # Errors
    /// Those of [`OneWrite::write`].
    pub fn write<E>(self, write: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<(), WriteError<E>> {
        match self {
            Self::Any(bytes) | Self::OneWrite(OneWrite(bytes)) => OneWrite(bytes).write(write),
        }
    }
}

/// The bytes of a stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Encoded {
    bytes: [u8; STATE_BYTES],
    length: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// The bytes of a complete version 1 state.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use = "nothing is resumed before it is written"]
pub struct OneWrite(Encoded);

/// Why a state did not arrive whole. The session is spoilt: do not write again, leave RESUMING by a reset.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The write failed.
    #[error("the state was refused")]
    Refused(#[source] E),
    /// The write took less than all of it.
    #[error("{written} of {length} bytes of a state were written, which must arrive in one piece")]
    Short {
        /// Bytes written.
        written: usize,
        /// Bytes of the state.
        length: usize,
    },
}

impl OneWrite {
    /// Hands all bytes to `write`, once. `write` must be a single call of the kernel's `write`, and returns what that
    /// returned: never a loop that goes on after a short write.
    ///
    /// # Errors
    /// [`WriteError::Refused`] with the error of `write`, [`WriteError::Short`] if it took less than all.
    pub fn write<E>(self, write: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<(), WriteError<E>> {
        let bytes = self.0.as_ref();
        match write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(written) => Err(WriteError::Short { written, length: bytes.len() }),
            Err(error) => Err(WriteError::Refused(error)),
        }
    }
}

/// Why a stream must not be written to a target: every reason there is.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub struct Refused {
    /// What is wrong with the stream; at least one error unless `mismatches` has entries.
    pub findings: Findings,
    /// Why it does not fit the target.
    pub mismatches: Vec<Mismatch>,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("The state must not be loaded into this target\n")?;
        write!(formatter, "{}", self.findings)?;
        self.mismatches.iter().try_for_each(|mismatch| writeln!(formatter, "mismatch: {mismatch}"))
    }
}

impl Stream {
    /// The bytes for `target`, if nothing is wrong with the stream and it fits. This is the check that the kernel leaves
    /// out when a VF is resumed a second time.
    ///
    /// A version 1 state with wrong addresses is refused if the target's kernel would not repair them: use
    /// [`Stream::repaired`] then.
    ///
    /// # Errors
    /// [`Refused`], with every reason. Nothing must be written then.
    pub fn admit(&self, target: &Target) -> Result<Resume, Refused> {
        let (findings, mismatches) = (self.findings(target.reads_v2), compatible(self.head(), target));
        if findings.is_loadable() && mismatches.is_empty() {
            Ok(self.encode())
        } else {
            Err(Refused { findings, mismatches })
        }
    }

    /// The bytes of the stream, unchecked, and how they must be written.
    #[must_use]
    pub fn encode(&self) -> Resume {
        let (mut bytes, length) = ([0; STATE_BYTES], self.len());
        match self {
            Self::MatchOnly(head) => bytes.iter_mut().zip(head.encode()).for_each(|(slot, byte)| *slot = byte),
            Self::Full(state) => bytes = state.encode(),
        }
        let encoded = Encoded { bytes, length };
        let is_one_write = matches!(self, Self::Full(state) if state.head.version.is_v1());
        if is_one_write { Resume::OneWrite(OneWrite(encoded)) } else { Resume::Any(encoded) }
    }
}
