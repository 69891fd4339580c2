// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's memory: what frames say goes where they say, if there is such a place.

use alloc::format;

use stream_codec::frame::{Content, Pages, Record};

use super::memory::GuestMemory;
use crate::error::Cause;

/// Memory to be filled.
#[derive(Clone, Copy)]
pub(crate) struct Sink<'a>(pub(crate) &'a dyn GuestMemory);

impl Sink<'_> {
    /// Writes what a frame has.
    pub(crate) fn write(self, payload: &[u8]) -> Result<(), Cause> {
        for record in Pages::new(payload) {
            self.put(&record.map_err(|error| Cause::refused(format!("{error}")))?)?;
        }
        Ok(())
    }

    fn put(self, record: &Record<'_>) -> Result<(), Cause> {
        let Record { region, offset, content } = *record;
        let region = usize::from(region);
        let length = content.length();
        let known = self.0.regions().regions().get(region);
        let end = offset.checked_add(length);
        if known.zip(end).is_none_or(|(known, end)| end > known.bytes) {
            let what = known.map_or_else(|| format!("region {region}"), |known| known.name.clone());
            return Err(Cause::refused(format!(
                "the source sends {length} bytes of guest memory for offset {offset:#x} of {what}, where there is none"
            )));
        }
        match content {
            Content::Bytes(bytes) => self.0.write(region, offset, bytes)?,
            Content::Zeros(_) => self.0.zero(region, offset, length)?,
        }
        Ok(())
    }
}
