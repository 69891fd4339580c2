// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the threads of a migration report, and where the one that leads it waits.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use stream_codec::frame::Hello;
use stream_codec::frame::io::Error as FrameError;

use super::task::Done;
use crate::error::Cause;
use crate::link::{Incoming, LinkError};

/// Something a thread has to report.
#[derive(Debug)]
pub(crate) enum Event {
    /// The first word on the connection at this position.
    Hello { position: usize, hello: Hello },
    /// A control frame from the peer.
    Control(Incoming),
    /// Nothing more will be read from a connection.
    ReceiverEnded,
    /// What was asked of a device is done.
    Done { device: usize, done: Done },
}

/// The reports, the first failure, and when something last happened.
#[derive(Debug)]
pub(crate) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    is_stopped: AtomicBool,
    started: Instant,
    /// When the peer last took or said something, or a device call ended, in milliseconds since the start.
    last_ms: AtomicU64,
    /// Device calls under way: while there is one, the peer may be waiting for us.
    device_calls: AtomicUsize,
    /// The peer owes an answer: it is waited for, whatever the devices do meanwhile.
    is_owed_answer: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    failure: Option<Cause>,
    receivers: usize,
    senders: usize,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            is_stopped: AtomicBool::new(false),
            started: Instant::now(),
            last_ms: AtomicU64::new(0),
            device_calls: AtomicUsize::new(0),
            is_owed_answer: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn report(&self, event: Event) {
        self.lock().events.push_back(event);
        self.changed.notify_all();
    }

    /// The first failure counts, unless a later one is the reason for it.
    pub(crate) fn fail(&self, cause: Cause) {
        let mut state = self.lock();
        if state.failure.as_ref().is_none_or(|known| is_better(&cause, known)) {
            state.failure = Some(cause);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The failure that counts, if there is one.
    pub(crate) fn take_failure(&self) -> Option<Cause> {
        self.lock().failure.take()
    }

    /// Gives back a failure that was taken, unless a better one has come.
    pub(crate) fn put_back(&self, cause: Cause) {
        let mut state = self.lock();
        if !state.failure.as_ref().is_some_and(|known| is_better(known, &cause)) {
            state.failure = Some(cause);
        }
    }

    /// The next report, after at most `patience`.
    pub(crate) fn next(&self, patience: Duration) -> Next {
        let mut state = self.lock();
        if state.events.is_empty() && state.failure.is_none() {
            state = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.failure.is_some() {
            return Next::Failed;
        }
        state.events.pop_front().map_or(Next::Nothing, Next::Event)
    }

    /// Waits, after the end, until `is_enough` of the threads' counts (receivers, senders).
    pub(crate) fn wait_threads(&self, patience: Duration, is_enough: impl Fn(usize, usize) -> bool) {
        let until = Instant::now().checked_add(patience);
        let mut state = self.lock();
        while !is_enough(state.receivers, state.senders) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A receiver, or a sender, begins or ends.
    pub(crate) fn count_threads(&self, change: impl FnOnce(&mut usize, &mut usize)) {
        let mut state = self.lock();
        let State { receivers, senders, .. } = &mut *state;
        change(receivers, senders);
        drop(state);
        self.changed.notify_all();
    }

    /// Threads look at this between two calls.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Something moved.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.fetch_max(now, Ordering::Relaxed);
    }

    /// How long nothing has moved, if nobody on this side is what is waited for.
    pub(crate) fn silence(&self) -> Duration {
        if self.device_calls.load(Ordering::Acquire) > 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    /// Makes a call to a device, during which this side is not waiting for the peer.
    pub(crate) fn in_device<R>(&self, call: impl FnOnce() -> R) -> R {
        self.device_calls.fetch_add(1, Ordering::AcqRel);
        let began = Instant::now();
        let result = call();
        if self.is_owed_answer.load(Ordering::Acquire) {
            self.excuse(began.elapsed());
        } else {
            self.touch();
        }
        self.device_calls.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Whether the peer owes an answer: then a device that is asked for its sizes again and again hides no silence.
    pub(crate) fn owe_answer(&self, is_owed: bool) {
        self.is_owed_answer.store(is_owed, Ordering::Release);
    }

    /// Time that was not silence.
    fn excuse(&self, time: Duration) {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (now, time) = (ms(self.started.elapsed()), ms(time));
        // Between the two nothing is lost but the time of a call beside this one.
        let last = self.last_ms.load(Ordering::Relaxed);
        self.last_ms.fetch_max(last.saturating_add(time).min(now), Ordering::Relaxed);
    }
}

/// Whether a failure that came later is the better reason: the peer's own, where there was only the broken connection it
/// left, and what happened to a connection, where a thread was quicker to report that it cannot be used any more.
fn is_better(later: &Cause, earlier: &Cause) -> bool {
    match (earlier, later) {
        (earlier, later) if is_aftermath(earlier) => !is_aftermath(later),
        (Cause::Link { .. }, Cause::Peer { .. }) => true,
        _ => false,
    }
}

fn is_aftermath(cause: &Cause) -> bool {
    let Cause::Link { error, .. } = cause else { return false };
    matches!(**error, LinkError::Frame { error: FrameError::AfterError { .. } })
}

/// What came of waiting for a report.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Event),
    /// Time to look around.
    Nothing,
    Failed,
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::engine::wire::at;

    fn aftermath() -> Cause {
        at(0, FrameError::AfterError { offset: 7 })
    }

    fn full() -> Cause {
        let source = std::io::ErrorKind::StorageFull.into();
        at(0, FrameError::Write { what: "a Data frame", offset: 7, source })
    }

    fn counts(board: &Board) -> std::string::String {
        std::format!("{:?}", board.take_failure())
    }

    #[test]
    fn a_peer_that_owes_an_answer_is_silent_whatever_the_devices_do() {
        const NAP: Duration = Duration::from_millis(40);
        let board = Board::new();
        std::thread::sleep(NAP);
        board.in_device(|| ());
        assert!(board.silence() < NAP, "nobody waits for the peer");
        board.owe_answer(true);
        std::thread::sleep(NAP);
        board.in_device(|| ());
        assert!(board.silence() >= NAP, "a short call is no word of the peer");
        let before = board.silence();
        board.in_device(|| std::thread::sleep(NAP * 4));
        assert!(board.silence() < before + NAP * 3, "the time of a long call does not count");
        board.touch();
        board.owe_answer(false);
        assert!(board.silence() < NAP);
    }

    #[test]
    fn the_reason_counts_whoever_is_quicker() {
        for order in [[aftermath, full], [full, aftermath]] {
            let board = Board::new();
            order.into_iter().for_each(|cause| board.fail(cause()));
            assert!(counts(&board).contains("StorageFull"));
            board.fail(order[0]());
            let taken = board.take_failure().unwrap();
            board.fail(order[1]());
            board.put_back(taken);
            assert!(counts(&board).contains("StorageFull"));
        }
    }
}
