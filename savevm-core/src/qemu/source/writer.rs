// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The main stream of a source.

use std::io::Write;
use std::vec::Vec;

use stream_codec::qemu::{Extent, Item, SectionHeader, SectionKind, VFIO_VERSION, VfioRecord};

use crate::error::Cause;
use crate::qemu::error::{Connection, StreamError};

/// Small items are sent together.
const PENDING_BYTES: usize = 64 << 10;

/// Writes items, and knows how many bytes have left.
pub(super) struct MainWriter<W> {
    writer: W,
    pending: Vec<u8>,
    offset: u64,
    has_end: bool,
    has_sent_end: bool,
}

impl<W: Write> MainWriter<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self { writer, pending: Vec::new(), offset: 0, has_end: false, has_sent_end: false }
    }

    pub(super) fn item(&mut self, item: &Item<'_>) -> Result<(), Cause> {
        let connection = Connection::Main;
        item.encode(&mut self.pending).map_err(|reason| StreamError::Unwritable { connection, reason })?;
        self.has_end |= matches!(item, Item::EndOfStream);
        if self.pending.len() >= PENDING_BYTES { self.send() } else { Ok(()) }
    }

    /// Whether the end of the stream may have reached the target.
    pub(super) const fn has_sent_end(&self) -> bool {
        self.has_sent_end
    }

    fn send(&mut self) -> Result<(), Cause> {
        let (connection, offset) = (Connection::Main, self.offset);
        let failed = |error| StreamError::Io { connection, offset, error };
        self.writer.write_all(&self.pending).map_err(failed)?;
        self.offset = offset.saturating_add(u64::try_from(self.pending.len()).unwrap_or(u64::MAX));
        self.pending.clear();
        self.has_sent_end = self.has_end;
        Ok(())
    }

    /// Sends what is pending.
    pub(super) fn flush(&mut self) -> Result<(), Cause> {
        self.send()?;
        let (connection, offset) = (Connection::Main, self.offset);
        Ok(self.writer.flush().map_err(|error| StreamError::Io { connection, offset, error })?)
    }

    /// The header of a device's section.
    pub(super) fn open_section(&mut self, kind: SectionKind, id: u32, idstr: &str) -> Result<(), Cause> {
        self.open(kind, id, idstr, VFIO_VERSION)
    }

    /// The header of a section that ends by its own rules.
    pub(super) fn open(&mut self, kind: SectionKind, id: u32, idstr: &str, version_id: u32) -> Result<(), Cause> {
        let extent = Extent::Format;
        self.item(&Item::Section(SectionHeader { kind, id, idstr, instance_id: 0, version_id, extent }))
    }

    pub(super) fn record(&mut self, record: VfioRecord<'_>) -> Result<(), Cause> {
        self.item(&Item::Vfio(record))
    }

    pub(super) fn footer(&mut self, id: u32) -> Result<(), Cause> {
        self.item(&Item::Footer { id })
    }

    /// A whole section.
    pub(super) fn section(
        &mut self,
        kind: SectionKind,
        id: u32,
        idstr: &str,
        records: &[VfioRecord<'_>],
    ) -> Result<(), Cause> {
        self.open_section(kind, id, idstr)?;
        records.iter().try_for_each(|record| self.record(*record))?;
        self.footer(id)
    }

    /// A record with device state. The bytes are not copied.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        if bytes.is_empty() {
            return Ok(());
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.record(VfioRecord::Data { length })?;
        self.send()?;
        let (connection, offset) = (Connection::Main, self.offset);
        self.writer.write_all(bytes).map_err(|error| StreamError::Io { connection, offset, error })?;
        self.offset = offset.saturating_add(length);
        Ok(())
    }
}
