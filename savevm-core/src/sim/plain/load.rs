// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The resuming side of a plain device: judges a stream of any length in constant memory.

use core::fmt;
use std::vec::Vec;

use crc_fast::{CrcAlgorithm, Digest};

use super::super::{Errno, Failure};
use super::content::{self, HEADER_BYTES, Trailer};
use super::registers::State as DeviceState;

/// One resuming session.
pub(super) struct Load {
    sticky_errors: bool,
    has_dma: bool,
    bytes: u64,
    header: Vec<u8>,
    header_judged: bool,
    /// Over all bytes but the last ones, which may be the trailer.
    digest: Digest,
    /// The last bytes, at most as many as a trailer has.
    last: Vec<u8>,
}

/// A stream found good.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) bytes: u64,
    pub(super) digest: u64,
    pub(super) device: DeviceState,
}

impl Load {
    pub(super) fn new(sticky_errors: bool, has_dma: bool) -> Self {
        Self {
            sticky_errors,
            has_dma,
            bytes: 0,
            header: Vec::with_capacity(HEADER_BYTES),
            header_judged: false,
            digest: Digest::new(CrcAlgorithm::Crc64Nvme),
            last: Vec::with_capacity(content::trailer_bytes(has_dma)),
        }
    }

    /// Takes `data`; `EINVAL` from the write that completes a header which is not ours.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        let missing = HEADER_BYTES.saturating_sub(self.header.len());
        self.header.extend(data.iter().take(missing));
        self.slide(data);
        if self.header.len() == HEADER_BYTES && !self.header_judged {
            self.header_judged = true;
            if self.seed().is_none() {
                return Err(Failure { errno: Errno::EINVAL, session_dead: self.sticky_errors });
            }
        }
        Ok(())
    }

    /// Keeps the last bytes and digests those that are pushed out.
    fn slide(&mut self, data: &[u8]) {
        let trailer_bytes = content::trailer_bytes(self.has_dma);
        let kept_from_data = data.len().min(trailer_bytes);
        let (out, kept) = data.split_at(data.len().saturating_sub(kept_from_data));
        let room = trailer_bytes.saturating_sub(kept_from_data);
        let leaving = self.last.len().saturating_sub(room);
        self.digest.update(self.last.get(..leaving).unwrap_or_default());
        self.last.drain(..leaving);
        self.digest.update(out);
        self.last.extend_from_slice(kept);
    }

    fn seed(&self) -> Option<u64> {
        self.header.as_slice().try_into().ok().and_then(|header| content::parse_header(header, self.has_dma))
    }

    /// What the stream says, if it is whole and undamaged.
    pub(super) fn finish(&self) -> Option<Loaded> {
        let seed = self.seed()?;
        let Trailer { total_bytes, digest, device } = Trailer::decode(&self.last)?;
        let whole = total_bytes == self.bytes && digest == self.digest.finalize() && device.seed == seed;
        whole.then_some(Loaded { bytes: total_bytes, digest, device })
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
