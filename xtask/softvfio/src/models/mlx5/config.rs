// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of `model=mlx5`.

use core::time::Duration;

use savevm_core::sim::{ConfigError, DirtyLogging, Options};

use super::image::IMAGE_BYTES_MIN;
use crate::config::Kernel;

/// What a simulated VF is like. Sizes are those of images, in bytes, without the 16 of a record's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Config {
    /// The image that PRE_COPY begins with.
    pub(super) initial_bytes: u64,
    /// Most that gets dirty at a time.
    pub(super) dirty_bytes: u64,
    /// In bytes per second; `None`: all of it, once, when the initial image has been read.
    pub(super) dirty_rate: Option<u64>,
    pub(super) dirty_total_bytes: u64,
    /// The final image after PRE_COPY, on top of what is dirty.
    pub(super) stop_bytes: u64,
    /// The image without PRE_COPY.
    pub(super) full_bytes: u64,
    /// The largest piece of a final image; `None`: the firmware saves it whole.
    pub(super) chunk_bytes: Option<u64>,
    /// How long the firmware takes for an image.
    pub(super) save_time: Duration,
    /// The number of the image in PRE_COPY that the firmware cannot save, from 1.
    pub(super) precopy_error_at: Option<u64>,
    /// The number of queries after which the firmware wants a new initial phase.
    pub(super) reinit_after: Option<u64>,
    /// ENOMSG while an image is being saved (6.12), instead of waiting for it (7.3).
    pub(super) is_drained_early: bool,
    /// A query counts the header of the image that it starts (7.3).
    pub(super) counts_header: bool,
    /// Memory that a target can pin.
    pub(super) memory_bytes: u64,
    pub(super) logging: DirtyLogging,
    pub(super) seed: u64,
}

/// The kernel's limit of one image, less room for rounding up.
const IMAGE_BYTES_MAX: u64 = 0xffff_0000;

impl Config {
    pub(super) fn take(options: &mut Options, kernel: Kernel) -> Result<Self, ConfigError> {
        let initial_bytes = image(options, "initial")?.unwrap_or(1 << 20);
        let dirty_bytes = options.take_bytes("dirty")?.unwrap_or(1 << 20);
        let stop_bytes = image(options, "stop")?.unwrap_or(1 << 20);
        let full_bytes = options.take_bytes("full")?.unwrap_or(initial_bytes.saturating_add(stop_bytes));
        let chunk_bytes = options.take_bytes("chunk")?;
        let largest = full_bytes.max(stop_bytes.saturating_add(dirty_bytes));
        if full_bytes < IMAGE_BYTES_MIN {
            return Err(ConfigError::new(1, &format!("full={full_bytes}"), &format!("at least {IMAGE_BYTES_MIN}")));
        }
        if chunk_bytes.is_none() && largest > IMAGE_BYTES_MAX {
            let expected = format!("chunk=…, as no image can be larger than {IMAGE_BYTES_MAX}");
            return Err(ConfigError::new(1, &format!("an image of {largest} bytes"), &expected));
        }
        for (key, bytes) in [("dirty", Some(dirty_bytes)), ("chunk", chunk_bytes)] {
            let at_least = if key == "chunk" { 4096 } else { 0 };
            if bytes.is_some_and(|bytes| !(at_least..=IMAGE_BYTES_MAX).contains(&bytes)) {
                let expected = format!("{at_least} to {IMAGE_BYTES_MAX}");
                return Err(ConfigError::new(1, key, &expected));
            }
        }
        let from_1 = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
        let drained = options.take("drained", "early or blocking", |text| match text {
            "early" => Some(true),
            "blocking" => Some(false),
            _ => None,
        })?;
        let logging = options.take("dirty-log", "absent or exclusive", |text| match text {
            "absent" => Some(DirtyLogging::Absent),
            "exclusive" => Some(DirtyLogging::Exclusive),
            _ => None,
        })?;
        Ok(Self {
            initial_bytes,
            dirty_bytes,
            dirty_rate: options.take_rate("dirty-rate")?,
            dirty_total_bytes: options.take_bytes("dirty-total")?.unwrap_or(u64::MAX),
            stop_bytes,
            full_bytes,
            chunk_bytes,
            save_time: options.take_duration("save-ms")?.unwrap_or_default(),
            precopy_error_at: options.take("precopy-error", "the number of an image, from 1", from_1)?,
            reinit_after: options.take("reinit-after", "a number from 1", from_1)?,
            is_drained_early: drained.unwrap_or(!kernel.has_drivers_of_7),
            counts_header: kernel.has_drivers_of_7,
            memory_bytes: options.take_bytes("memory")?.unwrap_or(u64::MAX),
            logging: logging.unwrap_or(DirtyLogging::Exclusive),
            seed: options.take_number("seed")?.unwrap_or(0),
        })
    }

    /// mlx5.md section 2: the buffer that a target may need.
    pub(super) fn stop_copy_size(&self, is_tracking: bool) -> u64 {
        const PAGE_BYTES: u64 = 4096;
        let bytes = match self.chunk_bytes {
            Some(chunk) => chunk.max(self.full_bytes.min(8 << 20)),
            None if is_tracking => self.full_bytes.saturating_add(self.full_bytes / 10),
            None => self.full_bytes,
        };
        let limit = (1_u64 << 32).saturating_sub(PAGE_BYTES);
        bytes.min(limit).checked_next_multiple_of(PAGE_BYTES).unwrap_or(limit)
    }
}

fn image(options: &mut Options, key: &str) -> Result<Option<u64>, ConfigError> {
    let bytes = options.take_bytes(key)?;
    let fits = bytes.is_none_or(|bytes| (IMAGE_BYTES_MIN..=IMAGE_BYTES_MAX).contains(&bytes));
    let expected = format!("{IMAGE_BYTES_MIN} to {IMAGE_BYTES_MAX} bytes");
    if fits { Ok(bytes) } else { Err(ConfigError::new(1, key, &expected)) }
}
