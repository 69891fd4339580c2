// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The checks of streams made of records: mlx5's and virtio's.
//!
//! They may be gigabytes long, so nothing is held back. The drivers leave RESUMING after any truncated stream; here one must
//! end with a record, and with one that was begun in STOP_COPY: both drivers save a last image there, whatever came before.

use device_mlx5::record::{Error, RecordDecoder, RecordEvent, VIRTIO};
use device_mlx5::{Event, Limits, Part, StreamDecoder};
use savevm_core::Phase;
use savevm_core::tap::{Refusal, Tap, TapError};
use stream_codec::decode::Decoder;

/// Looks at the stream of a ConnectX VF.
#[derive(Clone, Debug)]
pub(crate) struct Mlx5Tap {
    decoder: StreamDecoder,
    has_final: bool,
}

impl Mlx5Tap {
    /// A record that would end beyond `stream_bytes_max` is refused at its header, before the kernel pins memory for it.
    pub(crate) const fn new(stream_bytes_max: u64) -> Self {
        Self { decoder: StreamDecoder::new(limits(stream_bytes_max)), has_final: false }
    }
}

impl Tap for Mlx5Tap {
    fn data(&mut self, phase: Phase, bytes: &[u8]) -> Result<(), TapError> {
        let is_stopped = phase >= Phase::StopCopy;
        self.decoder.set_phase(if is_stopped { device_mlx5::Phase::StopCopy } else { device_mlx5::Phase::PreCopy });
        let mut rest = bytes;
        loop {
            let step = self.decoder.decode(rest).map_err(|error| refused(&error))?;
            rest = rest.get(step.consumed..).unwrap_or_default();
            match step.event {
                Some(Event::ImageStart(image)) => self.has_final |= image.part == Part::Final,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    fn end(&mut self) -> Result<(), TapError> {
        self.decoder.finish().map_err(|error| refused(&error))?;
        expect_final(self.has_final, self.decoder.offset())
    }
}

/// Looks at the stream of a virtio VF.
#[derive(Clone, Debug)]
pub(crate) struct VirtioTap {
    decoder: RecordDecoder,
    /// Where STOP_COPY began, once it has.
    stopped_at: Option<u64>,
    has_final: bool,
}

impl VirtioTap {
    /// As [`Mlx5Tap::new`].
    pub(crate) const fn new(stream_bytes_max: u64) -> Self {
        let decoder = RecordDecoder::new(VIRTIO, limits(stream_bytes_max));
        Self { decoder, stopped_at: None, has_final: false }
    }
}

impl Tap for VirtioTap {
    fn data(&mut self, phase: Phase, bytes: &[u8]) -> Result<(), TapError> {
        if phase >= Phase::StopCopy {
            self.stopped_at.get_or_insert(self.decoder.offset());
        }
        let mut rest = bytes;
        loop {
            let step = self.decoder.step(rest).map_err(|error| refused(&error))?;
            rest = rest.get(step.consumed..).unwrap_or_default();
            match step.event {
                Some(RecordEvent::Start(record)) => {
                    self.has_final |= self.stopped_at.is_some_and(|stopped_at| record.offset >= stopped_at);
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    fn end(&mut self) -> Result<(), TapError> {
        self.decoder.finish().map_err(|error| refused(&error))?;
        expect_final(self.has_final, self.decoder.offset())
    }
}

const fn limits(stream_bytes_max: u64) -> Limits {
    Limits { record_bytes: stream_bytes_max, total_bytes: stream_bytes_max }
}

fn refused(error: &Error) -> TapError {
    TapError::from_decoder("a record", error)
}

/// mlx5.md section 2: the final part is 1 to n images. others.md, virtio: "final record at PRE_COPY_P2P→STOP_COPY".
fn expect_final(has_final: bool, offset: u64) -> Result<(), TapError> {
    let detail =
        "the stream ends without one that was begun in STOP_COPY, so it holds what the device was before it stopped";
    if has_final { Ok(()) } else { Err(TapError::new(Refusal::Incomplete, offset, "the final image", detail)) }
}
