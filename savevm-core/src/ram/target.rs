// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's memory: what frames say goes where they say, if there is such a place.

use alloc::format;
#[cfg(unix)]
use std::os::fd::BorrowedFd;

use stream_codec::frame::{Content, Pages, Record};

#[cfg(unix)]
use super::error::{Access, MemoryError};
use super::memory::GuestMemory;
use crate::error::Cause;

/// Memory to be filled.
#[derive(Clone, Copy)]
pub(crate) struct Sink<'a>(pub(crate) &'a dyn GuestMemory);

impl<'a> Sink<'a> {
    /// Writes what a frame has.
    pub(crate) fn write(self, payload: &[u8]) -> Result<(), Cause> {
        for record in Pages::new(payload) {
            self.put(&record.map_err(|error| Cause::refused(format!("{error}")))?)?;
        }
        Ok(())
    }

    fn put(self, record: &Record<'_>) -> Result<(), Cause> {
        let Record { region, offset, content } = *record;
        let region = self.region(region, offset, content.length())?;
        match content {
            Content::Bytes(bytes) => self.bytes(region, offset, bytes),
            Content::Zeros(length) => self.zero(region, offset, length.into()),
        }
    }

    /// The place of a region among those of this side, if it has these bytes.
    pub(crate) fn region(self, region: u16, offset: u64, length: u64) -> Result<usize, Cause> {
        let region = usize::from(region);
        let known = self.0.regions().regions().get(region);
        let end = offset.checked_add(length);
        if known.zip(end).is_none_or(|(known, end)| end > known.bytes) {
            let what = known.map_or_else(|| format!("region {region}"), |known| known.name.clone());
            return Err(Cause::refused(format!(
                "the source sends {length} bytes of guest memory for offset {offset:#x} of {what}, where there is none"
            )));
        }
        Ok(region)
    }

    pub(crate) fn bytes(self, region: usize, offset: u64, bytes: &[u8]) -> Result<(), Cause> {
        Ok(self.0.write(region, offset, bytes)?)
    }

    pub(crate) fn zero(self, region: usize, offset: u64, length: u64) -> Result<(), Cause> {
        Ok(self.0.zero(region, offset, length)?)
    }

    /// Whether any of it is a file.
    #[cfg(unix)]
    pub(crate) fn has_files(self) -> bool {
        (0..self.0.regions().regions().len()).any(|region| self.0.as_file(region).is_some())
    }

    /// The file that a region is.
    #[cfg(unix)]
    pub(crate) fn file(self, region: usize) -> Option<BorrowedFd<'a>> {
        self.0.as_file(region)
    }

    /// What became of writing to that file.
    #[cfg(unix)]
    pub(crate) fn failed(self, region: usize, offset: u64, length: usize, error: &std::io::Error) -> Cause {
        let name = self.0.regions().regions().get(region).map_or("", |region| region.name.as_str());
        let extent = (offset, u64::try_from(length).unwrap_or(u64::MAX));
        MemoryError::new(name, Access::Write, extent, error.raw_os_error(), format!("{error}")).into()
    }
}

#[cfg(test)]
mod test {
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use std::sync::Mutex;

    use stream_codec::frame::PagesWriter;

    use super::super::error::MemoryError;
    use super::*;
    use crate::dirty::{Region, RegionTable};

    /// Two regions of two pages that note what is done to them.
    struct Noted(RegionTable, Mutex<Vec<(usize, u64, usize)>>);

    impl Noted {
        fn new() -> Self {
            let region = |name: &str| Region { name: name.into(), bytes: 8192, page_bytes: 4096 };
            Self(RegionTable::new(Vec::from([region("a"), region("b")]), 2).unwrap(), Mutex::default())
        }
    }

    impl GuestMemory for Noted {
        fn regions(&self) -> &RegionTable {
            &self.0
        }

        fn read(&self, _: usize, _: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
            buffer.fill(7);
            Ok(())
        }

        fn write(&self, region: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
            self.1.lock().unwrap().push((region, offset, bytes.len()));
            Ok(())
        }
    }

    /// What becomes of one record of this length.
    fn written(region: u16, offset: u64, content: &[u8]) -> Result<Vec<(usize, u64, usize)>, String> {
        let mut buffer = [0; 20_000];
        let mut writer = PagesWriter::new(&mut buffer);
        writer.space(region, offset, content.len()).unwrap().copy_from_slice(content);
        assert!(writer.push(region, offset, content.len()));
        let filled = writer.filled_len();
        let memory = Noted::new();
        let result = Sink(&memory).write(&buffer[..filled]);
        let done = memory.1.into_inner().unwrap();
        match result {
            Ok(()) => Ok(done),
            Err(cause) => {
                let is_inside =
                    |(region, offset, length): &(usize, u64, usize)| *region < 2 && offset + *length as u64 <= 8192;
                assert!(done.iter().all(is_inside), "{done:?} was written before {cause}");
                Err(cause.to_string())
            }
        }
    }

    #[test]
    fn a_record_goes_where_there_is_memory_or_nowhere() {
        assert_eq!(written(1, 4000, &[1; 4192]), Ok(Vec::from([(1, 4000, 4192)])));
        for (region, offset, length) in [(0, 4001, 4192), (0, 8192, 1), (1, u64::MAX - 5, 5), (2, 0, 1)] {
            for content in [[1_u8; 8192], [0; 8192]] {
                let refused = written(region, offset, &content[..length]).unwrap_err();
                assert!(refused.contains("where there is none"), "{refused}");
            }
        }
    }

    #[test]
    fn zeros_go_over_what_is_not_zero() {
        assert_eq!(written(0, 0, &[0; 8192]), Ok(Vec::from([(0, 0, 4096), (0, 4096, 4096)])));
    }

    #[test]
    fn what_is_no_row_of_records_is_refused() {
        let memory = Noted::new();
        let refused = Sink(&memory).write(b"device state").unwrap_err().to_string();
        assert!(refused.contains("cut off"), "{refused}");
    }
}
