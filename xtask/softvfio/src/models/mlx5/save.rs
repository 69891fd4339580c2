// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A saving session: images are saved one after the other, and read as records.

use core::time::Duration;
use std::collections::VecDeque;

use device_mlx5::Encoder;
use device_mlx5::record::HEADER_BYTES;
use savevm_core::digest::{Digest, DigestSum};
use savevm_core::sim::{Errno, PrecopySizes};
use vfio_mig_fsm::State;

use super::super::account::copy;
use super::config::Config;
use super::dirty::Dirty;
use super::image::{Contents, IMAGE_BYTES_MIN, Image};

const HEADER: u64 = 16;
/// mlx5.md section 2: "at most 2 chunks queued un-read".
const QUEUED_MAX: usize = 2;

/// One session.
#[derive(Debug)]
pub(super) struct Save {
    config: Config,
    encoder: Encoder,
    queue: VecDeque<Record>,
    in_flight: Option<InFlight>,
    next_number: u64,
    /// How many images were begun in PRE_COPY.
    begun: u64,
    /// Bytes of initial data that are not read yet.
    initial_left_bytes: u64,
    dirty: Dirty,
    queries_to_reinit: Option<u64>,
    /// PRE_COPY has failed in a way that the driver puts up with: the final image is a full one.
    is_fallback: bool,
    /// The session has failed: nothing but a reset or a close ends it.
    pub(super) is_dead: bool,
    stopped: Option<Final>,
    digest: Digest,
}

#[derive(Debug)]
enum Record {
    StopCopySize { bytes: [u8; 24], position: usize },
    Image { header: [u8; HEADER_BYTES], position: usize, image: Box<Image> },
}

/// An image that the firmware is saving.
#[derive(Debug)]
struct InFlight {
    record: Record,
    until: Duration,
    is_initial: bool,
}

/// What is left of the final image.
#[derive(Clone, Copy, Debug)]
struct Final {
    left_bytes: u64,
    contents: Contents,
}

impl Save {
    /// Enters PRE_COPY or PRE_COPY_P2P: the size is there at once, the initial image takes its time.
    pub(super) fn precopy(config: Config, contents: Contents, now: Duration) -> Result<Self, Errno> {
        let mut save = Self::new(config, true)?;
        let bytes = config.initial_bytes;
        save.begin(bytes, contents, now, true)?;
        Ok(save)
    }

    /// Enters STOP_COPY without PRE_COPY.
    pub(super) fn whole(config: Config, contents: Contents, now: Duration) -> Result<Self, Errno> {
        let mut save = Self::new(config, false)?;
        save.is_fallback = true;
        save.stop(contents, now)?;
        Ok(save)
    }

    fn new(config: Config, is_tracking: bool) -> Result<Self, Errno> {
        let mut encoder = Encoder::new();
        let bytes = encoder.stop_copy_size(config.stop_copy_size(is_tracking)).map_err(|_| Errno::EIO)?;
        Ok(Self {
            config,
            encoder,
            queue: VecDeque::from([Record::StopCopySize { bytes, position: 0 }]),
            in_flight: None,
            next_number: 0,
            begun: 0,
            initial_left_bytes: 24,
            dirty: Dirty::new(&config),
            queries_to_reinit: config.reinit_after,
            is_fallback: false,
            is_dead: false,
            stopped: None,
            digest: Digest::new(),
        })
    }

    /// The device enters `state`.
    pub(super) fn enter(&mut self, state: State, now: Duration) {
        self.dirty.run(state == State::PreCopy, now);
    }

    /// Enters STOP_COPY: incremental, unless there is nothing to build on.
    pub(super) fn stop(&mut self, contents: Contents, now: Duration) -> Result<(), Errno> {
        self.settle(now)?;
        let dirty = self.dirty.count(now, self.initial_left_bytes == 0);
        let left_bytes = if self.is_fallback {
            self.next_number = 0;
            self.config.full_bytes
        } else {
            self.config.stop_bytes.saturating_add(dirty)
        };
        self.stopped = Some(Final { left_bytes, contents });
        self.settle(now)
    }

    /// Begins to save an image, or fails in the way that ends PRE_COPY early.
    fn begin(&mut self, bytes: u64, contents: Contents, now: Duration, is_initial: bool) -> Result<(), Errno> {
        if self.stopped.is_none() {
            self.begun = self.begun.saturating_add(1);
            if self.config.precopy_error_at == Some(self.begun) {
                self.is_fallback = true;
                return Ok(());
            }
        }
        let header = self.encoder.image(bytes).map_err(|_| Errno::EIO)?;
        self.encoder.payload(bytes).map_err(|_| Errno::EIO)?;
        let record =
            Record::Image { header, position: 0, image: Box::new(Image::new(self.next_number, bytes, contents)) };
        self.next_number = self.next_number.saturating_add(1);
        self.in_flight = Some(InFlight { record, until: now.saturating_add(self.config.save_time), is_initial });
        Ok(())
    }

    /// Queues what is ready by now, and has the next piece of the final image saved.
    fn settle(&mut self, now: Duration) -> Result<(), Errno> {
        let mut since = now;
        loop {
            match self.in_flight.take() {
                Some(running) if running.until > now => {
                    self.in_flight = Some(running);
                    return Ok(());
                }
                Some(done) => {
                    since = done.until;
                    self.queue.push_back(done.record);
                    if done.is_initial {
                        self.initial_left_bytes = self.queued_bytes();
                    }
                }
                None => {}
            }
            let Some(Final { left_bytes, contents }) = self.stopped else { return Ok(()) };
            let queued = self.queue.iter().filter(|record| matches!(record, Record::Image { .. })).count();
            if left_bytes == 0 || queued >= QUEUED_MAX {
                return Ok(());
            }
            // A rest too small for an image goes with the piece before.
            let chunk = self.config.chunk_bytes.unwrap_or(left_bytes);
            let bytes = if left_bytes <= chunk.saturating_add(IMAGE_BYTES_MIN) { left_bytes } else { chunk };
            self.stopped = Some(Final { left_bytes: left_bytes.saturating_sub(bytes), contents });
            self.begin(bytes, contents, since, false)?;
        }
    }

    /// Before this moment a read waits: for the initial image and in STOP_COPY always.
    pub(super) fn read_blocks_until(&self) -> Option<Duration> {
        let running = self.in_flight.as_ref().filter(|_| self.queue.is_empty())?;
        let waits = running.is_initial || self.stopped.is_some() || !self.config.is_drained_early;
        waits.then_some(running.until)
    }

    /// Before this moment queries and steps wait.
    pub(super) fn busy_until(&self) -> Option<Duration> {
        self.in_flight.as_ref().filter(|_| self.stopped.is_none()).map(|running| running.until)
    }

    pub(super) fn read(&mut self, state: State, now: Duration, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.settle(now)?;
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let Some(record) = self.queue.front_mut() else { break };
            let len = record.read(rest);
            self.digest.update(rest.get(..len).unwrap_or_default());
            filled = filled.saturating_add(len);
            if record.left_bytes() == 0 {
                self.queue.pop_front();
                self.settle(now)?;
            }
        }
        let read = u64::try_from(filled).unwrap_or(u64::MAX);
        self.initial_left_bytes = self.initial_left_bytes.saturating_sub(read);
        if filled == 0 && state != State::StopCopy { Err(Errno::ENOMSG) } else { Ok(filled) }
    }

    /// mlx5.md section 4, PRECOPY_INFO. What is being saved is there by now: the query has waited for it.
    pub(super) fn query(
        &mut self,
        state: State,
        version2: bool,
        contents: Contents,
        now: Duration,
    ) -> Result<PrecopySizes, Errno> {
        self.settle(now)?;
        let is_query = state == State::PreCopy && !self.is_fallback;
        let dirty = self.dirty.count(now, self.initial_left_bytes == 0);
        let mut increment = if dirty > 0 && is_query { dirty.max(IMAGE_BYTES_MIN) } else { 0 };
        if let Some(left) = self.queries_to_reinit.as_mut().filter(|_| version2 && is_query) {
            *left = left.saturating_sub(1);
        }
        let queued = self.queued_bytes();
        if self.initial_left_bytes > 0 {
            return Ok(PrecopySizes { initial_bytes: self.initial_left_bytes, ..PrecopySizes::default() });
        }
        if self.queries_to_reinit == Some(0) && is_query {
            self.queries_to_reinit = None;
            increment = increment.max(self.config.initial_bytes);
            self.save_increment(increment, contents, now, true)?;
            let initial_bytes = queued.saturating_add(increment).saturating_add(HEADER);
            return Ok(PrecopySizes { initial_bytes, dirty_bytes: 0, reinit: true });
        }
        let mut dirty_bytes = queued.saturating_add(increment);
        if queued == 0 && increment > 0 {
            self.save_increment(increment, contents, now, false)?;
            if self.config.counts_header {
                dirty_bytes = dirty_bytes.saturating_add(HEADER);
            }
        }
        Ok(PrecopySizes { initial_bytes: 0, dirty_bytes, reinit: false })
    }

    fn save_increment(&mut self, bytes: u64, contents: Contents, now: Duration, is_initial: bool) -> Result<(), Errno> {
        self.dirty.clear();
        self.begin(bytes, contents, now, is_initial)
    }

    fn queued_bytes(&self) -> u64 {
        self.queue.iter().map(Record::left_bytes).fold(0, u64::saturating_add)
    }

    /// What was read so far.
    pub(super) fn sum(&self) -> DigestSum {
        self.digest.sum()
    }
}

impl Record {
    fn left_bytes(&self) -> u64 {
        let left = |len: usize, position: &usize| u64::try_from(len.saturating_sub(*position)).unwrap_or(u64::MAX);
        match self {
            Self::StopCopySize { bytes, position } => left(bytes.len(), position),
            Self::Image { header, position, image } => left(header.len(), position).saturating_add(image.left_bytes()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let (fixed, position) = match self {
            Self::StopCopySize { bytes, position } => (bytes.as_slice(), position),
            Self::Image { header, position, image } if *position == header.len() => return image.read(buffer),
            Self::Image { header, position, .. } => (header.as_slice(), position),
        };
        let left = fixed.get(*position..).unwrap_or_default();
        let len = left.len().min(buffer.len());
        copy(buffer, left.iter().copied());
        *position = position.saturating_add(len);
        len
    }
}
