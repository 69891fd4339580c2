// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The caller's thread: it leads, listens, and ends what the other threads are doing.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::net::Shutdown;
use std::vec::Vec;

use stream_codec::frame::Role;

use super::board::{Event, Next};
use super::lane::Lane;
use super::task::{Done, Task};
use super::wire::{Wire, at};
use crate::error::Cause;
use crate::hooks::Hooks;
use crate::link::LinkError;

/// How often a cancel, silence and progress are looked for.
const LOOK: Duration = Duration::from_millis(10);

/// How long a last word may take to go out, and the peer's to come in, when a migration ends early.
const LAST_WORDS: Duration = Duration::from_millis(40);

/// The view of who leads.
pub(crate) struct Helm<'w, 'a> {
    pub(crate) wire: &'w Wire<'a>,
    /// For each device of the stream, the number the caller knows it by.
    pub(crate) local: Vec<usize>,
    shown_bytes: Vec<u64>,
    /// Receivers that have ended.
    ended: usize,
    /// Whether a cancel is still heard.
    pub(crate) is_cancellable: bool,
}

impl<'w, 'a> Helm<'w, 'a> {
    pub(crate) const fn new(wire: &'w Wire<'a>) -> Self {
        Self { wire, local: Vec::new(), shown_bytes: Vec::new(), ended: 0, is_cancellable: true }
    }

    /// The next report, whatever it is but the end of a receiver.
    pub(crate) fn next<H: Hooks + ?Sized>(&mut self, hooks: &mut H) -> Result<Event, Cause> {
        loop {
            if let Some(event) = self.look(hooks)? {
                return Ok(event);
            }
        }
    }

    /// Waits until this many receivers have ended.
    pub(crate) fn wait_receivers<H: Hooks + ?Sized>(&mut self, hooks: &mut H, count: usize) -> Result<(), Cause> {
        while self.ended < count {
            if let Some(event) = self.look(hooks)? {
                return Err(out_of_place(event));
            }
        }
        Ok(())
    }

    /// The next report, if one comes in time.
    pub(crate) fn next_within<H: Hooks + ?Sized>(
        &mut self,
        hooks: &mut H,
        patience: Duration,
    ) -> Result<Option<Event>, Cause> {
        self.look_for(hooks, patience)
    }

    fn look<H: Hooks + ?Sized>(&mut self, hooks: &mut H) -> Result<Option<Event>, Cause> {
        self.look_for(hooks, LOOK)
    }

    fn look_for<H: Hooks + ?Sized>(&mut self, hooks: &mut H, patience: Duration) -> Result<Option<Event>, Cause> {
        if self.is_cancellable && self.wire.cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        let next = self.wire.board.next(patience.min(LOOK));
        self.show_progress(hooks);
        match next {
            Next::Event(Event::ReceiverEnded) => {
                self.ended = self.ended.saturating_add(1);
                Ok(None)
            }
            Next::Event(event) => Ok(Some(event)),
            Next::Failed => Err(self.wire.board.take_failure().unwrap_or(Cause::Cancelled)),
            Next::Nothing => self.check_silence().map(|()| None),
        }
    }

    fn check_silence(&self) -> Result<(), Cause> {
        let patience = self.wire.limits.silence_max;
        let is_file = self.wire.role == Role::File || self.wire.session().is_file();
        if is_file || self.wire.board.silence() < patience {
            return Ok(());
        }
        Err(at(0, LinkError::Silent { seconds: patience.as_secs(), offset: 0 }))
    }

    /// Tells the caller how far the devices are, where that has changed.
    pub(crate) fn show_progress<H: Hooks + ?Sized>(&mut self, hooks: &mut H) {
        let passages = self.wire.passages();
        self.shown_bytes.resize(passages.len(), 0);
        for (index, (passage, shown)) in passages.iter().zip(&mut self.shown_bytes).enumerate() {
            let bytes = passage.bytes.load(Ordering::Relaxed);
            if bytes != *shown {
                *shown = bytes;
                hooks.progress(self.local.get(index).copied().unwrap_or(index), bytes);
            }
        }
    }

    /// Has every device do the same thing at the same time, and gathers what came of it, in the devices' order.
    pub(crate) fn all<H: Hooks + ?Sized>(&mut self, hooks: &mut H, task: Task) -> Result<Vec<Done>, Cause> {
        let passages = self.wire.passages();
        passages.iter().for_each(|passage| passage.mailbox.put(task));
        let mut gathered = Vec::with_capacity(passages.len());
        while gathered.len() < passages.len() {
            match self.next(hooks)? {
                Event::Done { device, done } => gathered.push((device, done)),
                other => return Err(out_of_place(other)),
            }
        }
        gathered.sort_unstable_by_key(|(device, _)| *device);
        Ok(gathered.into_iter().map(|(_, done)| done).collect())
    }

    /// Ends the threads: in good order after a success, at once after a failure, with a word to the peer. Gives the
    /// better cause, where the peer had one.
    pub(crate) fn finish<R>(&mut self, outcome: Result<R, Cause>) -> Result<R, Cause> {
        match outcome {
            Ok(result) => {
                self.wire.close();
                self.wire.lanes.iter().for_each(Lane::drain);
                self.wire.board.wait_threads(self.wire.limits.silence_max, |_, senders| senders == 0);
                Ok(result)
            }
            Err(cause) => Err(self.give_up(cause)),
        }
    }

    fn give_up(&self, cause: Cause) -> Cause {
        let board = &self.wire.board;
        board.stop();
        self.wire.close();
        self.wire.abandon(&cause);
        board.put_back(cause);
        board.wait_threads(LAST_WORDS, |_, senders| senders == 0);
        // The peer answers the end with its own, unless it is hung: only then is the connection cut under its words.
        self.wire.cut(Shutdown::Write);
        board.wait_threads(LAST_WORDS, |receivers, _| receivers == 0);
        self.wire.cut(Shutdown::Both);
        board.take_failure().unwrap_or(Cause::Cancelled)
    }
}

/// A report nobody waits for now: a frame the session lets pass at this point, and still out of place.
pub(crate) fn out_of_place(event: Event) -> Cause {
    match event {
        Event::Control(incoming) => incoming.out_of_place(),
        Event::Hello { .. } => Cause::refused("a Hello where this side waits for something else"),
        Event::Done { .. } | Event::ReceiverEnded => Cause::refused("a report out of order: a fault of this program"),
    }
}
