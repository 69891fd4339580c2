// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the credits of one device tell of how fast the target writes it.
//!
//! A credit says how many frames are written, and not how long that took: the target may have waited for the next one. It has not where
//! all that one credit reports was sent when the credit before it came. Then it wrote all the time from the one to the other, and what
//! it wrote in that time is known.
//!
//! That is so while the target is slower than the source, which then waits for credit; and nothing is learned of one that is faster.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use stream_codec::frame::CREDIT_FRAMES_MAX;

/// Frames on their way to the device at most: a first credit lets through no more, and each later one says that as many are written.
const FRAMES_MAX: usize = 128;
const _: () = assert!(CREDIT_FRAMES_MAX == 128, "as many as may be under way");

/// What the target has written since this was asked last.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Written {
    /// In bytes.
    pub(crate) bytes: u64,
    /// Of these, those that it wrote one behind the other, without waiting for any,
    pub(crate) busy_bytes: u64,
    /// and how long that took.
    pub(crate) busy: Duration,
    /// How long the source waited for credit.
    pub(crate) held: Duration,
    /// When the last credit came.
    pub(crate) at: Option<Instant>,
}

/// The account of one device.
#[derive(Debug)]
pub(super) struct Pace {
    /// For each frame that was sent and is not written, where it ends in the device's bytes.
    ends: VecDeque<u64>,
    /// Of which the transport has taken so many, from the first.
    sent_frames: u64,
    written_frames: u64,
    written_bytes: u64,
    /// When the last credit came, and how many frames had been sent by then.
    last: Option<(Instant, u64)>,
    news: Written,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            ends: VecDeque::with_capacity(FRAMES_MAX),
            sent_frames: 0,
            written_frames: 0,
            written_bytes: 0,
            last: None,
            news: Written::default(),
        }
    }

    /// So many frames are out of the source's hands, of so many bytes together; the transport has them, or they queue for it. Told of
    /// each, or not at all: then nothing is learned.
    pub(super) fn sent(&mut self, frames: u64, bytes: u64, is_queued: bool) {
        let known = u64::try_from(self.ends.len()).unwrap_or(u64::MAX).saturating_add(self.written_frames);
        if known.checked_add(1) == Some(frames) && self.ends.len() < FRAMES_MAX {
            self.ends.push_back(bytes);
            // A queue that is always full would say that the target is behind, where a channel is.
            self.sent_frames = if is_queued { self.sent_frames } else { frames };
        }
    }

    /// The source has waited for credit.
    pub(super) fn held(&mut self, time: Duration) {
        self.news.held = self.news.held.saturating_add(time);
    }

    /// A credit says that so many frames are written.
    pub(super) fn written(&mut self, frames: u64, now: Instant) {
        let before_bytes = self.written_bytes;
        while self.written_frames < frames {
            let Some(end) = self.ends.pop_front() else { break };
            (self.written_bytes, self.written_frames) = (end, self.written_frames.saturating_add(1));
        }
        let bytes = self.written_bytes.saturating_sub(before_bytes);
        self.news.bytes = self.news.bytes.saturating_add(bytes);
        self.news.at = Some(now);
        if let Some((since, _)) = self.last.filter(|(_, sent_frames)| *sent_frames >= frames) {
            self.news.busy_bytes = self.news.busy_bytes.saturating_add(bytes);
            self.news.busy = self.news.busy.saturating_add(now.saturating_duration_since(since));
        }
        self.last = Some((now, self.sent_frames));
    }

    pub(super) fn take(&mut self) -> Written {
        core::mem::take(&mut self.news)
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Frames of 10 bytes, of which so many are sent by so many milliseconds, and others written by then. What came of it.
    fn written(course: &[(u32, u64, Option<u64>)]) -> (u64, u64, u128) {
        let (began, mut pace, mut sent) = (Instant::now(), Pace::new(), 0);
        for &(at, sent_frames, written_frames) in course {
            for frame in sent + 1..=sent_frames {
                pace.sent(frame, frame * 10, false);
                sent = frame;
            }
            if let Some(frames) = written_frames {
                pace.written(frames, began + MS * at);
            }
        }
        let news = pace.take();
        assert_eq!(pace.take(), Written::default(), "said once");
        (news.bytes, news.busy_bytes, news.busy.as_millis())
    }

    #[test]
    fn a_target_with_frames_to_write_was_busy_from_one_credit_to_the_next() {
        let held_up = [(8, 8, None), (16, 8, Some(4)), (17, 12, None), (32, 12, Some(8)), (48, 16, Some(12))];
        assert_eq!(written(&held_up), (120, 80, 32), "but for the first, before which it may have waited");
    }

    #[test]
    fn a_target_that_may_have_waited_tells_nothing() {
        // When the first credit came, the last of what the second reports was not sent.
        assert_eq!(written(&[(16, 7, Some(4)), (32, 8, Some(8))]), (80, 0, 0));
        // A pause between the two: all that was sent before it was written.
        assert_eq!(written(&[(16, 8, Some(4)), (32, 8, Some(8)), (500, 12, Some(12))]), (120, 40, 16));
    }

    #[test]
    fn a_credit_may_overtake_what_is_said_of_sending() {
        // Three of four are known to be sent when all are written; the last counts when it is, and for no speed.
        assert_eq!(written(&[(16, 3, Some(4)), (32, 8, Some(8)), (48, 12, Some(12))]), (120, 0, 0));
    }

    #[test]
    fn frames_in_a_queue_are_not_with_the_target() {
        for (is_queued, busy) in [(false, 16), (true, 0)] {
            let (began, mut pace) = (Instant::now(), Pace::new());
            (1..=8).for_each(|frame| pace.sent(frame, frame * 10, is_queued));
            pace.written(4, began + MS * 16);
            pace.written(8, began + MS * 32);
            let news = pace.take();
            assert_eq!((news.bytes, news.busy.as_millis()), (80, busy), "queued: {is_queued}");
        }
    }

    #[test]
    fn who_does_not_say_what_is_sent_learns_nothing_and_keeps_nothing() {
        assert_eq!(written(&[(16, 0, Some(4)), (32, 0, Some(8))]), (0, 0, 0));
        let mut pace = Pace::new();
        (1..=10_000).for_each(|frame| pace.sent(frame, frame * 10, false));
        assert_eq!(pace.ends.len(), FRAMES_MAX, "a file grants no credit");
    }
}
