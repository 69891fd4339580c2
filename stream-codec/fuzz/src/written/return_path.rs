// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A whole return path.

use arbitrary::Arbitrary;
use stream_codec::qemu::ReturnPathItem;

use super::{Written, name};
use crate::check::describe_return_path;
use crate::parts::whole;

#[derive(Arbitrary, Debug)]
pub struct ReturnPath<'a> {
    messages: Vec<Message<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Message<'a> {
    Shut(u32),
    Pong(u32),
    RequestPages { start: u64, length: u32, block: Option<&'a str> },
    Bitmap { block: &'a str, bytes: &'a [u8] },
    ResumeAck(u32),
    SwitchoverAck,
}

impl ReturnPath<'_> {
    pub fn write(&self) -> Written {
        let mut written = Written::default();
        let mut put = |item: ReturnPathItem<'_>| written.push(describe_return_path(&item).0, |out| item.encode(out));
        for message in &self.messages {
            match message {
                Message::Shut(status) => put(ReturnPathItem::Shut { status: *status }),
                Message::Pong(value) => put(ReturnPathItem::Pong { value: *value }),
                Message::ResumeAck(value) => put(ReturnPathItem::ResumeAck { value: *value }),
                Message::SwitchoverAck => put(ReturnPathItem::SwitchoverAck),
                Message::RequestPages { start, length, block } => {
                    let block = block.map(name);
                    put(ReturnPathItem::RequestPages { start: *start, length: *length, block: block.as_deref() });
                }
                Message::Bitmap { block, bytes } => {
                    put(ReturnPathItem::RecvBitmap { block: &name(block) });
                    put(ReturnPathItem::BitmapSize { bytes: bytes.len() as u64 });
                    if !bytes.is_empty() {
                        put(ReturnPathItem::BitmapBytes(whole(bytes)));
                    }
                    put(ReturnPathItem::BitmapEnd);
                }
            }
        }
        written
    }
}
