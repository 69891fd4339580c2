// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages of a return path.

use arbitrary::Arbitrary;
use stream_codec::qemu::ReturnPathItem;

use super::{Block, whole};

/// Something on a return path.
#[derive(Arbitrary, Debug)]
pub enum ReturnPathPart<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    /// Type, length and data as they are.
    Message {
        kind: u8,
        length: u16,
        data: &'a [u8],
    },
    Shut(u32),
    Pong(u32),
    RequestPages {
        start: u64,
        length: u32,
        block: Option<Block<'a>>,
    },
    RecvBitmap(Block<'a>),
    /// A bitmap with its length or another.
    Bitmap {
        lie: Option<u64>,
        bytes: &'a [u8],
    },
    BitmapEnd,
    ResumeAck(u32),
    SwitchoverAck,
}

impl<'a> ReturnPathPart<'a> {
    /// Writes the part, or nothing if it cannot be written.
    pub fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Message { kind, length, data } => {
                out.extend_from_slice(&u16::from(*kind).to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(data);
            }
            Self::Bitmap { lie: Some(lie), bytes } => {
                let _ = ReturnPathItem::BitmapSize { bytes: *lie }.encode(out);
                out.extend_from_slice(bytes);
            }
            _ => self.items().iter().for_each(|item| {
                let _ = item.encode(out);
            }),
        }
    }

    /// The items the part is made of; none if it is not made of items.
    pub fn items(&self) -> Vec<ReturnPathItem<'a>> {
        match *self {
            Self::Raw(_) | Self::Message { .. } | Self::Bitmap { lie: Some(_), .. } => Vec::new(),
            Self::Shut(status) => vec![ReturnPathItem::Shut { status }],
            Self::Pong(value) => vec![ReturnPathItem::Pong { value }],
            Self::RequestPages { start, length, block } => {
                vec![ReturnPathItem::RequestPages { start, length, block: block.map(Block::text) }]
            }
            Self::RecvBitmap(block) => vec![ReturnPathItem::RecvBitmap { block: block.text() }],
            Self::Bitmap { bytes: &[], .. } => vec![ReturnPathItem::BitmapSize { bytes: 0 }],
            Self::Bitmap { bytes, .. } => {
                let size = ReturnPathItem::BitmapSize { bytes: bytes.len() as u64 };
                vec![size, ReturnPathItem::BitmapBytes(whole(bytes))]
            }
            Self::BitmapEnd => vec![ReturnPathItem::BitmapEnd],
            Self::ResumeAck(value) => vec![ReturnPathItem::ResumeAck { value }],
            Self::SwitchoverAck => vec![ReturnPathItem::SwitchoverAck],
        }
    }
}
