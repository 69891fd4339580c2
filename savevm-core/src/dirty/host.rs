// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM's own log, for instance KVM's, as a tracker.

use alloc::string::String;

use super::marks::Marks;
use super::range::Range;
use super::tracker::{DirtyTracker, Doing, Extended, TrackError};

/// What the VMM is asked to do with its log.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a handler must answer every request")]
pub enum Request<'a, 'm> {
    /// Begin to log writes to these addresses.
    Start(&'a [Range]),
    /// Log writes to these addresses too.
    Extend(Range),
    /// Mark what was written in the range, and clear it in the log.
    Read(Range, &'a mut Marks<'m>),
    /// End it.
    Stop,
}

/// A closure of the VMM that answers [`Request`]s. A type of its own can implement [`DirtyTracker`] instead.
#[derive(Debug)]
pub struct HostLog<F> {
    name: String,
    answer: F,
}

impl<F: FnMut(Request<'_, '_>) -> Result<(), String>> HostLog<F> {
    /// A log called `name` in errors.
    pub fn new(name: impl Into<String>, answer: F) -> Self {
        Self { name: name.into(), answer }
    }

    fn ask(&mut self, doing: Doing, request: Request<'_, '_>) -> Result<(), TrackError> {
        (self.answer)(request).map_err(|detail| TrackError::new(&self.name, doing, None, detail))
    }
}

impl<F: FnMut(Request<'_, '_>) -> Result<(), String> + Send> DirtyTracker for HostLog<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, ranges: &[Range]) -> Result<(), TrackError> {
        self.ask(Doing::Start, Request::Start(ranges))
    }

    fn extend(&mut self, range: Range) -> Result<Extended, TrackError> {
        self.ask(Doing::Extend(range), Request::Extend(range)).map(|()| Extended::Tracked)
    }

    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError> {
        self.ask(Doing::Read(range), Request::Read(range, marks))
    }

    fn stop(&mut self) -> Result<(), TrackError> {
        self.ask(Doing::Stop, Request::Stop)
    }
}
