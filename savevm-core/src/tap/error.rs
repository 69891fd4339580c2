// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a tap stops a migration.

use alloc::borrow::Cow;
use alloc::string::{String, ToString};
use core::fmt;

use stream_codec::decode::{Blame, Fault, Located};

/// A stream that must not go further.
///
/// The engine adds the device's name where it passes the error on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reading} at stream offset {offset}: {detail}. {refusal}; {advice}")]
#[non_exhaustive]
pub struct TapError {
    /// What kind of refusal this is.
    pub refusal: Refusal,
    /// Offset in the device's stream, in bytes, of what was read, or of the end if something is missing there.
    pub offset: u64,
    /// What was being read.
    pub reading: Cow<'static, str>,
    /// What is wrong with it.
    pub detail: String,
    /// What to do about it.
    pub advice: Cow<'static, str>,
}

impl TapError {
    /// A refusal, with the advice that goes with its kind.
    #[must_use]
    pub fn new(
        refusal: Refusal,
        offset: u64,
        reading: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Self { refusal, offset, reading: reading.into(), detail: detail.into(), advice: refusal.advice().into() }
    }

    /// What a decoder of `stream-codec`'s kind found wrong while it was reading `reading`.
    #[must_use]
    pub fn from_decoder<E: Blame + fmt::Display>(reading: impl Into<Cow<'static, str>>, error: &Located<E>) -> Self {
        Self::new(error.fault().into(), error.offset, reading, error.reason.to_string())
    }

    /// The same with advice for this case.
    #[must_use]
    pub fn with_advice(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.advice = advice.into();
        self
    }
}

/// What kind of refusal, and with it whose fault it is.
///
/// Bytes that a tap sees are those the source's device yielded: what is damaged or lost between the hosts is found by
/// checksums before.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes break their format.
    Damaged,
    /// The stream ends before it is whole.
    Incomplete,
    /// The stream is right in itself, and does not fit the target's device.
    Incompatible,
    /// The stream needs more than this side allows.
    TooLarge,
}

impl Refusal {
    /// What to do about it, where nobody knows better.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Damaged => {
                "keep the guest on the source; look for faults of that device, its firmware and the host's memory"
            }
            Self::Incomplete => {
                "keep the guest on the source and try again; if it happens again, report it to whoever maintains the driver"
            }
            Self::Incompatible => {
                "configure the target's device and driver like the source's, or choose another target"
            }
            Self::TooLarge => "raise the limit on this side, if the source is trusted to need it",
        }
    }
}

/// Whose fault it is.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "The source's device or driver is at fault",
            Self::Incomplete => "The source's driver is at fault: it ended the stream too early",
            Self::Incompatible => "Neither device is at fault, they do not fit each other",
            Self::TooLarge => "A limit of this side is the reason",
        })
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            // Where decoders blame the transport, bytes are missing.
            Fault::Transport => Self::Incomplete,
            Fault::Versions => Self::Incompatible,
            Fault::Limits => Self::TooLarge,
            _ => Self::Damaged,
        }
    }
}
