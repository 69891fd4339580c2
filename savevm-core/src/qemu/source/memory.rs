// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory of a source: which pages go next, and which the target cannot lose any more.
//!
//! QEMU's format has no acknowledgement of pages. A page that was sent counts as held by the target as soon as no later copy of it can be
//! overtaken: at once on the main connection, on multifd channels at the next synchronisation point. An attempt that fails, whenever it
//! does, makes all of it dirty again.

use core::fmt;
use core::num::NonZeroU64;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

use crate::dirty::{Guest, Owed, Portion, RegionId, Target};
use crate::error::Cause;
use crate::qemu::memory::{RamError, RamPages, check_names, names};
use crate::ram::{GuestMemory, Source};

/// Pages that are taken from the account at once, out of a stretch that takes 32 KiB of bits.
const PAGES_MAX: NonZeroU64 = NonZeroU64::MIN.saturating_add((1 << 11) - 1);
const SPAN_PAGES_MAX: NonZeroU64 = NonZeroU64::MIN.saturating_add((1 << 18) - 1);
/// So many batches may wait for a synchronisation point: memory of which all is dirty fills half a gigabyte with them.
const BATCHES_MAX: usize = 64;

/// A source's guest memory, and which RAM block of the target each of its regions is.
///
/// Give it to [`save_with_memory`](super::save_with_memory).
pub struct SourceMemory<'a> {
    source: Source<'a>,
    blocks: Vec<String>,
}

impl<'a> SourceMemory<'a> {
    /// Every region is the RAM block of its own name: `pc.ram`, or what `-object memory-backend-…,id=` says.
    ///
    /// # Errors
    /// When a name cannot be a RAM block's.
    pub fn new(source: Source<'a>) -> Result<Self, RamError> {
        let blocks = names(source.memory().regions());
        Self::with_blocks(source, blocks)
    }

    /// The region with the number n is the RAM block with the name `blocks[n]`. The monitor's `info ramblock` lists them: a QEMU target
    /// refuses blocks that it has not, or of another size.
    ///
    /// # Errors
    /// When there are not as many names as regions, or a name cannot be a RAM block's.
    pub fn with_blocks(source: Source<'a>, blocks: Vec<String>) -> Result<Self, RamError> {
        check_names(source.memory().regions(), &blocks)?;
        Ok(Self { source, blocks })
    }
}

impl fmt::Debug for SourceMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceMemory").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Bytes of a region that lie side by side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stretch {
    pub(super) region: usize,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// One attempt to move it.
pub(super) struct Memory<'a> {
    source: Source<'a>,
    pub(super) blocks: Vec<String>,
    regions: Vec<RegionId>,
    /// What has been taken and is to go next.
    stretches: VecDeque<Stretch>,
    current: Option<Owed>,
    /// What has been handed out and may still be overtaken.
    under_way: Vec<Owed>,
    /// When last asked, there was nothing to take.
    is_drained: bool,
    is_tracked: bool,
    pub(super) sent: RamPages,
}

impl<'a> Memory<'a> {
    pub(super) fn new(memory: SourceMemory<'a>) -> Self {
        let SourceMemory { mut source, blocks } = memory;
        let regions = source.account().region_ids();
        Self {
            source,
            blocks,
            regions,
            stretches: VecDeque::new(),
            current: None,
            under_way: Vec::new(),
            is_drained: false,
            is_tracked: false,
            sent: RamPages::default(),
        }
    }

    pub(super) fn guest(&self) -> &'a dyn GuestMemory {
        self.source.memory()
    }

    /// The guest runs, and what it writes is noticed from here on. Memory that nobody tracks moves while the guest stands.
    pub(super) fn start(&mut self) -> Result<(), Cause> {
        if !self.is_tracked && self.source.account().has_trackers() {
            self.source.account().start()?;
            self.is_tracked = true;
        }
        Ok(())
    }

    /// Whether memory moves while the guest runs.
    pub(super) const fn is_tracked(&self) -> bool {
        self.is_tracked
    }

    /// Asks what was written since one asked last.
    pub(super) fn collect(&mut self) {
        self.source.account().collect(Guest::Running);
    }

    /// Nothing writes any more.
    pub(super) fn stop(&mut self) {
        let account = self.source.account();
        if !account.has_trackers() {
            account.mark_all();
        }
        account.collect(Guest::Stopped);
    }

    /// What is known to be left, in bytes.
    pub(super) fn dirty_bytes(&mut self) -> u64 {
        let taken = self.stretches.iter().map(|stretch| stretch.bytes).fold(0, u64::saturating_add);
        self.source.account().dirty_bytes().saturating_add(taken)
    }

    /// The next bytes to send, at most so many. `None` if there are none but those that may still be overtaken.
    pub(super) fn next(&mut self, bytes_max: u64) -> Result<Option<Stretch>, Cause> {
        if self.stretches.is_empty() && !self.take()? {
            return Ok(None);
        }
        let Some(front) = self.stretches.front_mut() else { return Ok(None) };
        let bytes = front.bytes.min(bytes_max);
        let stretch = Stretch { bytes, ..*front };
        front.offset = front.offset.saturating_add(bytes);
        front.bytes = front.bytes.saturating_sub(bytes);
        if front.bytes == 0 {
            self.stretches.pop_front();
        }
        Ok(Some(stretch))
    }

    /// Takes a batch off the account.
    fn take(&mut self) -> Result<bool, Cause> {
        self.under_way.extend(self.current.take());
        let taken = self.source.account().take(Portion::new(PAGES_MAX, SPAN_PAGES_MAX));
        let taken = taken.map_err(|error| Cause::refused(std::format!("{error}")))?;
        self.is_drained = taken.is_none();
        let Some(owed) = taken else { return Ok(false) };
        let region = self.regions.iter().position(|id| *id == owed.region()).unwrap_or(usize::MAX);
        let page_bytes = self.guest().regions().regions().get(region).map_or(0, |region| region.page_bytes);
        let stretches = owed.runs(NonZeroU64::MAX).map(|run| Stretch {
            region,
            offset: run.first.saturating_mul(page_bytes),
            bytes: run.count.saturating_mul(page_bytes),
        });
        self.stretches.extend(stretches);
        self.current = Some(owed);
        Ok(true)
    }

    /// Whether a synchronisation point should come: everything is under way, or so much that it would take memory.
    pub(super) fn wants_point(&self) -> bool {
        self.under_way.len() >= BATCHES_MAX || (self.is_drained && self.has_under_way())
    }

    /// Whether all that was known to be dirty has been sent.
    pub(super) const fn is_drained(&self) -> bool {
        self.is_drained
    }

    pub(super) fn has_under_way(&self) -> bool {
        !self.under_way.is_empty() || self.current.is_some()
    }

    /// Nothing that was sent can be overtaken any more.
    pub(super) fn settle(&mut self) {
        if self.stretches.is_empty() {
            self.under_way.extend(self.current.take());
        }
        for owed in self.under_way.drain(..) {
            self.source.account().acknowledge(owed);
        }
    }

    /// The target has read everything. Whether that is all there is, says the account.
    pub(super) fn complete(&mut self) -> Result<(), Cause> {
        let complete = self.source.account().check_complete();
        complete.map_err(|error| Cause::refused(std::format!("guest memory: {error}")))
    }

    /// The attempt is over, well or not.
    pub(super) fn end(&mut self, is_well: bool) {
        self.stretches.clear();
        self.under_way.clear();
        (self.current, self.is_tracked, self.is_drained) = (None, false, false);
        // The next attempt may go to another target, and what this one still has nobody knows.
        self.source.account().end(if is_well { None } else { Some(Target::Lost) });
    }
}
