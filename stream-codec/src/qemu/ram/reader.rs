// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads the records of RAM sections.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::{
    CONTINUE, ENCODING_XBZRLE, EOS, MEM_SIZE, MULTIFD_FLUSH, PAGE, RamBlock, RamPage, RamRecord, XBZRLE, ZERO,
};
use crate::cursor::Cursor;
use crate::qemu::engine::{Stop, some_bytes};
use crate::qemu::error::Reason;
use crate::qemu::event::Progress;
use crate::qemu::mapped_ram::{Area, AreaKind, MappedRamHeader};
use crate::qemu::text;

/// A record, as a token.
#[derive(Clone, Debug)]
pub(in crate::qemu) enum Token {
    MemSize { total_bytes: u64 },
    Block { name: Range<usize>, used_bytes: u64, page_bytes: Option<u64>, address: Option<u64> },
    MappedRam(MappedRamHeader),
    Area(AreaKind, Progress),
    ZeroPage { page: Page, fill: u8 },
    Page(Page),
    XbzrlePage { page: Page, length: u16 },
    PageBytes(Progress),
    MultifdFlush,
    EndOfSection,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Page {
    block: usize,
    offset: u64,
    same_block: bool,
}

#[derive(Clone, Debug)]
struct Block {
    name: String,
    used_bytes: u64,
}

/// What the reading of RAM depends on.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Layout {
    pub(in crate::qemu) page_bytes: u64,
    pub(in crate::qemu) ignore_shared: bool,
    pub(in crate::qemu) mapped_ram: bool,
    /// Names of the blocks whose entry has a page size.
    pub(in crate::qemu) blocks_with_page_size: Vec<String>,
    pub(in crate::qemu) blocks_max: u32,
    /// The file offset of the stream's first byte.
    pub(in crate::qemu) file_offset: u64,
}

/// The reader of all RAM sections of a stream.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Ram {
    pub(in crate::qemu) layout: Layout,
    blocks: Vec<Block>,
    names_bytes: usize,
    /// The block of the page before: kept from section to section.
    current: Option<usize>,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Record,
    Blocks { left_bytes: u64 },
    MappedRam { left_bytes: u64 },
    Area { left_bytes: u64, area: Area },
    PageBytes(Progress),
    Done,
}

impl Ram {
    pub(in crate::qemu) const fn new(layout: Layout) -> Self {
        Self { layout, blocks: Vec::new(), names_bytes: 0, current: None, state: State::Done }
    }

    /// Starts the payload of a section.
    pub(in crate::qemu) fn start(&mut self) {
        self.state = State::Record;
    }

    /// Whether the payload has ended.
    pub(in crate::qemu) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub(in crate::qemu) fn held_bytes(&self) -> usize {
        self.blocks.capacity().saturating_mul(size_of::<Block>()).saturating_add(self.names_bytes)
    }

    pub(in crate::qemu) fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        match self.state {
            State::Record | State::Done => self.record(cursor),
            State::Blocks { left_bytes } => self.block(cursor, left_bytes),
            State::MappedRam { left_bytes } => self.mapped_ram(cursor, left_bytes),
            State::Area { left_bytes, mut area } => {
                let Some((kind, progress)) = area.current() else {
                    self.state = State::after_block(left_bytes);
                    return self.next(cursor);
                };
                let count = some_bytes(cursor, progress.left(), "place of a RAM block")?;
                let token = Token::Area(*kind, progress.advance(count));
                self.state = match area.current() {
                    Some(_) => State::Area { left_bytes, area },
                    None => State::after_block(left_bytes),
                };
                Ok(token)
            }
            State::PageBytes(mut progress) => {
                let count = some_bytes(cursor, progress.left(), "page")?;
                let before = progress.advance(count);
                self.state = if progress.left() == 0 { State::Record } else { State::PageBytes(progress) };
                Ok(Token::PageBytes(before))
            }
        }
    }

    fn record(&mut self, cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
        let value = cursor.u64_be("RAM record")?;
        let flags = value & self.layout.page_bytes.saturating_sub(1);
        let offset = value ^ flags;
        match flags {
            MEM_SIZE => {
                self.state = State::after_block(offset);
                self.blocks.clear();
                self.names_bytes = 0;
                self.current = None;
                return Ok(Token::MemSize { total_bytes: offset });
            }
            EOS | MULTIFD_FLUSH if offset != 0 => {
                let what = "offset of a RAM record without a page";
                return Err(Reason::Value { what, value: offset, expected: "zero" }.into());
            }
            EOS => {
                self.state = State::Done;
                return Ok(Token::EndOfSection);
            }
            MULTIFD_FLUSH => return Ok(Token::MultifdFlush),
            _ => {}
        }
        let same_block = flags & CONTINUE != 0;
        let kind = flags & !CONTINUE;
        if !matches!(kind, ZERO | PAGE | XBZRLE) {
            return Err(Reason::Unknown { what: "flags of a RAM record", value: flags }.into());
        }
        let page = self.page(cursor, offset, same_block)?;
        let (token, length) = match kind {
            ZERO => (Token::ZeroPage { page, fill: cursor.u8("fill of a zero page")? }, 0),
            PAGE => (Token::Page(page), self.layout.page_bytes),
            _ => {
                let length = self.xbzrle_length(cursor)?;
                (Token::XbzrlePage { page, length }, length.into())
            }
        };
        self.current = Some(page.block);
        if length > 0 {
            self.state = State::PageBytes(Progress::new(length));
        }
        Ok(token)
    }

    fn page(&self, cursor: &mut Cursor<'_>, offset: u64, same_block: bool) -> Result<Page, Stop> {
        let index = if same_block {
            self.current
        } else {
            let (name, _) = text::named(cursor, "RAM block")?;
            self.blocks.iter().position(|block| block.name == name)
        };
        let block = index.ok_or(Reason::UnknownBlock)?;
        let used_bytes = self.blocks.get(block).map_or(0, |block| block.used_bytes);
        if offset >= used_bytes {
            let (what, value) = ("offset of a page", offset);
            return Err(Reason::Value { what, value, expected: "below the length of its block" }.into());
        }
        Ok(Page { block, offset, same_block })
    }

    fn xbzrle_length(&self, cursor: &mut Cursor<'_>) -> Result<u16, Stop> {
        let encoding = cursor.u8("encoding of an XBZRLE page")?;
        if encoding != ENCODING_XBZRLE {
            let value = encoding.into();
            return Err(Reason::Value { what: "encoding of an XBZRLE page", value, expected: "1" }.into());
        }
        let length = cursor.u16_be("length of an XBZRLE page")?;
        if u64::from(length) > self.layout.page_bytes {
            let value = length.into();
            return Err(Reason::Value { what: "length of an XBZRLE page", value, expected: "at most a page" }.into());
        }
        Ok(length)
    }

    fn block(&mut self, cursor: &mut Cursor<'_>, left_bytes: u64) -> Result<Token, Stop> {
        let (text, name) = text::named(cursor, "RAM block")?;
        let used_bytes = cursor.u64_be("length of a RAM block")?;
        let has_page_size = self.layout.blocks_with_page_size.iter().any(|listed| listed == text);
        let page_bytes = has_page_size.then(|| cursor.u64_be("page size of a RAM block")).transpose()?;
        let address = self.layout.ignore_shared.then(|| cursor.u64_be("address of a RAM block")).transpose()?;
        let left = left_bytes.checked_sub(used_bytes);
        let expected = "at most what is left of the total";
        let left = left.ok_or(Reason::Value { what: "length of a RAM block", value: used_bytes, expected })?;
        let count = u64::try_from(self.blocks.len()).unwrap_or(u64::MAX).saturating_add(1);
        if count > self.layout.blocks_max.into() {
            let limit = self.layout.blocks_max.into();
            return Err(Reason::Limit { what: "RAM blocks", value: count, limit }.into());
        }
        let block = Block { name: text.into(), used_bytes };
        self.blocks.try_reserve(1).map_err(|_| Reason::NoMemory { bytes: text.len() })?;
        self.names_bytes = self.names_bytes.saturating_add(block.name.capacity());
        self.blocks.push(block);
        self.state =
            if self.layout.mapped_ram { State::MappedRam { left_bytes: left } } else { State::after_block(left) };
        Ok(Token::Block { name, used_bytes, page_bytes, address })
    }

    fn mapped_ram(&mut self, cursor: &mut Cursor<'_>, left_bytes: u64) -> Result<Token, Stop> {
        let header = MappedRamHeader::read(cursor)?;
        let used_bytes = self.blocks.last().map_or(0, |block| block.used_bytes);
        let here = cursor.offset().saturating_add(self.layout.file_offset);
        let mut area = Area::new(&header, used_bytes, here)?;
        self.state = match area.current() {
            Some(_) => State::Area { left_bytes, area },
            None => State::after_block(left_bytes),
        };
        Ok(Token::MappedRam(header))
    }

    pub(in crate::qemu) fn item<'a>(&'a self, token: Token, raw: &'a [u8]) -> RamRecord<'a> {
        match token {
            Token::MemSize { total_bytes } => RamRecord::MemSize { total_bytes },
            Token::Block { name, used_bytes, page_bytes, address } => {
                RamRecord::Block(RamBlock { name: text::at(raw, name), used_bytes, page_bytes, address })
            }
            Token::MappedRam(header) => RamRecord::MappedRam(header),
            Token::Area(AreaKind::Gap, progress) => RamRecord::Gap(progress.piece(raw)),
            Token::Area(AreaKind::Bitmap, progress) => RamRecord::Bitmap(progress.piece(raw)),
            Token::Area(AreaKind::Pages, progress) => RamRecord::Pages(progress.piece(raw)),
            Token::ZeroPage { page, fill } => RamRecord::ZeroPage { page: self.named(page), fill },
            Token::Page(page) => RamRecord::Page(self.named(page)),
            Token::XbzrlePage { page, length } => RamRecord::XbzrlePage { page: self.named(page), length },
            Token::PageBytes(progress) => RamRecord::PageBytes(progress.piece(raw)),
            Token::MultifdFlush => RamRecord::MultifdFlush,
            Token::EndOfSection => RamRecord::EndOfSection,
        }
    }

    fn named(&self, page: Page) -> RamPage<'_> {
        let block = self.blocks.get(page.block).map_or("", |block| block.name.as_str());
        RamPage { block, offset: page.offset, same_block: page.same_block }
    }
}

impl State {
    /// The list of blocks ends when their lengths add up to the total.
    const fn after_block(left_bytes: u64) -> Self {
        if left_bytes == 0 { Self::Record } else { Self::Blocks { left_bytes } }
    }
}
