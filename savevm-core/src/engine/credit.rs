// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the target has room for, as the source knows it, and how much of that it uses: one gate per device.

use std::time::Instant;

use super::pace::{Pace, Written};
use super::reach::{PATIENCE, Reach};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait, wait_timeout};

/// Frames of one device below the credit may be sent.
#[derive(Debug)]
pub(crate) struct Credit {
    state: Mutex<State>,
    raised: Condvar,
}

#[derive(Debug)]
struct State {
    frames: u64,
    /// The first credit that was given; 0 before.
    first: u64,
    pace: Pace,
    reach: Reach,
    is_closed: bool,
}

impl State {
    /// Whether frame `sequence` has to wait: for credit, or because as many as should be are under way.
    const fn is_held(&self, sequence: u64) -> bool {
        let is_granted = sequence < self.frames;
        !self.is_closed && !(is_granted && (self.is_boundless() || self.reach.allows(sequence)))
    }

    const fn is_boundless(&self) -> bool {
        self.frames == u64::MAX
    }
}

impl Credit {
    /// Credit for so many frames, `u64::MAX` where there is nobody to grant any, of which a few are under way at first.
    pub(crate) fn new(frames: u64, few: u64) -> Self {
        let state = State { frames, first: frames, pace: Pace::new(), reach: Reach::new(few), is_closed: false };
        Self { state: Mutex::new(state), raised: Condvar::new() }
    }

    /// The target has room for this many frames in all.
    pub(crate) fn raise(&self, frames: u64) {
        let mut state = lock(&self.state);
        state.frames = state.frames.max(frames);
        if state.first == 0 {
            state.first = frames;
        } else {
            let written = state.frames.saturating_sub(state.first);
            let now = Instant::now();
            state.pace.written(written, now);
            let most = state.first;
            state.reach.written(written, most, now);
        }
        drop(state);
        self.raised.notify_one();
    }

    /// Waits until frame `sequence` may be sent; false if that will never be.
    pub(crate) fn wait(&self, sequence: u64) -> bool {
        self.begin(lock(&self.state), sequence)
    }

    /// Waits until the frame may go, and notes that it does.
    fn begin(&self, mut state: MutexGuard<'_, State>, sequence: u64) -> bool {
        let (mut heard, mut since) = (state.frames, Instant::now());
        while state.is_held(sequence) {
            if sequence >= state.frames {
                state = wait(&self.raised, state);
                continue;
            }
            state = wait_timeout(&self.raised, state, PATIENCE);
            if state.frames == heard {
                let most = state.first;
                state.reach.unheard(since.elapsed(), most);
            } else {
                (heard, since) = (state.frames, Instant::now());
            }
        }
        if !state.is_boundless() {
            state.reach.begin(sequence, Instant::now());
        }
        !state.is_closed
    }

    /// As [`wait`](Self::wait), where each frame before is sent, or in a channel's queue, and they have so many bytes: for what the
    /// credits then tell of the target.
    pub(crate) fn wait_after(&self, sequence: u64, sent_bytes: u64, is_queued: bool) -> bool {
        let mut state = lock(&self.state);
        state.pace.sent(sequence, sent_bytes, is_queued);
        if !state.is_held(sequence) {
            return self.begin(state, sequence);
        }
        let since = Instant::now();
        let may_go = self.begin(state, sequence);
        lock(&self.state).pace.held(since.elapsed());
        may_go
    }

    /// What the target has written since this was asked last.
    pub(crate) fn take_written(&self) -> Written {
        lock(&self.state).pace.take()
    }

    /// How many frames of those sent the target has written: all but what the first credit let through, where each one
    /// that is written raises it.
    pub(crate) fn written(&self) -> u64 {
        let state = lock(&self.state);
        state.frames.saturating_sub(state.first)
    }

    /// Waits until the target has written more than this many; false if that will never be.
    pub(crate) fn wait_written(&self, frames: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.is_closed && state.frames.saturating_sub(state.first) <= frames {
            state = wait(&self.raised, state);
        }
        !state.is_closed
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.raised.notify_all();
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Closed when a test is done with it, well or not.
    struct Closed<'c>(&'c Credit);

    impl Drop for Closed<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    /// Lets frames go as long as they may, and gives the number of each to `work`.
    fn with_a_source(credit: &Credit, work: impl FnOnce(&mpsc::Receiver<u64>)) {
        thread::scope(|scope| {
            let (tell, gone) = mpsc::channel();
            scope.spawn(move || {
                let may_go = |sequence: &u64| credit.wait_after(*sequence, 0, false);
                (0..).take_while(may_go).all(|sequence| tell.send(sequence).is_ok());
            });
            let _closed = Closed(credit);
            work(&gone);
        });
    }

    fn goes_up_to(gone: &mpsc::Receiver<u64>, last: u64) {
        assert_eq!(gone.iter().find(|sequence| *sequence == last), Some(last));
        assert_eq!(gone.recv_timeout(PATIENCE / 10), Err(mpsc::RecvTimeoutError::Timeout), "behind {last}");
    }

    #[test]
    fn a_few_of_many_go_until_they_are_known_to_be_written() {
        let credit = Credit::new(0, 8);
        credit.raise(64);
        with_a_source(&credit, |gone| {
            goes_up_to(gone, 7);
            credit.raise(64 + 4);
            goes_up_to(gone, 11);
        });
    }

    #[test]
    fn no_more_go_than_there_is_credit_for() {
        let credit = Credit::new(0, 8);
        credit.raise(5);
        with_a_source(&credit, |gone| goes_up_to(gone, 4));
    }

    #[test]
    fn a_target_that_tells_seldom_is_not_waited_for_for_ever() {
        let credit = Credit::new(0, 2);
        credit.raise(64);
        with_a_source(&credit, |gone| {
            goes_up_to(gone, 1);
            let next = gone.recv_timeout(PATIENCE * 5);
            assert_eq!(next, Ok(2), "though nothing was heard");
        });
    }

    #[test]
    fn a_file_is_never_full() {
        let credit = Credit::new(u64::MAX, 8);
        let began = Instant::now();
        assert!((0..1000).all(|sequence| credit.wait_after(sequence, 0, false)));
        assert!(began.elapsed() < PATIENCE, "it waited for an answer");
    }
}
