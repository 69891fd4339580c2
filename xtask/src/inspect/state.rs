// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a device, as its driver gave it: recognised, explained and judged as it comes, in pieces of any size.

mod hisi;
pub(super) mod mtty;
mod records;

use savevm_core::digest::{Digest, DigestSum};
use serde_json::{Map, Value};
use stream_codec::decode::{Blame, Located};

use super::format::StateFormat;

/// What else is known of the device, from around its state.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// Vendor and device id, from the config state or the identity.
    pub(super) pci: Option<(u16, u16)>,
    /// The number of ports that the identity of an mtty states.
    pub(super) ports: Option<u32>,
    /// Whether the state is all there is of it: the device was sent to its end.
    pub(super) is_complete: bool,
}

/// A fault in the state of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct StateFault {
    /// Offset in the state.
    pub(super) offset: u64,
    pub(super) meaning: String,
    pub(super) advice: &'static str,
}

impl StateFault {
    fn new(offset: u64, meaning: impl Into<String>, advice: &'static str) -> Self {
        Self { offset, meaning: meaning.into(), advice }
    }

    fn of<R: Blame + core::fmt::Display>(error: &Located<R>) -> Self {
        let fault = error.reason.fault();
        Self::new(error.offset, format!("{} ({fault})", error.reason), fault.advice())
    }
}

/// What a state was found to be.
#[derive(Debug)]
pub(super) struct Explanation {
    pub(super) format: StateFormat,
    /// How the format was known.
    pub(super) known_by: &'static str,
    pub(super) sum: DigestSum,
    pub(super) lines: Vec<String>,
    pub(super) facts: Map<String, Value>,
    /// Unusual, but no reason not to load the state.
    pub(super) notes: Vec<String>,
    pub(super) faults: Vec<StateFault>,
}

/// What a reader of one format has to say in the end.
#[derive(Debug, Default)]
struct Findings {
    lines: Vec<String>,
    facts: Map<String, Value>,
    notes: Vec<String>,
    faults: Vec<StateFault>,
}

impl Findings {
    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }
}

/// Reads the state of one device.
#[derive(Debug)]
pub(super) struct StateReader {
    format: Option<(StateFormat, &'static str)>,
    /// The first bytes, until the format is decided.
    head: Vec<u8>,
    body: Body,
    digest: Digest,
}

#[derive(Debug)]
enum Body {
    /// Nothing, or nothing known.
    Opaque,
    Hisi(Box<hisi::Reader>),
    Mtty(mtty::Reader),
    Mlx5(Box<records::Mlx5>),
    Virtio(Box<records::Virtio>),
}

impl StateReader {
    /// A reader of a format that is known, with the reason for which it is, or to be recognised.
    pub(super) fn new(format: Option<(StateFormat, &'static str)>) -> Self {
        let mut reader = Self { format: None, head: Vec::new(), body: Body::Opaque, digest: Digest::new() };
        if let Some((format, known_by)) = format {
            reader.decide(format, known_by);
        }
        reader
    }

    fn decide(&mut self, format: StateFormat, known_by: &'static str) {
        self.format = Some((format, known_by));
        self.body = match format {
            StateFormat::Hisi => Body::Hisi(Box::default()),
            StateFormat::Mtty => Body::Mtty(mtty::Reader::default()),
            StateFormat::Mlx5 => Body::Mlx5(Box::default()),
            StateFormat::Virtio => Body::Virtio(Box::default()),
            StateFormat::Opaque => Body::Opaque,
        };
    }

    /// Says that what comes next was read with the guest running, or stopped.
    pub(super) fn set_stopped(&mut self, is_stopped: bool) {
        if let Body::Mlx5(reader) = &mut self.body {
            reader.set_stopped(is_stopped);
        }
    }

    /// The next bytes of the state.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        if self.format.is_some() {
            self.pass_on(bytes);
            return;
        }
        self.head.extend_from_slice(bytes);
        if self.head.len() >= StateFormat::HEAD_BYTES {
            self.recognise();
        }
    }

    /// Decides by what is there, and reads that.
    fn recognise(&mut self) {
        let head = core::mem::take(&mut self.head);
        match StateFormat::of_content(&head) {
            Some(format) => self.decide(format, "recognised by its first bytes"),
            None => self.decide(StateFormat::Opaque, "nothing says what it is"),
        }
        self.pass_on(&head);
    }

    fn pass_on(&mut self, bytes: &[u8]) {
        match &mut self.body {
            Body::Opaque => {}
            Body::Hisi(reader) => reader.feed(bytes),
            Body::Mtty(reader) => reader.feed(bytes),
            Body::Mlx5(reader) => reader.feed(bytes),
            Body::Virtio(reader) => reader.feed(bytes),
        }
    }

    /// Count and checksum of the bytes so far.
    pub(super) fn sum(&self) -> DigestSum {
        self.digest.sum()
    }

    /// What it was.
    pub(super) fn finish(mut self, around: &Surroundings) -> Explanation {
        if self.format.is_none() {
            self.recognise();
        }
        let (format, known_by) = self.format.unwrap_or((StateFormat::Opaque, "nothing says what it is"));
        let sum = self.digest.sum();
        let found = match self.body {
            Body::Opaque => Findings::default(),
            Body::Hisi(reader) => reader.finish(around),
            Body::Mtty(reader) => reader.finish(around),
            Body::Mlx5(reader) => reader.finish(around),
            Body::Virtio(reader) => reader.finish(around),
        };
        let Findings { lines, facts, notes, mut faults } = found;
        faults.sort_by_key(|fault| fault.offset);
        Explanation { format, known_by, sum, lines, facts, notes, faults }
    }
}
