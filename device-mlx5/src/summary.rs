// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a stream was.

use core::fmt;

use crate::form::Form;
use crate::image::Image;
use crate::record::Record;

/// Counts of what was read, of constant size however long the stream is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// What the first record tells; `None` before it.
    pub form: Option<Form>,
    /// What STOP_COPY_SIZE says, in bytes.
    pub stop_copy_size: Option<u64>,
    /// How many images were complete.
    pub images: u64,
    /// Their bytes, without headers.
    pub image_bytes: u64,
    /// The largest image in bytes.
    pub largest_image_bytes: u64,
    /// How many of the images were empty.
    pub empty_images: u64,
    /// How many optional records with unknown tags were skipped.
    pub skipped_records: u64,
    /// Their bytes, without headers.
    pub skipped_bytes: u64,
    /// All flags of all records that have no known meaning.
    pub unknown_flags: u32,
}

impl Summary {
    pub(crate) const fn new() -> Self {
        Self {
            form: None,
            stop_copy_size: None,
            images: 0,
            image_bytes: 0,
            largest_image_bytes: 0,
            empty_images: 0,
            skipped_records: 0,
            skipped_bytes: 0,
            unknown_flags: 0,
        }
    }

    pub(crate) fn start(&mut self, record: &Record) {
        self.form.get_or_insert_with(|| Form::of(&record.header.encode()));
        self.unknown_flags |= record.header.unknown_flags();
    }

    pub(crate) fn end_image(&mut self, image: &Image) {
        let bytes = image.bytes();
        self.images = self.images.saturating_add(1);
        self.image_bytes = self.image_bytes.saturating_add(bytes);
        self.largest_image_bytes = self.largest_image_bytes.max(bytes);
        self.empty_images = self.empty_images.saturating_add(u64::from(bytes == 0));
    }

    pub(crate) fn skip(&mut self, record: &Record) {
        self.skipped_records = self.skipped_records.saturating_add(1);
        self.skipped_bytes = self.skipped_bytes.saturating_add(record.header.record_bytes);
    }

    /// What is unusual, but no reason to refuse the stream.
    pub fn remarks(&self) -> impl Iterator<Item = Remark> {
        let size = self.stop_copy_size;
        let remarks = [
            (self.form == Some(Form::WithoutSize)).then_some(Remark::NoStopCopySize),
            size.filter(|bytes| *bytes > u64::from(u32::MAX)).map(|bytes| Remark::StopCopySizeClamped { bytes }),
            size.filter(|bytes| bytes.trailing_zeros() < 12).map(|bytes| Remark::StopCopySizeNotPages { bytes }),
            size.filter(|bytes| *bytes < self.largest_image_bytes)
                .map(|bytes| Remark::ImageAboveStopCopySize { bytes, image_bytes: self.largest_image_bytes }),
            (self.empty_images > 0).then_some(Remark::EmptyImages { count: self.empty_images }),
            (self.skipped_records > 0).then_some(Remark::Skipped { count: self.skipped_records }),
            (self.unknown_flags != 0).then_some(Remark::UnknownFlags { flags: self.unknown_flags }),
        ];
        remarks.into_iter().flatten()
    }
}

/// Something unusual that the kernel accepts.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Remark {
    /// The stream does not start with STOP_COPY_SIZE: kernel 6.2 wrote it.
    NoStopCopySize,
    /// STOP_COPY_SIZE is above 4 GiB; the kernel takes 0xffffffff instead.
    StopCopySizeClamped {
        /// What it says.
        bytes: u64,
    },
    /// STOP_COPY_SIZE is no multiple of 4 KiB, the smallest page there is.
    StopCopySizeNotPages {
        /// What it says.
        bytes: u64,
    },
    /// An image is larger than STOP_COPY_SIZE announced. The target allocates anew.
    ImageAboveStopCopySize {
        /// What STOP_COPY_SIZE says.
        bytes: u64,
        /// The largest image.
        image_bytes: u64,
    },
    /// There were images without content. The kernel hands them to the firmware, unless they come last.
    EmptyImages {
        /// How many.
        count: u64,
    },
    /// Records were skipped that this crate does not know.
    Skipped {
        /// How many.
        count: u64,
    },
    /// Flags without known meaning were set. The kernel ignores them.
    UnknownFlags {
        /// All of them.
        flags: u32,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStopCopySize => formatter.write_str("no STOP_COPY_SIZE record comes first"),
            Self::StopCopySizeClamped { bytes } => {
                write!(formatter, "STOP_COPY_SIZE is {bytes}, of which the kernel takes 4294967295")
            }
            Self::StopCopySizeNotPages { bytes } => write!(formatter, "STOP_COPY_SIZE is {bytes}, no whole pages"),
            Self::ImageAboveStopCopySize { bytes, image_bytes } => {
                write!(formatter, "an image of {image_bytes} bytes, STOP_COPY_SIZE announced {bytes}")
            }
            Self::EmptyImages { count } => write!(formatter, "{count} empty images"),
            Self::Skipped { count } => write!(formatter, "{count} optional records of unknown kind"),
            Self::UnknownFlags { flags } => write!(formatter, "unknown flags {flags:#x}"),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Some(form) => writeln!(formatter, "mlx5 device state, {form}")?,
            None => writeln!(formatter, "mlx5 device state, nothing read")?,
        }
        if let Some(bytes) = self.stop_copy_size {
            writeln!(formatter, "stop-copy size  {bytes} bytes")?;
        }
        writeln!(
            formatter,
            "images          {}, {} bytes, the largest {} bytes",
            self.images, self.image_bytes, self.largest_image_bytes
        )?;
        self.remarks().try_for_each(|remark| writeln!(formatter, "remark          {remark}"))
    }
}
