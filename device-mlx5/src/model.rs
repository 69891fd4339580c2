// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel's resuming side does with a sequence of writes: for simulated devices, and to show what it lets pass.
//!
//! The rules are those of Linux 6.12.117 and 7.3.4: images load inside the `write` that brings their last byte, an error
//! ends the session, memory is pinned by a header alone, and **the end of RESUMING checks nothing**.
//!
//! ```
//! use device_mlx5::model::Resuming;
//! use device_mlx5::record::Header;
//!
//! let mut session = Resuming::new(1 << 30);
//! // 16 bytes pin half a GiB, and nothing complains that no image follows.
//! session.write(&Header { record_bytes: 1 << 29, flags: 0, tag: 0 }.encode())?;
//! assert_eq!((session.pinned_bytes(), session.images()), (1 << 29, 0));
//! # Ok::<(), device_mlx5::model::Refusal>(())
//! ```

use stream_codec::decode::Accumulator;
use thiserror::Error;

use crate::record::{HEADER_BYTES, Header};
use crate::{FORMAT, TAG_FW_DATA, TAG_STOP_COPY_SIZE};

/// A resuming session.
#[derive(Clone, Debug)]
pub struct Resuming {
    /// Memory the kernel can get, in bytes.
    memory_bytes: u64,
    /// Size of the image buffer, which only grows.
    image_buffer_bytes: u64,
    /// Size of the buffer for other records, which only grows too.
    header_buffer_bytes: u64,
    /// What STOP_COPY_SIZE said, clamped.
    stop_copy_size: u64,
    /// The beginning of the current STOP_COPY_SIZE payload. It starts with what the header left there.
    header_data: [u8; 8],
    images: u64,
    image_bytes: u64,
    header: Accumulator<HEADER_BYTES>,
    payload: Option<Payload>,
    is_dead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    header: Header,
    seen: u64,
}

/// What the kernel refuses, and with which errno. Each ends the session.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// ENODEV: an earlier write failed, or the session is over.
    #[error("ENODEV: the resuming session is over")]
    Over,
    /// ENOMEM: a record above 4 GiB, or no memory for one below.
    #[error("ENOMEM: no memory for a record of {record_bytes} bytes")]
    NoMemory {
        /// Its payload in bytes.
        record_bytes: u64,
    },
    /// EOPNOTSUPP: a record with an unknown tag that is not optional.
    #[error("EOPNOTSUPP: unknown tag {tag:#x}")]
    UnknownTag {
        /// The tag.
        tag: u32,
    },
    /// EINVAL: an empty image, and no buffer exists to tell the firmware about.
    #[error("EINVAL: an empty image before any other")]
    EmptyImage,
    /// What the kernel makes of the firmware's status when it refuses an image.
    #[error("errno {errno}: the firmware refuses an image")]
    Firmware {
        /// The errno, positive.
        errno: i32,
    },
}

/// The firmware of a simulated device, which is given what arrives.
pub trait Firmware {
    /// Bytes of the current image, of `image_bytes` in all, from `offset` on. They come in order.
    fn data(&mut self, image_bytes: u64, offset: u64, data: &[u8]);

    /// The image is complete. The kernel tells the firmware its size.
    ///
    /// # Errors
    /// The errno that the kernel makes of the firmware's status, positive.
    fn load(&mut self, image_bytes: u64) -> Result<(), i32>;
}

/// A firmware that loads anything.
impl Firmware for () {
    fn data(&mut self, _image_bytes: u64, _offset: u64, _data: &[u8]) {}

    fn load(&mut self, _image_bytes: u64) -> Result<(), i32> {
        Ok(())
    }
}

impl Refusal {
    /// The errno as the kernel returns it: positive, Linux on x86-64 and arm64.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NoMemory { .. } => 12,
            Self::Over => 19,
            Self::EmptyImage => 22,
            Self::UnknownTag { .. } => 95,
            Self::Firmware { errno } => errno,
        }
    }
}

impl Resuming {
    /// Enters RESUMING on a machine that can pin this much memory.
    #[must_use]
    pub const fn new(memory_bytes: u64) -> Self {
        Self {
            memory_bytes,
            image_buffer_bytes: 0,
            header_buffer_bytes: 0,
            stop_copy_size: 0,
            header_data: [0; 8],
            images: 0,
            image_bytes: 0,
            header: Accumulator::new(),
            payload: None,
            is_dead: false,
        }
    }

    /// How many images the firmware was given.
    #[must_use]
    pub const fn images(&self) -> u64 {
        self.images
    }

    /// Their bytes.
    #[must_use]
    pub const fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Memory the kernel holds for this session, in bytes, without rounding to pages.
    #[must_use]
    pub const fn pinned_bytes(&self) -> u64 {
        self.image_buffer_bytes.saturating_add(self.header_buffer_bytes)
    }

    /// RESUMING → STOP. It succeeds whatever was written, or not written, or refused; writes fail from then on.
    pub const fn stop(&mut self) {
        self.is_dead = true;
    }

    /// `write` on the data fd. A refusal hides that a part of the input may have been used.
    ///
    /// # Errors
    /// Any [`Refusal`]; from then on [`Refusal::Over`].
    pub fn write(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        self.write_to(input, &mut ())
    }

    /// The same, with a firmware that has a say.
    ///
    /// # Errors
    /// Any [`Refusal`]; from then on [`Refusal::Over`].
    pub fn write_to(&mut self, input: &[u8], firmware: &mut impl Firmware) -> Result<usize, Refusal> {
        if self.is_dead {
            return Err(Refusal::Over);
        }
        let mut rest = input;
        // A payload of no bytes is completed by the next byte, so never at the end of the stream.
        while !rest.is_empty() {
            let used = match self.payload {
                None => self.read_header(rest),
                Some(payload) => self.read_payload(payload, rest, firmware),
            };
            let used = used.inspect_err(|_| self.is_dead = true)?;
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(input.len())
    }

    fn read_header(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let used = self.header.fill(input);
        let Some(bytes) = self.header.take() else { return Ok(used) };
        let header = Header::decode(&bytes);
        let Header { record_bytes, tag, .. } = header;
        if record_bytes > FORMAT.record_bytes_max {
            return Err(Refusal::NoMemory { record_bytes });
        }
        if FORMAT.tag_name(tag).is_none() && !header.is_optional() {
            return Err(Refusal::UnknownTag { tag });
        }
        if tag == TAG_FW_DATA {
            let wanted = record_bytes.max(self.stop_copy_size);
            self.image_buffer_bytes = self.grow(self.image_buffer_bytes, wanted)?;
        } else {
            self.header_buffer_bytes = self.grow(self.header_buffer_bytes, record_bytes)?;
        }
        self.header_data = record_bytes.to_le_bytes();
        self.payload = Some(Payload { header, seen: 0 });
        Ok(used)
    }

    fn read_payload(&mut self, payload: Payload, input: &[u8], firmware: &mut impl Firmware) -> Result<usize, Refusal> {
        let Payload { header, seen } = payload;
        let missing = usize::try_from(header.record_bytes.saturating_sub(seen)).unwrap_or(usize::MAX);
        let bytes = input.get(..missing).unwrap_or(input);
        if header.tag == TAG_FW_DATA {
            firmware.data(header.record_bytes, seen, bytes);
        }
        let start = usize::try_from(seen).unwrap_or(usize::MAX);
        let slots = self.header_data.iter_mut().skip(start);
        slots.zip(bytes).for_each(|(slot, byte)| *slot = *byte);

        let seen = seen.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let is_complete = seen == header.record_bytes;
        self.payload = (!is_complete).then_some(Payload { header, seen });
        match header.tag {
            TAG_FW_DATA if is_complete => self.load(header.record_bytes, firmware)?,
            TAG_STOP_COPY_SIZE if is_complete => {
                self.stop_copy_size = u64::from_le_bytes(self.header_data).min(FORMAT.record_bytes_max);
            }
            _ => {}
        }
        Ok(bytes.len())
    }

    fn load(&mut self, bytes: u64, firmware: &mut impl Firmware) -> Result<(), Refusal> {
        if bytes == 0 && self.image_buffer_bytes == 0 {
            return Err(Refusal::EmptyImage);
        }
        firmware.load(bytes).map_err(|errno| Refusal::Firmware { errno })?;
        self.images = self.images.saturating_add(1);
        self.image_bytes = self.image_bytes.saturating_add(bytes);
        Ok(())
    }

    /// The size of a buffer of `have` bytes once it holds `wanted`.
    const fn grow(&self, have: u64, wanted: u64) -> Result<u64, Refusal> {
        if wanted <= have {
            Ok(have)
        } else if wanted > self.memory_bytes {
            Err(Refusal::NoMemory { record_bytes: wanted })
        } else {
            Ok(wanted)
        }
    }
}
