// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is wrong with a stream: where, what was read, what it means, what to do.

use core::fmt;

use serde::Serialize;
use stream_codec::decode::{Blame, Located};

use super::words::hex;

/// Most faults that are kept of one migration. The first is the one that matters.
const FAULTS_MAX: usize = 64;

/// A fault at an offset of a file.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fault {
    /// The file, as it was named.
    pub(super) file: String,
    /// Where in the file.
    pub(super) offset: u64,
    /// The part of the stream it stands in; empty if that is the stream itself.
    pub(super) within: String,
    /// Offset in the device's state, if it is a fault of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_offset: Option<u64>,
    /// The bytes that stand there, in hexadecimal.
    pub(super) found: String,
    pub(super) meaning: String,
    pub(super) advice: String,
}

impl Fault {
    pub(super) fn new(offset: u64, meaning: impl fmt::Display, advice: &str) -> Self {
        Self {
            file: String::new(),
            offset,
            within: String::new(),
            state_offset: None,
            found: String::new(),
            meaning: meaning.to_string(),
            advice: advice.to_owned(),
        }
    }

    /// A fault that a decoder found.
    pub(super) fn of<R: Blame + fmt::Display>(error: &Located<R>) -> Self {
        let fault = error.reason.fault();
        Self::new(error.offset, format_args!("{} ({fault})", error.reason), fault.advice())
    }

    pub(super) fn within(mut self, part: impl Into<String>) -> Self {
        self.within = part.into();
        self
    }

    pub(super) fn found(mut self, bytes: &[u8]) -> Self {
        self.found = hex(bytes, 16);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: fault at offset {} ({:#x})", self.file, self.offset, self.offset)?;
        if let Some(state_offset) = self.state_offset {
            write!(formatter, ", byte {state_offset} of the device's state")?;
        }
        let found = if self.found.is_empty() { "the end of the file" } else { &self.found };
        let within = if self.within.is_empty() { "the stream" } else { &self.within };
        write!(formatter, "\n  in       {within}\n  read     {found}")?;
        write!(formatter, "\n  meaning  {}\n  do       {}", self.meaning, self.advice)
    }
}

/// The faults of one migration, the first first.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(fault);
        }
    }

    pub(super) fn first(&self) -> Option<&Fault> {
        self.0.first()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}
