// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that nothing tracks.

use alloc::format;
use alloc::string::String;

use super::marks::Marks;
use super::range::Range;
use super::tracker::{DirtyTracker, Extended, TrackError};

/// "Everything is dirty, copied while stopped": what a device that nothing tracks needs, by explicit request of the caller
/// ([`choose`](super::choose)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllDirty {
    name: String,
}

impl AllDirty {
    /// Of the device with this name.
    #[must_use]
    pub fn new(device: &str) -> Self {
        Self { name: format!("{device} (untracked, everything counts as dirty)") }
    }
}

impl DirtyTracker for AllDirty {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, _: &[Range]) -> Result<(), TrackError> {
        Ok(())
    }

    fn extend(&mut self, _: Range) -> Result<Extended, TrackError> {
        Ok(Extended::Tracked)
    }

    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError> {
        marks.range(range);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), TrackError> {
        Ok(())
    }
}
