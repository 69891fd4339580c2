// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device state in a file of the native format, changed as if the source's driver had yielded something else: counts and
//! digests fit the change, so that nothing but a look at the stream itself can find it.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

use savevm_core::digest::Digest;
use stream_codec::frame::io::{Frame, FrameReader, FrameWriter};
use stream_codec::frame::{self, DeviceEnd, Limits, Message};

use super::check::{Checked, ensure, failed, must};

/// What is different.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// The highest bit of this byte.
    Flipped(u64),
    /// Only so many bytes are there.
    Cut(u64),
}

/// Copies the file of a single device with a change. Gives the number of bytes the state had before.
pub(super) fn copy(from: &Path, to: &Path, change: Change) -> Checked<u64> {
    let limits = Limits { data_bytes: 1 << 20, ..Limits::DEFAULT };
    let mut reader = FrameReader::new(BufReader::new(must("open the state", File::open(from))?), limits);
    let mut writer = FrameWriter::new(must("create the changed state", File::create(to))?, limits);
    let mut copied = Copied::default();
    while let Some(received) = must("read the state", reader.read_frame())? {
        match received.frame {
            Frame::Data { device, payload, .. } => copied.data(&mut writer, device, payload, change)?,
            Frame::Control(Message::DeviceEnd(end)) => {
                let end = copied.end(end.device)?;
                must("write the end", writer.write_control(&end))?;
            }
            Frame::Control(message) => must("write the changed state", writer.write_control(&message))?,
            _ => return Err(failed("the state has a frame that is not known")),
        }
    }
    must("write the changed state", writer.flush())?;
    ensure(copied.is_changed, || format!("a state of {} bytes cannot be changed so: {change:?}", copied.read_bytes))?;
    Ok(copied.read_bytes)
}

#[derive(Default)]
struct Copied {
    read_bytes: u64,
    frames: u64,
    digest: Digest,
    is_changed: bool,
}

impl Copied {
    fn data<W: Write>(&mut self, writer: &mut FrameWriter<W>, device: u32, payload: &[u8], change: Change) -> Checked {
        let begin = self.read_bytes;
        let mut bytes = payload.to_vec();
        self.read_bytes = begin.saturating_add(u64::try_from(payload.len()).unwrap_or(u64::MAX));
        match change {
            Change::Flipped(offset) => {
                let at = offset.checked_sub(begin).and_then(|at| usize::try_from(at).ok());
                if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
                    *byte ^= 0x80;
                    self.is_changed = true;
                }
            }
            Change::Cut(length) => {
                let left = usize::try_from(length.saturating_sub(begin)).unwrap_or(usize::MAX);
                self.is_changed |= left < bytes.len();
                bytes.truncate(left);
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        must("write the changed state", writer.write_data(device, self.frames, &bytes))?;
        self.digest.update(&bytes);
        self.frames = self.frames.saturating_add(1);
        Ok(())
    }

    fn end(&self, device: u32) -> Checked<Message<'static>> {
        let sum = self.digest.sum();
        let digest = frame::Digest::crc64_nvme(sum.crc64_nvme);
        Ok(Message::DeviceEnd(DeviceEnd { device, frames: self.frames, bytes: sum.bytes, digest }))
    }
}
