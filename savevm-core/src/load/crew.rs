// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The target's devices at work: each has a thread of its own, and receivers lend a hand where a device is quick.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::format;
use std::string::{String, ToString};
use std::sync::OnceLock;
use std::time::Instant;
use std::vec::Vec;

use stream_codec::frame::Message;
use vfio_mig_fsm::State;

use super::filled::Filled;
use super::set::Progress;
use crate::device::Device;
use crate::digest::DigestSum;
use crate::engine::board::Event;
use crate::engine::buffer::Buffer;
use crate::engine::receive::Deliver;
use crate::engine::scattered::{Chunk, Job, Worth};
use crate::engine::task::{Done, Task};
use crate::engine::window::{News, Work};
use crate::engine::wire::Wire;
use crate::error::Cause;
use crate::hooks::Phase;
use crate::link::{self, Proof};
use crate::ram::{self, Sink};
use crate::sched::LoadSection;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::tap::{Side, Subject, Taps};
use crate::trace::{Activity, DeviceTrace};

/// One local device, or this side's memory, and what is known of it.
pub(super) struct Station<'d, D> {
    pub(super) filled: Filled<'d, D>,
    pub(super) progress: &'d mut Progress,
}

/// All devices of one side.
pub(super) struct Crew<'w, 'a, 'd, D> {
    pub(super) wire: &'w Wire<'a>,
    /// Only the writer of a device, as its window has it, locks one: nobody waits here.
    pub(super) stations: Vec<Mutex<Station<'d, D>>>,
    /// For each device of the offer, the local one of that name.
    pub(super) local: OnceLock<Vec<usize>>,
    /// This side's memory, and the number of its station.
    pub(super) memory: Option<(usize, Sink<'d>)>,
    pub(super) one_way: bool,
    /// By the local number.
    pub(super) traces: Vec<DeviceTrace>,
}

impl<'d, D: Device> Crew<'_, '_, 'd, D> {
    fn station(&self, index: usize) -> Result<MutexGuard<'_, Station<'d, D>>, Cause> {
        let local = self.local.get().and_then(|local| local.get(index));
        let station = local.and_then(|local| self.stations.get(*local));
        let unknown = || Cause::refused(format!("the stream speaks of device {index}, which was never offered"));
        station.map(lock).ok_or_else(unknown)
    }

    /// The memory to be filled, if that is what is offered under this number.
    fn sink(&self, index: usize) -> Option<Sink<'d>> {
        let local = self.local.get().and_then(|local| local.get(index));
        let (_, sink) = self.memory.filter(|(station, _)| local == Some(station))?;
        Some(sink)
    }

    /// For a device of the offer.
    fn trace(&self, index: usize) -> DeviceTrace {
        let local = self.local.get().and_then(|local| local.get(index));
        local.and_then(|local| self.traces.get(*local)).cloned().unwrap_or_default()
    }

    /// Prepares to look at the stream of a local device, which is that of a source's device with this identity.
    pub(super) fn watch(&self, local: usize, taps: &Taps, stream_identity: &str) {
        let Some(mut station) = self.stations.get(local).map(lock) else { return };
        let Station { filled: Filled::Device(device), progress } = &mut *station else { return };
        let (name, identity, capabilities) = (device.name(), device.identity(), device.capabilities());
        progress.watched = taps.watch(&Subject { side: Side::Target, name, stream_identity, identity, capabilities });
    }

    /// What is to be filled, in the order of the offer: names, and what the scheduler has to know.
    pub(super) fn sections(&self, offered: usize) -> Result<Vec<(String, LoadSection)>, Cause> {
        let section = |index| {
            let station = self.station(index)?;
            Ok((station.filled.name().to_string(), LoadSection::new(station.filled.capabilities())))
        };
        (0..offered).map(section).collect()
    }

    /// The thread of one device: to the states it is told to go to, and what comes of it into the device in between.
    pub(super) fn work(&self, index: usize) -> Result<(), Cause> {
        let passage = self.wire.passage(index)?;
        while let Some(task) = passage.mailbox.take() {
            let is_resuming = matches!(task, Task::Transition(State::Resuming));
            match task {
                Task::Transition(State::Resuming) => self.begin(index)?,
                Task::Transition(State::Stop) => self.complete(index)?,
                other => return Err(Cause::refused(format!("{other:?} asked of a target: a fault of this program"))),
            }
            self.done(index, Done::Moved);
            if is_resuming && !self.fill(index)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn done(&self, device: usize, done: Done) {
        self.wire.board.report(Event::Done { device, done });
    }

    /// Writes what receivers leave to this thread, until everything is written. False if that will never be.
    fn fill(&self, index: usize) -> Result<bool, Cause> {
        if let Some(sink) = self.sink(index) {
            return self.fill_memory(index, sink);
        }
        let window = &self.wire.passage(index)?.window;
        loop {
            match window.next() {
                Work::Write(buffer) => {
                    self.write(index, buffer)?;
                    self.step_back(index)?;
                }
                Work::End => {
                    let mut station = self.station(index)?;
                    let received = station.progress.digest.sum();
                    station.progress.received = received;
                    drop(station);
                    self.done(index, Done::Filled(received));
                    return Ok(true);
                }
                Work::Closed => return Ok(false),
            }
        }
    }

    /// The same for memory, of which receivers leave a chunk to this thread only where memory is slow.
    fn fill_memory(&self, index: usize, sink: Sink<'d>) -> Result<bool, Cause> {
        loop {
            match self.wire.passage(index)?.scattered.next() {
                Job::Write(sequence, buffer) => self.write_memory(index, sink, sequence, buffer)?,
                Job::Grant => self.grant_memory(index, Worth::Any)?,
                Job::End(received) => {
                    let mut station = self.station(index)?;
                    station.progress.received = received.sum;
                    station.progress.precopy_bytes = received.precopy_bytes;
                    drop(station);
                    self.done(index, Done::Filled(received.sum));
                    return Ok(true);
                }
                Job::Closed => return Ok(false),
            }
        }
    }

    /// Writes a chunk of memory, beside others that write theirs, and makes room known.
    fn write_memory(&self, index: usize, sink: Sink<'d>, sequence: u64, buffer: Buffer) -> Result<(), Cause> {
        let sum = self.wire.proof(index).sum(buffer.filled());
        self.count_memory(index, sum.bytes)?;
        let started = Instant::now();
        self.wire.board.in_device(|| sink.write(buffer.filled()))?;
        let took = started.elapsed();
        let precopy_bytes = if buffer.is_stopped { 0 } else { sum.bytes };
        if let Some(pool) = self.wire.pool() {
            pool.give(buffer);
        }
        self.memory_written(index, sequence, Chunk { sum, precopy_bytes }, took)
    }

    /// So much more comes, if it may.
    fn count_memory(&self, index: usize, bytes: u64) -> Result<(), Cause> {
        let before = self.wire.passage(index)?.bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.wire.limits.state_bytes_max;
        if before.saturating_add(bytes) > limit {
            return Err(Cause::TooLarge { device: ram::NAME.to_string(), limit });
        }
        Ok(())
    }

    /// A chunk is in its place, which makes room for others.
    fn memory_written(&self, index: usize, sequence: u64, chunk: Chunk, took: Duration) -> Result<(), Cause> {
        self.wire.passage(index)?.scattered.written(sequence, chunk, took);
        if self.one_way {
            return Ok(());
        }
        self.grant_memory(index, Worth::Much)
    }

    fn grant_memory(&self, index: usize, worth: Worth) -> Result<(), Cause> {
        self.wire.passage(index)?.scattered.grant(worth, Instant::now(), |frames| {
            self.trace(index).granted(frames);
            self.wire.send(Message::Credit { device: link::number(index), frames })
        })
    }

    /// Opens the resuming session of a device.
    fn begin(&self, index: usize) -> Result<(), Cause> {
        let mut station = self.station(index)?;
        station.progress.touched = true;
        let begin = || station.filled.begin(&self.wire.board);
        self.trace(index).call(Activity::Transition(State::Resuming), begin)
    }

    /// Writes a chunk, as the writer of the device, and makes room known.
    fn write(&self, index: usize, buffer: Buffer) -> Result<(), Cause> {
        let took = self.write_to_device(index, &buffer)?;
        if let Some(pool) = self.wire.pool() {
            pool.give(buffer);
        }
        let News { credit, initial } = self.wire.passage(index)?.window.written(took);
        if self.one_way {
            return Ok(());
        }
        let device = link::number(index);
        if let Some(generation) = initial {
            self.wire.send(Message::InitialAck { device, generation })?;
        }
        if let Some(frames) = credit {
            self.trace(index).granted(frames);
            self.wire.send(Message::Credit { device, frames })?;
        }
        Ok(())
    }

    /// Lets go of the device, once everything there is to tell of it is on its way.
    fn step_back(&self, index: usize) -> Result<(), Cause> {
        let window = &self.wire.passage(index)?.window;
        while let Some(generation) = window.step_back() {
            self.wire.send(Message::InitialAck { device: link::number(index), generation })?;
        }
        Ok(())
    }

    fn write_to_device(&self, index: usize, buffer: &Buffer) -> Result<Duration, Cause> {
        let mut station = self.station(index)?;
        let Station { filled, progress } = &mut *station;
        progress.digest.update(buffer.filled());
        let total = progress.digest.sum().bytes;
        let limit = self.wire.limits.state_bytes_max;
        if total > limit {
            return Err(Cause::TooLarge { device: filled.name().to_string(), limit });
        }
        let phase = if buffer.is_stopped { Phase::StopCopy } else { Phase::PreCopy };
        let passed = progress.watched.data(phase, buffer.filled()).map_err(Cause::tap(filled.name()))?;
        let started = Instant::now();
        if !passed.is_empty() {
            filled.write(&self.wire.board, passed)?;
        }
        if !buffer.is_stopped {
            progress.precopy_bytes = total;
        }
        self.wire.passage(index)?.bytes.store(total, Ordering::Relaxed);
        Ok(started.elapsed())
    }

    /// Asks whoever looks at the stream, which has been found equal to what was sent, and only then has the device load it.
    fn complete(&self, index: usize) -> Result<(), Cause> {
        let mut station = self.station(index)?;
        let Station { filled, progress } = &mut *station;
        let board = &self.wire.board;
        let held = progress.watched.end().map_err(Cause::tap(filled.name()))?;
        if !held.is_empty() {
            filled.write(board, &held)?;
            drop(held);
        }
        let trace = self.trace(index);
        trace.call(Activity::Transition(State::Stop), || filled.load(board))?;
        let proved = match self.wire.proof(index) {
            Proof::Digest => "loaded, and equal to what was sent",
            Proof::Count => "loaded, and as many bytes as were sent",
        };
        trace.done(proved, progress.received);
        Ok(())
    }

    /// A reason for every local device that something else is already doing something with.
    pub(super) fn busy(&self) -> Result<Vec<String>, Cause> {
        let mut reasons = Vec::new();
        for station in &self.stations {
            let mut station = lock(station);
            let Filled::Device(device) = &mut station.filled else { continue };
            match self.wire.board.in_device(|| device.state())? {
                State::Running | State::Stop => {}
                other => reasons.push(format!("device '{}' is in {other} here; reset it first", device.name())),
            }
        }
        Ok(reasons)
    }
}

impl<D: Device + Send> Deliver for Crew<'_, '_, '_, D> {
    /// It is kept for later, left to the device's thread, or written here.
    fn chunk(&self, index: usize, sequence: u64, buffer: Buffer) -> Result<(), Cause> {
        let passage = self.wire.passage(index)?;
        let memory = self.sink(index);
        let put = if memory.is_some() {
            passage.scattered.put(sequence, buffer)
        } else {
            passage.window.put(sequence, buffer)
        };
        match (put, memory) {
            (Ok(None), _) => Ok(()),
            (Ok(Some(buffer)), Some(sink)) => self.write_memory(index, sink, sequence, buffer),
            (Ok(Some(buffer)), None) => {
                self.write(index, buffer)?;
                self.step_back(index)
            }
            (Err(_), _) => Err(no_place(index, sequence)),
        }
    }

    fn memory(&self, index: usize) -> Option<Sink<'_>> {
        self.sink(index)
    }

    fn begin(&self, index: usize, sequence: u64, length: u32) -> Result<bool, Cause> {
        let claimed = self.wire.passage(index)?.scattered.claim(sequence);
        let is_claimed = claimed.map_err(|()| no_place(index, sequence))?;
        if is_claimed {
            self.count_memory(index, length.into())?;
        }
        Ok(is_claimed)
    }

    fn end(&self, index: usize, sequence: u64, length: u32, is_stopped: bool, took: Duration) -> Result<(), Cause> {
        let sum = DigestSum::new(length.into(), 0);
        let precopy_bytes = if is_stopped { 0 } else { sum.bytes };
        self.memory_written(index, sequence, Chunk { sum, precopy_bytes }, took)
    }
}

fn no_place(index: usize, sequence: u64) -> Cause {
    Cause::refused(format!("no place for frame {sequence} of device {index}"))
}
