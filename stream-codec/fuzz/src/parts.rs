// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of streams, made of arbitrary input: mostly well-formed each, in an order and with lengths that need not be.

mod main;
mod multifd;
mod ram;
mod return_path;
mod vfio;

pub use self::main::{CommandPart, Kind, MainPart, Name, header};
pub use self::multifd::MultifdPart;
pub use self::ram::{Block, RamPart};
pub use self::return_path::ReturnPathPart;
pub use self::vfio::{Config, PciParts, VfioPart};

use stream_codec::qemu::Piece;

/// A payload in one piece.
pub const fn whole(bytes: &[u8]) -> Piece<'_> {
    Piece { position: 0, length: bytes.len() as u64, bytes }
}

/// The start of `text` that has at most `bytes_max` bytes.
pub fn clipped(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.map_or("", |end| &text[..end])
}
