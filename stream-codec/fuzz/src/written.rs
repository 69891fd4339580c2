// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams as a careful writer of QEMU's formats writes them, made of arbitrary input: a reader must read them to their
//! end, and find in them what was written.

mod main;
mod multifd;
mod return_path;

pub use self::main::Main;
pub use self::multifd::{Multifd, PAGE_BITS};
pub use self::return_path::ReturnPath;

use core::fmt::Debug;

use stream_codec::qemu::{Error, Reason};
use stream_codec::testkit::Outcome;

use crate::check::Record;
use crate::parts::clipped;

/// A stream, and what a reader should say about it.
#[derive(Debug, Default)]
pub struct Written {
    pub stream: Vec<u8>,
    /// What each record is, and where it ends.
    expected: Vec<(String, usize)>,
}

impl Written {
    fn push(&mut self, what: String, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Reason>) {
        encode(&mut self.stream).expect("it keeps the limits of the format");
        self.expected.push((what, self.stream.len()));
    }

    /// Appends what was written apart.
    fn append(&mut self, other: Self) {
        let start = self.stream.len();
        self.stream.extend_from_slice(&other.stream);
        self.expected.extend(other.expected.into_iter().map(|(what, end)| (what, start + end)));
    }

    /// Whether that is what the reader says.
    pub fn compare(&self, outcome: &Outcome<Record, Error>) {
        assert_eq!(outcome.result, Ok(()), "a writer may write this: {:02x?}", self.stream);
        let mut start = 0;
        let expected = self.expected.iter().map(|(what, end)| {
            let offset = core::mem::replace(&mut start, *end);
            (&**what, offset as u64, &self.stream[offset..*end])
        });
        let found = outcome.records.iter().map(|record| (&*record.what, record.offset, &*record.raw));
        same(expected.collect(), found.collect());
    }
}

fn same<T: Debug + PartialEq>(expected: Vec<T>, found: Vec<T>) {
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected, found, "written, read");
    }
    assert_eq!(expected.len(), found.len(), "records written, read");
}

/// A name that can be written: not empty, no control characters, not too long even with something around it.
fn name(text: &str) -> String {
    let name: String = text.chars().filter(|character| !character.is_control()).collect();
    let name = clipped(&name, 200);
    if name.is_empty() { "x".into() } else { name.into() }
}
