// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What all threads of one side share: the channels' sending sides, the order of the conversation, the devices' windows.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::boxed::Box;
use std::net::Shutdown;
use std::string::ToString;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec::Vec;

use stream_codec::frame::io::{Error as FrameError, FrameReader, FrameWriter};
use stream_codec::frame::{Limits as FrameLimits, Message, Phase, Role, Session, Support, printable};

use super::board::Board;
use super::buffer::{Buffer, Pool};
use super::counters::{ChannelCounters, Counters};
use super::credit::Credit;
use super::lane::{Lane, Outgoing};
use super::plan::Plan;
use super::scattered::Scattered;
use super::task::{Gate, Mailbox};
use super::trials::Trials;
use super::window::Window;
use crate::channel::{Channel, Cut, Receiving};
use crate::error::Cause;
use crate::hooks::Cancel;
use crate::limits::Limits;
use crate::link::{self, LinkError, Proof};

/// The receiving side of one channel.
pub(crate) type Reader<'a> = FrameReader<Box<dyn Receiving + Send + 'a>>;

/// The shared part of one side.
pub(crate) struct Wire<'a> {
    /// By the position in what the VMM handed in.
    pub(crate) lanes: Vec<Lane<'a>>,
    cuts: Vec<Option<Cut<'a>>>,
    /// For each channel index, the position of its connection.
    positions: OnceLock<Vec<usize>>,
    session: Mutex<Session>,
    pub(crate) board: Board,
    pool: OnceLock<Pool>,
    /// There are buffers to read into before it is known what comes.
    reads_early: AtomicBool,
    passages: OnceLock<Vec<Passage>>,
    /// Source: of devices that try all channels.
    pub(crate) trials: Trials,
    /// Target: the receivers go on once every channel is known.
    pub(crate) gate: Gate,
    pub(crate) role: Role,
    /// This side has guest memory to move, or to fill.
    pub(crate) has_memory: bool,
    pub(crate) limits: Limits,
    pub(crate) cancel: Cancel,
}

/// One device, on its way through this side.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(crate) mailbox: Mailbox,
    pub(crate) credit: Credit,
    /// What has come, of a device.
    pub(crate) window: Window,
    /// What has come, of guest memory.
    pub(crate) scattered: Scattered,
    /// Bytes of state so far.
    pub(crate) bytes: AtomicU64,
}

/// Which channel a chunk takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    /// The device's own.
    Home,
    /// This one, or one that has less to do.
    Near(u16),
    /// The one that will be free first, and that channel's thread sends it.
    Spread,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(
        channels: Vec<Channel<'a>>,
        role: Role,
        has_memory: bool,
        limits: Limits,
        cancel: Cancel,
    ) -> (Vec<Reader<'a>>, Self) {
        let frame_limits = link::frame_limits(&limits, role);
        let out_limits = FrameLimits { data_bytes: limits.chunk_bytes_max, ..frame_limits };
        let (mut readers, mut lanes, mut cuts) = (Vec::new(), Vec::new(), Vec::new());
        for channel in channels {
            readers.push(FrameReader::unbuffered(channel.reader, frame_limits));
            lanes.push(Lane::new(FrameWriter::new(channel.writer, out_limits)));
            cuts.push(channel.cut);
        }
        let support = link::support(&limits, role, has_memory);
        let wire = Self {
            lanes,
            cuts,
            positions: OnceLock::new(),
            session: Mutex::new(Session::new(role, support, frame_limits)),
            board: Board::new(),
            pool: OnceLock::new(),
            reads_early: AtomicBool::new(false),
            passages: OnceLock::new(),
            trials: Trials::default(),
            gate: Gate::default(),
            role,
            has_memory,
            limits,
            cancel,
        };
        (readers, wire)
    }

    /// What this side speaks.
    pub(crate) const fn support(&self) -> Support {
        link::support(&self.limits, self.role, self.has_memory)
    }

    /// The order of the conversation. Held for a moment only.
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn channel_count(&self) -> u16 {
        u16::try_from(self.lanes.len()).unwrap_or(u16::MAX)
    }

    /// Whether the target says when it has written a device's initial bytes.
    pub(crate) fn acknowledges_initial(&self) -> bool {
        let agreement = self.session().agreement();
        self.role == Role::Source && agreement.is_some_and(|agreed| agreed.features & Support::INITIAL_ACK != 0)
    }

    /// What proves that all of a device's bytes have come.
    pub(crate) fn proof(&self, device: usize) -> Proof {
        let session = self.session();
        let features = session.agreement().map_or(0, |agreed| agreed.features);
        let is_memory = session.memory_device() == Some(link::number(device)) && !session.is_file();
        if is_memory && features & Support::MEMORY_UNDIGESTED != 0 { Proof::Count } else { Proof::Digest }
    }

    /// The pool, where a piece may be read with its header: not where memory goes past the buffers, which has to know the header first.
    pub(crate) fn early(&self) -> Option<&Pool> {
        let is_unseen = || {
            let session = self.session();
            session.agreement().is_some_and(|agreed| agreed.features & Support::MEMORY_UNDIGESTED != 0)
        };
        self.pool().filter(|_| self.reads_early.load(Ordering::Relaxed) && !is_unseen())
    }

    /// Says which connection is which channel: `positions[index]`.
    pub(crate) fn set_positions(&self, positions: Vec<usize>) {
        let _ = self.positions.set(positions);
    }

    /// Prepares for the devices, once it is known how many and how large their pieces are.
    pub(crate) fn prepare(&self, plan: &Plan, devices: usize) {
        let credit = if self.role == Role::File { u64::MAX } else { 0 };
        let grant = |index: usize| {
            let is_last = index.checked_add(1) == Some(devices);
            if self.has_memory && is_last { plan.memory } else { plan.device }
        };
        let passage = |index| Passage {
            mailbox: Mailbox::default(),
            credit: Credit::new(credit, grant(index).few),
            window: Window::new(plan.device),
            scattered: Scattered::new(plan.memory),
            bytes: AtomicU64::new(0),
        };
        let _ = self.pool.set(Pool::new(plan.chunk_len(), plan.buffers.saturating_add(plan.early)));
        self.reads_early.store(plan.early > 0, Ordering::Relaxed);
        let _ = self.passages.set((0..devices).map(passage).collect());
    }

    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool.get()
    }

    pub(crate) fn passages(&self) -> &[Passage] {
        self.passages.get().map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn passage(&self, device: usize) -> Result<&Passage, Cause> {
        let unknown = || Cause::refused(std::format!("the stream speaks of device {device}, which was never offered"));
        self.passages().get(device).ok_or_else(unknown)
    }

    /// Sends a control frame from a thread that may wait for the peer.
    pub(crate) fn send(&self, message: Message<'static>) -> Result<(), Cause> {
        self.session().sent(&message).map_err(|error| at(0, error))?;
        self.lane(0)?.send(Outgoing::Plain(message), self.pool()).map_err(|error| at(0, error))?;
        self.board.touch();
        Ok(())
    }

    /// Sends a piece of a device's state, or of memory.
    pub(crate) fn send_data(&self, device: usize, sequence: u64, buffer: Buffer, route: Route) -> Result<(), Cause> {
        let channel = match route {
            Route::Home => self.home(device),
            Route::Near(channel) => self.idlest(channel),
            Route::Spread => self.soonest(self.home(device)),
        };
        let number = link::number(device);
        let length = u32::try_from(buffer.filled().len()).unwrap_or(u32::MAX);
        self.session().sent_data_on(channel, number, sequence, length).map_err(|error| at(channel, error))?;
        let data = Outgoing::Data { device: number, sequence, buffer };
        let lane = self.lane(channel)?;
        if route == Route::Spread {
            lane.post(data, self.pool());
            return Ok(());
        }
        lane.send_in_turn(data, self.pool()).map_err(|error| at(channel, error))?;
        self.board.touch();
        Ok(())
    }

    /// A bit for each of the first 64 channels that has nothing to send, but for the device's own.
    pub(crate) fn idle_beside(&self, device: usize) -> u64 {
        let home = self.home(device);
        let others = (0..self.channel_count().min(64)).filter(|channel| *channel != home);
        let idle = others.filter(|channel| self.lane(*channel).is_ok_and(|lane| lane.depth() == 0));
        idle.fold(0, |bits, channel| bits | 1_u64.checked_shl(channel.into()).unwrap_or(0))
    }

    /// The channel with the least to do: the one that is preferred, if it is one of these.
    fn idlest(&self, preferred: u16) -> u16 {
        let depth = |channel: &u16| self.lane(*channel).map_or(usize::MAX, Lane::depth);
        // The first of equals.
        let others = (0..self.channel_count()).filter(|channel| *channel != preferred);
        core::iter::once(preferred).chain(others).min_by_key(depth).unwrap_or(preferred)
    }

    /// The channel with the least to do, and of several the one that is done with it first: there are a few more chunks than channels,
    /// and the next one should be there when a channel has need of it.
    fn soonest(&self, preferred: u16) -> u16 {
        let load = |channel: &u16| self.lane(*channel).map_or((usize::MAX, None), Lane::load);
        let others = (0..self.channel_count()).filter(|channel| *channel != preferred);
        core::iter::once(preferred).chain(others).min_by_key(load).unwrap_or(preferred)
    }

    /// Leaves a control frame to the channel's thread.
    pub(crate) fn post(&self, channel: u16, item: Outgoing) -> Result<(), Cause> {
        if let Some(message) = item.message() {
            self.session().sent_on(channel, &message).map_err(|error| at(channel, error))?;
        }
        self.lane(channel)?.post(item, self.pool());
        Ok(())
    }

    pub(crate) fn lane(&self, channel: u16) -> Result<&Lane<'a>, Cause> {
        let lane = self.position(channel).and_then(|position| self.lanes.get(position));
        lane.ok_or_else(|| Cause::refused(std::format!("channel {channel} is not one of {}", self.lanes.len())))
    }

    /// The channel a device keeps to.
    pub(crate) fn home(&self, device: usize) -> u16 {
        home(device, self.lanes.len())
    }

    fn position(&self, channel: u16) -> Option<usize> {
        match self.positions.get() {
            Some(positions) => positions.get(usize::from(channel)).copied(),
            None => Some(usize::from(channel)),
        }
    }

    /// Whether nothing more comes on a channel before the devices are given up.
    pub(crate) fn has_heard_all(&self, channel: u16) -> bool {
        let session = self.session();
        channel == 0
            && match self.role {
                Role::Source => session.phase() != Phase::Greeting && session.is_all_loaded(),
                Role::Target => session.phase() == Phase::StopCopy && session.is_all_ended(),
                _ => true,
            }
    }

    /// Wakes everybody who waits for something that will not come any more.
    pub(crate) fn close(&self) {
        self.gate.close();
        if let Some(pool) = self.pool() {
            pool.close();
        }
        for passage in self.passages() {
            passage.mailbox.close();
            passage.credit.close();
            passage.window.close();
            passage.scattered.close();
        }
    }

    /// Drops what is queued and tells the peer why, on every channel: which of them still work is not known.
    pub(crate) fn abandon(&self, cause: &Cause) {
        let is_file = self.role == Role::File || self.session().is_file();
        let silent = is_file || matches!(cause, Cause::Peer { .. });
        let text = cause.to_string();
        let frame_limits = link::frame_limits(&self.limits, self.role);
        let reason = printable(&text, frame_limits.reason_bytes).to_string();
        for lane in &self.lanes {
            let abort = Outgoing::Abort { code: link::code(cause), reason: reason.clone() };
            let may = abort.message().is_some_and(|message| self.session().sent(&message).is_ok());
            lane.abandon((may && !silent).then_some(abort));
        }
    }

    /// Tells the peer why this side gives up, if there is a way, from the caller's thread after the others are gone.
    pub(crate) fn tell(&self, cause: &Cause) {
        self.abandon(cause);
        for lane in &self.lanes {
            // A peer that cannot be reached notices the end of the connection instead.
            let _ = lane.run(|| self.pool());
        }
    }

    /// Where among the connections the first channel is.
    pub(crate) fn first_position(&self) -> usize {
        self.position(0).unwrap_or(0)
    }

    /// Cuts every connection that can be cut.
    pub(crate) fn cut(&self, how: Shutdown) {
        for cut in self.cuts.iter().flatten() {
            cut(how);
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        let channel = |index: u16| {
            let (frames, bytes) = self.lane(index).map(Lane::totals).unwrap_or_default();
            ChannelCounters { frames, bytes }
        };
        let mut counters =
            Counters { channels: (0..self.channel_count()).map(channel).collect(), ..Counters::default() };
        if let Some(pool) = self.pool() {
            let bytes = |count: usize| u64::try_from(count.saturating_mul(pool.buffer_len())).unwrap_or(u64::MAX);
            let (peak, made) = pool.peak_and_created();
            counters.buffer_bytes_peak = bytes(peak);
            counters.buffer_bytes_bound = bytes(pool.count_max());
            counters.buffers_made = u64::try_from(made).unwrap_or(u64::MAX);
            counters.chunk_bytes = u32::try_from(pool.buffer_len()).unwrap_or(u32::MAX);
        }
        counters
    }
}

/// The first channel is the last to get a device: there the target speaks too, and a TCP connection that has to carry both is slower
/// (by a sixth with BBR on one machine, by a twentieth with CUBIC).
fn home(device: usize, channels: usize) -> u16 {
    let channel = device.saturating_add(1).checked_rem(channels).unwrap_or(0);
    u16::try_from(channel).unwrap_or(0)
}

/// A failure of the conversation, with the channel it was on.
pub(crate) fn at(channel: u16, error: impl Into<LinkError>) -> Cause {
    Cause::Link { channel, error: Box::new(error.into()) }
}

/// A read that timed out, which the reader can repeat.
pub(crate) fn is_patience(error: &FrameError) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error, FrameError::Read { source, .. } if matches!(source.kind(), WouldBlock | TimedOut))
}

#[cfg(all(test, not(loom)))]
mod test {
    use std::vec::Vec;

    use super::home;

    #[test]
    fn devices_share_the_channels_and_the_first_channel_is_last() {
        let homes = |devices, channels| (0..devices).map(|device| home(device, channels)).collect::<Vec<_>>();
        assert_eq!(homes(2, 1), [0, 0]);
        assert_eq!(homes(1, 2), [1]);
        assert_eq!(homes(4, 4), [1, 2, 3, 0]);
        assert_eq!(homes(5, 2), [1, 0, 1, 0, 1]);
    }
}
