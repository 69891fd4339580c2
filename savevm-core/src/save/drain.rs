// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One chunk from a device into the stream, and all chunks of stopped devices to their end.

use std::io::{Read, Write};
use std::vec::Vec;

use vfio_mig_fsm::State;

use super::set::SourceSet;
use crate::device::{self, Call, Device, DeviceError};
use crate::error::Cause;
use crate::hooks::Hooks;
use crate::link::Link;

/// What came of asking a device for a chunk.
pub(super) enum Chunk {
    /// This many bytes went out.
    Sent(u64),
    /// Nothing for now.
    Drained,
    /// Nothing will follow.
    End,
}

impl<D: Device, H: Hooks + ?Sized> SourceSet<'_, D, H> {
    /// Moves one chunk of one device.
    pub(super) fn send_chunk<T: Read + Write>(
        &mut self,
        link: &mut Link<T>,
        index: usize,
        buffer: &mut [u8],
    ) -> Result<Chunk, Cause> {
        let (Some(device), Some(progress)) = (self.devices.get_mut(index), self.progress.get_mut(index)) else {
            return Ok(Chunk::End);
        };
        let length = match device.read(buffer)? {
            device::Read::Bytes(length) => length,
            device::Read::Drained => return Ok(Chunk::Drained),
            device::Read::End => return Ok(Chunk::End),
        };
        let bytes = buffer.get(..length).filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
            let detail = std::format!("it claims {length} bytes in a buffer of {}", buffer.len());
            DeviceError::contract(device.name(), Call::Read, detail)
        })?;
        progress.digest.update(bytes);
        let total = progress.digest.sum().bytes;
        if total > link.limits().state_bytes_max {
            return Err(Cause::TooLarge { device: device.name().into(), limit: link.limits().state_bytes_max });
        }
        let bytes = progress.watched.data(self.phase, bytes).map_err(Cause::tap(device.name()))?;
        link.send_data(index, progress.sequence, bytes)?;
        progress.sequence = progress.sequence.saturating_add(1);
        if self.stopped_at.is_none() {
            progress.precopy_bytes = total;
        }
        self.hooks.progress(index, total);
        Ok(Chunk::Sent(u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
    }

    /// Reads every stopped device to its end, in turns, and closes each one's stream with its count and digest.
    pub(super) fn drain<T: Read + Write>(&mut self, link: &mut Link<T>, buffer: &mut [u8]) -> Result<(), Cause> {
        let mut open: Vec<usize> = (0..self.devices.len()).collect();
        while !open.is_empty() {
            let mut more = Vec::with_capacity(open.len());
            for index in open {
                self.check_cancel()?;
                match self.send_chunk(link, index, buffer)? {
                    Chunk::Sent(_) => more.push(index),
                    Chunk::End => self.end(link, index)?,
                    Chunk::Drained => {
                        let detail = "it says there is more to come, in STOP_COPY, where nothing can change";
                        return Err(
                            DeviceError::contract(&self.name(index), Call::SetState(State::StopCopy), detail).into()
                        );
                    }
                }
            }
            open = more;
        }
        Ok(())
    }

    fn end<T: Read + Write>(&mut self, link: &mut Link<T>, index: usize) -> Result<(), Cause> {
        let name = self.name(index);
        let Some(progress) = self.progress.get_mut(index) else { return Ok(()) };
        progress.watched.end().map_err(Cause::tap(&name))?;
        Ok(link.send_end(index, progress.sequence, progress.digest.sum())?)
    }
}
