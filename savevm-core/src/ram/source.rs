// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The source's memory: what is dirty goes into frames, and stays owed until the target has it.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use stream_codec::frame::{PagesWriter, RECORD_BYTES};
use vfio_mig_fsm::{Capabilities, State};

use super::memory::GuestMemory;
use crate::dirty::{
    BitmapError, Guest, Incomplete, Owed, Portion, RegionError, RegionId, RegionTable, RegionsDiffer, Target,
    TrackError, Tracking,
};
use crate::error::Cause;
use crate::sched::Sizes;

/// A stretch from which pages for one frame are taken: 1 GiB in pages of 4 KiB, which makes 32 KiB for each frame on its way.
const SPAN_PAGES_MAX: NonZeroU64 = NonZeroU64::MIN.saturating_add((1 << 18) - 1);
/// Memory is read in pieces of this size: small enough for the caches, where its zeros are looked for.
const PIECE_LEN: usize = 128 << 10;
/// The smallest page there is, by which zeros are looked for. Frames end where one does, so that none is written in two parts.
pub(crate) const BLOCK_LEN: usize = 4096;

/// Guest memory that is to be moved, with the account of what the target lacks.
pub struct Source<'a> {
    memory: &'a dyn GuestMemory,
    account: &'a mut (dyn Account + Send + 'a),
}

/// Memory and its account do not belong together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(transparent)]
pub struct Mismatch(#[from] Fault);

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum Fault {
    #[error("the account of dirty pages: {0}")]
    Table(#[from] RegionError),
    #[error("the account of dirty pages is not of this memory, which is the \"target\" here: {0}")]
    Differ(#[from] RegionsDiffer),
}

/// [`Tracking`] without the lifetime of its trackers.
pub(crate) trait Account {
    fn region_ids(&self) -> Vec<RegionId>;
    fn has_trackers(&self) -> bool;
    fn start(&mut self) -> Result<(), TrackError>;
    fn collect(&mut self, guest: Guest);
    fn mark_all(&mut self);
    fn dirty_bytes(&self) -> u64;
    fn take(&mut self, portion: Portion) -> Result<Option<Owed>, BitmapError>;
    fn acknowledge(&mut self, owed: Owed);
    fn check_complete(&self) -> Result<(), Incomplete>;
    fn end(&mut self, lost: Option<Target>);
}

impl Account for Tracking<'_> {
    fn region_ids(&self) -> Vec<RegionId> {
        self.ledger().regions().map(|(id, _)| id).collect()
    }

    fn has_trackers(&self) -> bool {
        self.trackers().next().is_some()
    }

    fn start(&mut self) -> Result<(), TrackError> {
        Tracking::start(self)
    }

    fn collect(&mut self, guest: Guest) {
        // A tracker that failed makes everything dirty at every reading. Started anew it does so once; if that fails too, the migration
        // goes on with more to send than needed.
        if Tracking::collect(self, guest).not_running > 0 && guest == Guest::Running {
            let _ = self.restart_failed();
        }
    }

    fn mark_all(&mut self) {
        let regions: Vec<_> = self.ledger().regions().map(|(id, region)| (id, region.pages())).collect();
        regions.into_iter().for_each(|(id, pages)| self.mark(id, 0, pages));
    }

    fn dirty_bytes(&self) -> u64 {
        self.ledger().dirty_bytes()
    }

    fn take(&mut self, portion: Portion) -> Result<Option<Owed>, BitmapError> {
        Tracking::take(self, portion)
    }

    fn acknowledge(&mut self, owed: Owed) {
        // Nothing else ends an attempt while this one has the account.
        let _ = Tracking::acknowledge(self, owed);
    }

    fn check_complete(&self) -> Result<(), Incomplete> {
        Tracking::check_complete(self)
    }

    fn end(&mut self, lost: Option<Target>) {
        if let Some(target) = lost {
            self.give_up(target);
        }
        // One that runs on costs the guest some speed, and says so when it is started again.
        let _ = self.stop();
    }
}

impl<'a> Source<'a> {
    /// Memory, and the account of it: of the same regions, in the same order. Trackers say what is written while the guest runs;
    /// without any, all memory moves while it stands.
    ///
    /// # Errors
    /// When the account is of other regions.
    pub fn new<'t: 'a>(memory: &'a dyn GuestMemory, tracking: &'a mut Tracking<'t>) -> Result<Self, Mismatch> {
        let regions: Vec<_> = tracking.ledger().regions().map(|(_, region)| region.clone()).collect();
        let count = regions.len();
        let account = RegionTable::new(regions, count).map_err(Fault::from)?;
        account.compare(memory.regions()).map_err(Fault::from)?;
        Ok(Self { memory, account: tracking })
    }

    pub(crate) fn memory(&self) -> &'a dyn GuestMemory {
        self.memory
    }

    pub(crate) fn account(&mut self) -> &mut (dyn Account + Send + 'a) {
        self.account
    }
}

impl core::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Source").field("regions", self.memory.regions()).finish_non_exhaustive()
    }
}

/// What is left when nothing could be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Left {
    /// Nothing, for now: the guest runs.
    Drained,
    /// Nothing, and nothing can become dirty any more.
    End,
    /// What is dirty is on its way, and can go again when the target has it.
    OnItsWay,
}

/// Dirty pages of one region, on their way into frames.
#[derive(Debug)]
pub(crate) struct Batch {
    owed: Owed,
    /// The region's number, as both sides have it.
    region: usize,
    page_bytes: u64,
    /// The first byte of the region that is in no frame yet; none when all are.
    from: Option<u64>,
}

/// One attempt to move it.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    source: Source<'a>,
    /// The account's regions, by the number both sides have for them.
    regions: Vec<RegionId>,
    /// What did not fit into its frame as a whole.
    left_over: Vec<Batch>,
    /// What was put into frames, by the number of the last of these.
    under_way: VecDeque<(u64, Owed)>,
    /// How much of memory was put into frames, pages that were written again once more.
    covered_bytes: u64,
    is_stopped: bool,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(source: Source<'a>) -> Self {
        let regions = source.account.region_ids();
        let (left_over, under_way) = (Vec::new(), VecDeque::new());
        Self { source, regions, left_over, under_way, covered_bytes: 0, is_stopped: false }
    }

    /// What is moved.
    pub(crate) fn memory(&self) -> &'a dyn GuestMemory {
        self.source.memory
    }

    pub(crate) fn table(&self) -> &RegionTable {
        self.source.memory.regions()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.table().regions().iter().map(|region| region.bytes).fold(0, u64::saturating_add)
    }

    pub(crate) const fn covered_bytes(&self) -> u64 {
        self.covered_bytes
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        if self.source.account.has_trackers() { Capabilities::PreCopy } else { Capabilities::StopCopy }
    }

    /// To PRE_COPY: writes are tracked from here on. To STOP_COPY: nothing writes any more.
    pub(crate) fn transition(&mut self, to: State) -> Result<(), Cause> {
        let account = &mut self.source.account;
        match to {
            State::PreCopy => account.start()?,
            State::StopCopy => {
                if !account.has_trackers() {
                    account.mark_all();
                }
                account.collect(Guest::Stopped);
                self.is_stopped = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn query(&mut self) -> Sizes {
        let account = &mut self.source.account;
        if !self.is_stopped && account.has_trackers() {
            account.collect(Guest::Running);
        }
        let dirty_bytes = account.dirty_bytes();
        Sizes::new(0, if self.is_stopped { 0 } else { dirty_bytes }, dirty_bytes)
    }

    /// The target has written this many frames.
    pub(crate) fn acknowledged(&mut self, frames: u64) {
        while self.under_way.front().is_some_and(|(sequence, _)| *sequence < frames) {
            if let Some((_, owed)) = self.under_way.pop_front() {
                self.source.account.acknowledge(owed);
            }
        }
    }

    /// Dirty pages, no more than fit into a frame of `room` bytes if none of them is zero.
    pub(crate) fn take(&mut self, room: usize) -> Result<Option<Batch>, Cause> {
        if let Some(batch) = self.left_over.pop() {
            return Ok(Some(batch));
        }
        let least = self.table().regions().iter().map(|region| region.page_bytes).min().unwrap_or(1);
        let each = least.saturating_add(u64::try_from(RECORD_BYTES).unwrap_or(u64::MAX));
        let fitting = u64::try_from(room).unwrap_or(u64::MAX).checked_div(each);
        let pages_max = fitting.and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MIN);
        let taken = self.source.account.take(Portion::new(pages_max, SPAN_PAGES_MAX));
        let Some(owed) = taken.map_err(|error| Cause::refused(alloc::format!("{error}")))? else { return Ok(None) };
        let region = self.regions.iter().position(|id| *id == owed.region()).unwrap_or(usize::MAX);
        let page_bytes = self.table().regions().get(region).map_or(1, |region| region.page_bytes);
        Ok(Some(Batch { owed, region, page_bytes, from: Some(0) }))
    }

    /// A batch is in frames as far as it is: the last of them has this number, and so much memory went into it. Says whether that is
    /// all of the batch; what is not is the first to be taken.
    pub(crate) fn settle(&mut self, sequence: u64, batch: Batch, covered_bytes: u64) -> bool {
        self.covered_bytes = self.covered_bytes.saturating_add(covered_bytes);
        let is_whole = batch.from.is_none();
        if is_whole {
            // Who fills frames beside others may come behind who fills a later one.
            let at = self.under_way.partition_point(|(other, _)| *other <= sequence);
            self.under_way.insert(at, (sequence, batch.owed));
        } else {
            self.left_over.push(batch);
        }
        is_whole
    }

    /// Why nothing could be taken.
    pub(crate) fn left(&self) -> Left {
        match self.is_stopped {
            false => Left::Drained,
            true if self.dirty_bytes() > 0 => Left::OnItsWay,
            true => Left::End,
        }
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.source.account.dirty_bytes()
    }

    /// The target has everything that was sent, says its digest. Whether that is all there is, says the account.
    pub(crate) fn complete(&mut self) -> Result<(), Cause> {
        self.acknowledged(u64::MAX);
        let incomplete = |error: Incomplete| Cause::refused(alloc::format!("{}: {error}", super::NAME));
        if !self.left_over.is_empty() {
            return Err(Cause::refused(String::from("guest memory: not all that was taken was sent")));
        }
        self.source.account.check_complete().map_err(incomplete)
    }

    /// The attempt is over, and failed if something is `lost`.
    pub(crate) fn end(&mut self, lost: Option<Target>) {
        self.is_stopped = false;
        self.left_over.clear();
        self.under_way.clear();
        self.source.account.end(lost);
    }
}

impl Batch {
    /// How much memory it is at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.owed.pages().saturating_mul(self.page_bytes)
    }

    /// Puts pages into a frame, and says how much of memory that was: up to the last of them, or until the frame is full or takes
    /// only what lies behind.
    pub(crate) fn put(&mut self, memory: &dyn GuestMemory, writer: &mut PagesWriter<'_>) -> Result<u64, Cause> {
        let Some(from) = self.from else { return Ok(0) };
        let number =
            u16::try_from(self.region).map_err(|_| Cause::refused("more regions than the format can number"))?;
        let mut covered_bytes = 0_u64;
        for run in self.owed.runs(NonZeroU64::MAX) {
            let mut at = run.first.saturating_mul(self.page_bytes).max(from);
            let end = run.first.saturating_add(run.count).saturating_mul(self.page_bytes);
            while at < end {
                self.from = Some(at);
                let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
                let fitting = left.min(PIECE_LEN).min(writer.room());
                let whole = if fitting < left { whole_blocks(at, fitting) } else { fitting };
                // A block that goes into no frame as a whole goes into several.
                let length = if whole == 0 && writer.filled_len() == 0 { fitting } else { whole };
                if length == 0 || !writer.takes(number, at) {
                    return Ok(covered_bytes);
                }
                let Some(space) = writer.space(number, at, length) else { return Ok(covered_bytes) };
                memory.read(self.region, at, space)?;
                if !writer.push(number, at, length) {
                    return Ok(covered_bytes);
                }
                let length = u64::try_from(length).unwrap_or(u64::MAX);
                at = at.saturating_add(length);
                covered_bytes = covered_bytes.saturating_add(length);
            }
        }
        self.from = None;
        Ok(covered_bytes)
    }
}

/// So much of `length` bytes from there on that what is behind it begins with a block: nothing where none begins there.
fn whole_blocks(at: u64, length: usize) -> usize {
    let end = at.wrapping_add(u64::try_from(length).unwrap_or(0));
    let beyond = end.checked_rem(u64::try_from(BLOCK_LEN).unwrap_or(1)).unwrap_or(0);
    length.saturating_sub(usize::try_from(beyond).unwrap_or(0))
}

#[cfg(test)]
mod test {
    use stream_codec::frame::{Content, Pages, Record};

    use super::super::error::MemoryError;
    use super::*;
    use crate::dirty::{Ledger, Region};

    /// One region in which no byte is zero.
    struct Full(RegionTable);

    impl GuestMemory for Full {
        fn regions(&self) -> &RegionTable {
            &self.0
        }

        fn read(&self, _: usize, _: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
            buffer.fill(7);
            Ok(())
        }

        fn write(&self, _: usize, _: u64, _: &[u8]) -> Result<(), MemoryError> {
            Ok(())
        }
    }

    /// The offset and length of each record, by frames of this many bytes.
    fn frames(bytes: u64, frame_len: usize) -> Vec<Vec<(u64, u64)>> {
        let region = Region { name: String::from("ram"), bytes, page_bytes: 4096 };
        let memory = Full(RegionTable::new(Vec::from([region]), 1).unwrap());
        let mut tracking = Tracking::new(Ledger::of(memory.regions(), u64::MAX).unwrap(), 1, 0);
        let mut attempt = Attempt::new(Source::new(&memory, &mut tracking).unwrap());
        attempt.transition(State::StopCopy).unwrap();
        let mut frames = Vec::new();
        while let Some(mut batch) = attempt.take(2 << 20).unwrap() {
            let mut buffer = alloc::vec![0; frame_len];
            let mut writer = PagesWriter::new(&mut buffer);
            let covered_bytes = batch.put(&memory, &mut writer).unwrap();
            let filled = writer.filled_len();
            let records = Pages::new(&buffer[..filled]).map(Result::unwrap);
            frames.push(records.map(|record| (record.offset, record.content.length())).collect());
            assert!(
                covered_bytes > 0
                    && matches!(Pages::new(&buffer).next(), Some(Ok(Record { content: Content::Bytes(_), .. })))
            );
            attempt.settle(frames.len() as u64, batch, covered_bytes);
        }
        frames
    }

    #[test]
    fn a_frame_is_one_record_of_whole_blocks_where_memory_is_one_piece() {
        let all = frames(1 << 20, 300_000);
        assert_eq!(all, [0, 73, 146, 219].map(|block| Vec::from([(block * 4096, 73.min(256 - block) * 4096)])));
    }

    #[test]
    fn a_block_that_fits_into_no_frame_goes_into_several() {
        let all = frames(8192, 3016);
        assert_eq!(all.concat(), [(0, 3000), (3000, 1096), (4096, 3000), (7096, 1096)]);
    }
}
